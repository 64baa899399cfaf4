//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`: a file of each per container, made anew at
//! every start and mounted over the image's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::record::Record;
use crate::{
    error::{Context, Error, Result},
    network::Mode,
    store::{self, Durability},
};

/// What every container's `/etc/hosts` begins with, as in Docker.
const HOSTS: &str = "127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\n\
                     fe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\n\
                     ff02::1\tip6-allnodes\n\
                     ff02::2\tip6-allrouters\n";

/// The name that stands for the address of the container's gateway.
pub(super) const HOST_GATEWAY: &str = "host-gateway";

/// Where a container's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EtcFiles {
    pub(super) hostname: PathBuf,
    pub(super) hosts: PathBuf,
    pub(super) resolv_conf: PathBuf,
}

impl EtcFiles {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self {
            hostname: directory.join("hostname"),
            hosts: directory.join("hosts"),
            resolv_conf: directory.join("resolv.conf"),
        }
    }

    /// Writes the files of a container that has a network of its own.
    pub(super) fn write(&self, record: &Record, mode: &Mode) -> Result<()> {
        let config = &record.config;
        let hostname = match config.domainname.as_str() {
            "" => config.hostname.clone(),
            domain => format!("{}.{domain}", config.hostname),
        };
        let own_hosts = if *mode == Mode::Host { read("/etc/hosts")? } else { HOSTS.to_owned() };
        let hosts = hosts(own_hosts, record.host_config.extra_hosts.as_deref().unwrap_or_default())?;
        let resolv_conf = resolv_conf(&read("/etc/resolv.conf")?, record);
        for (path, text) in [
            (&self.hostname, format!("{hostname}\n")),
            (&self.hosts, hosts),
            (&self.resolv_conf, resolv_conf),
        ] {
            store::replace(path, text.as_bytes(), Durability::Renamed)
                .context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

/// A file of this machine; empty when it has none.
fn read(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.context(|| format!("read {path}")),
    }
}

/// Checks one `--add-host`.
///
/// # Errors
/// Docker's words for what is none.
pub(super) fn check_extra_host(text: &str) -> Result<()> {
    let Some((name, address)) = text.split_once(':').filter(|(name, _)| !name.is_empty()) else {
        return Err(Error::invalid(format!("bad format for add-host: {text:?}")));
    };
    let _ = name;
    if address != HOST_GATEWAY && unbracketed(address).parse::<std::net::IpAddr>().is_err() {
        return Err(Error::invalid(format!("invalid IP address in add-host: {address:?}")));
    }
    Ok(())
}

fn unbracketed(address: &str) -> &str {
    address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address)
}

fn hosts(mut text: String, extra: &[String]) -> Result<String> {
    for host in extra {
        check_extra_host(host)?;
        // A gateway comes with a network; `create` has warned.
        if let Some((name, address)) = host.split_once(':')
            && address != HOST_GATEWAY
        {
            text.push_str(&format!("{}\t{name}\n", unbracketed(address)));
        }
    }
    Ok(text)
}

/// This machine's resolver, with what the container's configuration says instead.
fn resolv_conf(machine: &str, record: &Record) -> String {
    let host_config = &record.host_config;
    let mut servers = host_config.dns.clone();
    let mut search = host_config.dns_search.clone();
    let mut options = host_config.dns_options.clone();
    for line in machine.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let rest = || line.split_whitespace().skip(1).map(str::to_owned);
        match keyword {
            "nameserver" if host_config.dns.is_empty() => servers.extend(rest().take(1)),
            "search" | "domain" if host_config.dns_search.is_empty() => {
                search = rest().collect();
            }
            "options" if host_config.dns_options.is_empty() => options.extend(rest()),
            _ => {}
        }
    }
    // A single dot is how a user asks for no search list.
    search.retain(|domain| domain != ".");
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (keyword, words) in [("search", search), ("options", options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing;

    #[test]
    fn extra_hosts_follow_the_usual_ones() {
        let extra = ["db:10.0.0.5", "v6:[::5]", "up:host-gateway"].map(str::to_owned);
        let text = hosts(HOSTS.to_owned(), &extra).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.5\tdb\n::5\tv6\n"));
        for (text, message) in [
            ("db", "bad format for add-host: \"db\""),
            (":1.2.3.4", "bad format for add-host: \":1.2.3.4\""),
            ("db:nowhere", "invalid IP address in add-host: \"nowhere\""),
        ] {
            assert_eq!(check_extra_host(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_machines_resolver_gives_way_to_the_containers() {
        let machine =
            "# comment\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch lan corp\noptions ndots:2\n";
        let mut record = testing::record("web");
        assert_eq!(
            resolv_conf(machine, &record),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch lan corp\noptions ndots:2\n"
        );
        record.host_config.dns = vec!["1.1.1.1".to_owned()];
        record.host_config.dns_search = vec![".".to_owned()];
        assert_eq!(resolv_conf(machine, &record), "nameserver 1.1.1.1\noptions ndots:2\n");
    }

    #[test]
    fn files_are_written_for_a_container() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = testing::record("web");
        record.config.hostname = "web".to_owned();
        record.config.domainname = "example.org".to_owned();
        let files = EtcFiles::in_directory(directory.path());
        files.write(&record, &Mode::None).unwrap();
        assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "web.example.org\n");
        assert_eq!(fs::read_to_string(&files.hosts).unwrap(), HOSTS);
    }
}
