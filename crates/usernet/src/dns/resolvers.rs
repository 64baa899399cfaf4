//! The host's name servers and search domains, as its `resolv.conf` lists them now (resolv.conf(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long what was read is believed without a look at the file.
const FRESH: Duration = Duration::from_secs(1);
/// The file belongs to the host, but need not be one that a person wrote.
const MOST_BYTES: u64 = 64 << 10;
const MOST_SERVERS: usize = 8;

/// What tells one state of a file from another.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

pub(super) struct Resolvers {
    path: PathBuf,
    port: u16,
    looked: Option<Instant>,
    stamp: Stamp,
    list: List,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) servers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl Resolvers {
    pub(super) fn new(path: &Path, port: u16) -> Self {
        Resolvers { path: path.to_owned(), port, looked: None, stamp: None, list: List::default() }
    }

    pub(super) fn servers(&mut self) -> &[SocketAddr] {
        self.look();
        &self.list.servers
    }

    pub(super) fn search(&mut self) -> &[String] {
        self.look();
        &self.list.search
    }

    /// Reads the file again if it has changed.
    fn look(&mut self) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now.duration_since(looked) < FRESH) {
            return;
        }
        let first = self.looked.replace(now).is_none();
        let stamp = stamp(&self.path);
        if first || stamp != self.stamp {
            self.stamp = stamp;
            self.list = read(&self.path, self.port);
            tracing::debug!(servers = ?self.list.servers, search = ?self.list.search, "name servers of the host");
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let data = fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.len()))
}

fn read(path: &Path, port: u16) -> List {
    let text = match fs::metadata(path) {
        Ok(data) if data.is_file() && data.len() <= MOST_BYTES => {
            fs::read_to_string(path).unwrap_or_default()
        }
        _ => String::new(),
    };
    parse(&text, port)
}

pub(super) fn parse(text: &str, port: u16) -> List {
    let mut list = List::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                if let Some(address) = address.filter(|_| list.servers.len() < MOST_SERVERS) {
                    list.servers.push(SocketAddr::new(address, port));
                }
            }
            // The last line of the two kinds counts.
            Some("search" | "domain") => {
                list.search = words.map(|word| word.trim_end_matches('.').to_owned()).collect();
                list.search.retain(|word| !word.is_empty());
            }
            _ => {}
        }
    }
    if list.servers.is_empty() {
        // What a C library does then, too.
        list.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_domains_are_read() {
        let list = parse(
            "# comment\nnameserver 10.0.0.1\nnameserver ::1 x\nnameserver fe80::1%eth0\nnameserver no\n\
             domain a.org\nsearch b.org. c.org\noptions edns0\n",
            53,
        );
        let servers = [SocketAddr::new([10, 0, 0, 1].into(), 53), "[::1]:53".parse().unwrap()];
        assert_eq!(list.servers, servers);
        assert_eq!(list.search, ["b.org", "c.org"]);
        assert_eq!(parse("", 53).servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut resolvers = Resolvers::new(&path, 53);
        assert_eq!(resolvers.servers()[0].to_string(), "127.0.0.1:53");
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        // As if the time were over in which it is not looked at.
        resolvers.looked = resolvers.looked.and_then(|looked| looked.checked_sub(FRESH));
        assert_eq!(resolvers.servers()[0].to_string(), "10.0.0.1:53");
        let new = folder.path().join("new");
        fs::write(&new, "nameserver 10.0.0.2\n").unwrap();
        fs::rename(&new, &path).unwrap();
        resolvers.looked = resolvers.looked.and_then(|looked| looked.checked_sub(FRESH));
        assert_eq!(resolvers.servers()[0].to_string(), "10.0.0.2:53");
    }
}
