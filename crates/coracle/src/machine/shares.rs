//! Folders of the host that a machine has, at the same paths.

use std::{fmt, path::Path, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use wire::settings::Share;

/// Says that the machine has none.
const NONE: &str = "none";
const READ_ONLY: &str = ":ro";

/// What the guest needs for itself: no share can be at these paths or above them.
const GUESTS_OWN: [&str; 14] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/mnt",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr/bin",
    "/usr/sbin",
    "/var/lib/coracle",
];
/// And none below these, where the guest's kernel and engine have files of theirs.
const GUESTS_TREES: [&str; 6] = ["/dev", "/mnt", "/proc", "/run", "/sys", "/var/lib/coracle"];

/// The shares as the user names them: `PATH[:ro]` each, in the file a list, elsewhere separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub(crate) struct Shares(Vec<Share>);

impl Shares {
    #[cfg(test)]
    pub(crate) const NONE: Shares = Shares(Vec::new());

    pub(crate) fn concat(all: &[Shares]) -> Shares {
        Shares(all.iter().flat_map(|shares| shares.0.clone()).collect())
    }

    pub(crate) fn as_slice(&self) -> &[Share] {
        &self.0
    }

    /// Those of a machine for which none were chosen: the home directory, and where programs keep what is temporary. One
    /// that is not there, or inside the other, is left out.
    pub(crate) fn usual(home: Option<PathBuf>, temporary: PathBuf) -> Shares {
        let share = |path: PathBuf| {
            let share = path.to_str().and_then(|path| parse(path).ok()).filter(|_| path.is_dir())?;
            check_places(std::slice::from_ref(&share)).is_ok().then_some(share)
        };
        let (home, temporary) = (home.and_then(share), share(temporary));
        let inside = |inner: &Option<Share>, outer: &Option<Share>| match (inner, outer) {
            (Some(inner), Some(outer)) => Path::new(&inner.path).starts_with(&outer.path),
            _ => false,
        };
        match (inside(&home, &temporary), inside(&temporary, &home)) {
            (true, _) => Shares(temporary.into_iter().collect()),
            (false, true) => Shares(home.into_iter().collect()),
            (false, false) => Shares(home.into_iter().chain(temporary).collect()),
        }
    }

    /// That the guest can have them, and the host has them.
    pub(crate) fn check(&self) -> Result<()> {
        check_places(&self.0)?;
        for Share { path, .. } in &self.0 {
            let found = std::fs::metadata(path).with_context(|| format!("shares: cannot share {path}"))?;
            if !found.is_dir() {
                bail!("shares: {path} is not a folder; share the folder that it is in");
            }
        }
        Ok(())
    }
}

fn check_places(shares: &[Share]) -> Result<()> {
    for (place, Share { path, .. }) in shares.iter().enumerate() {
        let path = Path::new(path);
        if let Some(own) = GUESTS_OWN.iter().find(|own| Path::new(own).starts_with(path)) {
            bail!("shares: {} cannot be shared: the machine has its own {own}", path.display());
        }
        if let Some(tree) = GUESTS_TREES.iter().find(|tree| path.starts_with(tree)) {
            bail!("shares: {} cannot be shared: the machine has its own {tree}", path.display());
        }
        for (other, Share { path: above, .. }) in shares.iter().enumerate() {
            if other != place && path.starts_with(above) {
                bail!(
                    "shares: {} is inside {above}, which is shared as well; leave one of them out",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// Reads `PATH[:ro]`.
fn parse(text: &str) -> Result<Share, String> {
    let (path, read_only) = match text.strip_suffix(READ_ONLY) {
        Some(path) => (path, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(format!("{text:?} is not an absolute path, or one with {READ_ONLY} behind it"));
    }
    let mut normal = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part == "." || part == ".." {
            return Err(format!("{text:?}: the path must not go by way of \"{part}\""));
        }
        normal.push('/');
        normal.push_str(part);
    }
    if normal.is_empty() {
        normal.push('/');
    }
    Ok(Share { path: normal, read_only })
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            NONE => Ok(Shares::default()),
            _ => text.split(',').map(parse).collect::<Result<_, _>>().map(Shares),
        }
    }
}

impl TryFrom<Vec<String>> for Shares {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        texts.iter().map(|text| parse(text)).collect::<Result<_, _>>().map(Shares)
    }
}

impl From<Shares> for Vec<String> {
    fn from(shares: Shares) -> Vec<String> {
        shares.0.iter().map(|share| share.to_string()).collect()
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (place, share) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{share}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str) -> Shares {
        text.parse().unwrap()
    }

    #[test]
    fn shares_are_read_as_they_are_written() {
        for text in ["none", "/home/me", "/home/me,/data:ro"] {
            assert_eq!(shares(text).to_string(), text);
        }
        assert_eq!(shares("//home/me/:rw").to_string(), "/home/me");
        for wrong in ["", "home", "/a/../b", "/a,b", "/a/./b:ro"] {
            assert!(wrong.parse::<Shares>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_guest_keeps_what_is_its_own_and_shares_do_not_nest() {
        let refused = [
            ("/", "its own /bin"),
            ("/var", "its own /var/lib/coracle"),
            ("/proc/1", "its own /proc"),
            ("/usr", "its own /usr/bin"),
            ("/home,/home/me", "/home/me is inside /home"),
            ("/home/me,/home/me", "is inside"),
        ];
        for (text, words) in refused {
            let error = check_places(shares(text).as_slice()).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        check_places(shares("/home/me,/tmp,/usr/local/src,/etc/app,/home/men").as_slice()).unwrap();
    }

    #[test]
    fn a_share_must_be_a_folder_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        shares(folder.path().to_str().unwrap()).check().unwrap();
        assert!(shares(file.to_str().unwrap()).check().unwrap_err().to_string().contains("not a folder"));
        assert!(shares("/no/such/folder").check().is_err());
    }

    #[test]
    fn the_usual_shares_are_home_and_temporary_as_far_as_they_are_there() {
        let home = tempfile::tempdir().unwrap();
        let inside = home.path().join("tmp");
        std::fs::create_dir(&inside).unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(Shares::usual(Some(home.path().into()), inside.clone()).to_string(), path);
        assert_eq!(Shares::usual(Some(inside), home.path().into()).to_string(), path);
        assert_eq!(Shares::usual(None, "/no/such/folder".into()).to_string(), NONE);
    }
}
