//! Who a container's processes run as, by the image's own lists of users and groups.

use std::path::Path;

use super::super::in_root::Root;
use crate::error::{Context, Error, Result};

/// The largest user or group number, as in Docker.
const MAX_ID: u64 = (1 << 31) - 1;

/// A resolved user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// All groups, the first one included.
    pub groups: Vec<u32>,
}

impl User {
    /// Resolves `--user` (`name|uid[:group|gid]`, or empty for root) and `--group-add` by `/etc/passwd`
    /// and `/etc/group` below `rootfs`.
    ///
    /// # Errors
    /// Names that are not there, in Docker's words; lists that cannot be read.
    pub fn resolve(rootfs: &Path, user: &str, group_add: &[String]) -> Result<Self> {
        let root = Root::open(rootfs).context(|| format!("open {}", rootfs.display()))?;
        Self::resolve_in(&root, user, group_add)
    }

    /// [`User::resolve`] in a root that is open.
    pub(crate) fn resolve_in(root: &Root, user: &str, group_add: &[String]) -> Result<Self> {
        // Like Docker, do without a list that cannot be read: numbers need none.
        let read = |path| root.read(Path::new(path)).unwrap_or_default();
        resolve(user, group_add, &read("/etc/passwd"), &read("/etc/group"))
    }
}

fn resolve(user: &str, group_add: &[String], users: &str, groups: &str) -> Result<User> {
    let mut parts = user.splitn(2, ':').map(str::trim);
    let (user, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let number = user.parse::<u64>().ok();
    let entry = users.lines().filter_map(UserEntry::parse).find(|entry| match (user, number) {
        ("", _) => entry.uid == 0,
        (_, Some(number)) => u64::from(entry.uid) == number,
        (name, None) => entry.name == name,
    });
    let (uid, mut gid) = match (&entry, user, number) {
        (Some(entry), ..) => (entry.uid, entry.gid),
        (None, "", _) => (0, 0),
        (None, _, Some(number)) => (in_range(number)?, 0),
        (None, ..) => {
            return Err(Error::system(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let entries = || groups.lines().filter_map(GroupEntry::parse);
    let mut others = Vec::new();
    if !group.is_empty() {
        gid = find_group(entries(), group).ok_or_else(|| {
            Error::system(format!("unable to find group {group}: no matching entries in group file"))
        })??;
    } else if let Some(entry) = &entry {
        others.extend(
            entries()
                .filter(|group| group.members.split(',').any(|name| name == entry.name))
                .map(|group| group.gid),
        );
    }
    for group in group_add {
        others.push(find_group(entries(), group).ok_or_else(|| {
            Error::system(format!("Unable to find group {group}: no matching entries in group file"))
        })??);
    }
    let mut all = vec![gid];
    for other in others {
        if !all.contains(&other) {
            all.push(other);
        }
    }
    Ok(User { uid, gid, groups: all })
}

/// A group by name or number; a number needs no entry.
fn find_group<'a>(mut entries: impl Iterator<Item = GroupEntry<'a>>, group: &str) -> Option<Result<u32>> {
    match group.parse::<u64>() {
        Ok(number) => Some(in_range(number)),
        Err(_) => entries.find(|entry| entry.name == group).map(|entry| Ok(entry.gid)),
    }
}

fn in_range(number: u64) -> Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|_| number <= MAX_ID)
        .ok_or_else(|| Error::system(format!("uids and gids must be in range 0-{MAX_ID}")))
}

/// The home directory of `uid` in the text of `/etc/passwd`.
pub(crate) fn home(users: &str, uid: u32) -> Option<String> {
    users
        .lines()
        .filter_map(UserEntry::parse)
        .find(|entry| entry.uid == uid)
        .map(|entry| entry.home.to_owned())
        .filter(|home| !home.is_empty())
}

/// A line of `passwd(5)`.
struct UserEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> UserEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (_, uid, gid) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }
}

/// A line of `group(5)`.
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\n\nnonsense\nwww:x:33:33::/var/www:\n1000:x:7:7::/seven:\n";
    const GROUPS: &str = "root:x:0:\nwww:x:33:\ntty:x:5:www,root\nvideo:x:44:www\n";

    fn user(user: &str) -> User {
        resolve(user, &[], USERS, GROUPS).unwrap()
    }

    #[test]
    fn names_and_numbers_mean_what_they_do_in_docker() {
        assert_eq!(user(""), User { uid: 0, gid: 0, groups: vec![0, 5] });
        assert_eq!(user("www"), User { uid: 33, gid: 33, groups: vec![33, 5, 44] });
        assert_eq!(user("33"), user("www"));
        // A number is a uid also where a user has it for a name.
        assert_eq!(user("1000"), User { uid: 1000, gid: 0, groups: vec![0] });
        // With a group, only that.
        assert_eq!(user("www:video"), User { uid: 33, gid: 44, groups: vec![44] });
        assert_eq!(user("5:6"), User { uid: 5, gid: 6, groups: vec![6] });
        let added = resolve("5", &["tty".to_owned(), "99".to_owned()], USERS, GROUPS).unwrap();
        assert_eq!(added.groups, [0, 5, 99]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = |user: &str| resolve(user, &[], USERS, GROUPS).unwrap_err().to_string();
        assert_eq!(error("nobody"), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(error("www:nosuch"), "unable to find group nosuch: no matching entries in group file");
        assert_eq!(error("4294967295"), "uids and gids must be in range 0-2147483647");
        assert!(resolve("", &["nosuch".to_owned()], "", "").is_err());
    }

    #[test]
    fn an_image_without_lists_has_root() {
        assert_eq!(resolve("", &[], "", "").unwrap(), User { uid: 0, gid: 0, groups: vec![0] });
        assert_eq!(home(USERS, 33).unwrap(), "/var/www");
        assert_eq!(home("", 0), None);
    }
}
