//! What keeps the process to the shares, should a guest find a fault in it.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use crate::Share;

/// The newest rules known; a kernel that knows fewer is asked for those.
const RULES: ABI = ABI::V6;

/// Why the process could not be locked up.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("the kernel refuses the rules")]
    Rules(#[from] RulesetError),
    #[error("cannot open a share to make a rule for it")]
    Share(#[from] landlock::PathFdError),
}

/// From here on this thread, and those it starts, open nothing that is not below a share, make no TCP connection and signal
/// nobody outside (landlock(7)). A kernel without Landlock is no reason not to serve: then the walls are those that the
/// requests meet in any case, which is told in the log.
pub fn enter(shares: &[Share]) -> Result<(), JailError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?;
    for share in shares {
        let access = if share.read_only { AccessFs::from_read(RULES) } else { AccessFs::from_all(RULES) };
        // Nothing here is ever run.
        let access = access & !AccessFs::Execute;
        rules = rules.add_rule(PathBeneath::new(PathFd::new(&share.path)?, access))?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        tracing::warn!(
            "this kernel has no Landlock: files outside the shares are kept from the guest by checks alone"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, io, thread};

    use super::*;

    #[test]
    fn what_is_no_share_cannot_be_opened_and_a_read_only_one_not_written() {
        let folders =
            [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [open, read_only, closed] = folders.each_ref().map(|folder| folder.path().join("file"));
        for file in [&open, &read_only, &closed] {
            fs::write(file, "text").unwrap();
        }
        let share = |place: usize, read_only| Share { path: folders[place].path().to_owned(), read_only };
        let shares = [share(0, false), share(1, true)];
        // The rules hold for a thread.
        let jailed = thread::spawn(move || {
            enter(&shares).unwrap();
            let kind = |result: io::Result<()>| result.err().map(|error| error.kind());
            [
                kind(fs::write(&open, "more")),
                kind(fs::read(&read_only).map(drop)),
                kind(fs::write(&read_only, "more")),
                kind(fs::read(&closed).map(drop)),
                kind(fs::read("/etc/passwd").map(drop)),
                kind(std::net::TcpStream::connect("127.0.0.1:1").map(drop)),
            ]
        });
        let denied = Some(io::ErrorKind::PermissionDenied);
        assert_eq!(jailed.join().unwrap(), [None, None, denied, denied, denied, denied]);
    }
}
