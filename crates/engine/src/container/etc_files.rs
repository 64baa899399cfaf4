//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`: a file of each per container, made anew at
//! every start and mounted over the image's.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::record::Record;
use crate::{
    error::{Context, Error, Result},
    network::{Mode, RESOLVER, Started},
    store::{self, Durability},
};

/// What every container's `/etc/hosts` begins with, as in Docker.
const HOSTS: &str = "127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\n\
                     fe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\n\
                     ff02::1\tip6-allnodes\n\
                     ff02::2\tip6-allrouters\n";

/// This machine's servers for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Asked where this machine's own servers cannot be reached, as in Docker.
const PUBLIC_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// The name that stands for the address of the container's gateway.
const HOST_GATEWAY: &str = "host-gateway";

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

    /// Writes the files of a container that has a network of its own, or this machine's.
    pub(super) fn write(&self, record: &Record, mode: &Mode, surroundings: &Surroundings<'_>) -> Result<()> {
        let config = &record.config;
        let hostname = match config.domainname.as_str() {
            "" => config.hostname.clone(),
            domain => format!("{}.{domain}", config.hostname),
        };
        let own_hosts = if *mode == Mode::Host { read("/etc/hosts")? } else { HOSTS.to_owned() };
        let extra = record.host_config.extra_hosts.as_deref().unwrap_or_default();
        let mut hosts = hosts(own_hosts, extra, surroundings.host_gateway)?;
        for (address, names) in surroundings.linked {
            hosts.push_str(&format!("{address}\t{}\n", names.join(" ")));
        }
        for address in surroundings.addresses {
            hosts.push_str(&own_line(record, *address));
        }
        let resolv_conf = resolv_conf(&read(RESOLV_CONF)?, record, Servers::of(mode, surroundings.resolver));
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

    /// A running container has come into a network.
    pub(super) fn join(&self, record: &Record, joined: &Started) -> Result<()> {
        let mut hosts = read_file(&self.hosts)?;
        for address in &joined.addresses {
            hosts.push_str(&own_line(record, *address));
        }
        write_in_place(&self.hosts, &hosts)?;
        // It is told of the resolver, unless it has changed what it was told before.
        let machine = read(RESOLV_CONF)?;
        let text = |servers| resolv_conf(&machine, record, servers);
        if joined.resolver && read_file(&self.resolv_conf)? == text(Servers::Reachable) {
            write_in_place(&self.resolv_conf, &text(Servers::Resolver))?;
        }
        Ok(())
    }

    /// A running container has left a network.
    pub(super) fn leave(&self, record: &Record, gone: &[IpAddr]) -> Result<()> {
        let gone: Vec<String> = gone.iter().map(|address| own_line(record, *address)).collect();
        let hosts = read_file(&self.hosts)?;
        let kept = hosts.split_inclusive('\n').filter(|line| !gone.iter().any(|gone| gone == line));
        write_in_place(&self.hosts, &kept.collect::<String>())
    }
}

/// What is around a container that starts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Surroundings<'a> {
    /// Its own addresses.
    pub(super) addresses: &'a [IpAddr],
    /// Others that it knows by names of its own.
    pub(super) linked: &'a [(IpAddr, Vec<String>)],
    /// It has the engine's resolver.
    pub(super) resolver: bool,
    /// What `host-gateway` means.
    pub(super) host_gateway: Option<IpAddr>,
}

/// Which servers a container is told of when it does not name any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Servers {
    /// Those of this machine.
    Machine,
    /// Those that can be reached from a namespace of its own.
    Reachable,
    /// The engine's resolver, which asks the others.
    Resolver,
}

impl Servers {
    fn of(mode: &Mode, resolver: bool) -> Self {
        match mode {
            Mode::Network(_) if resolver => Self::Resolver,
            Mode::Network(_) => Self::Reachable,
            _ => Self::Machine,
        }
    }
}

/// The line of a container's own in its `/etc/hosts`.
fn own_line(record: &Record, address: IpAddr) -> String {
    let config = &record.config;
    match config.domainname.as_str() {
        "" => format!("{address}\t{}\n", config.hostname),
        domain => format!("{address}\t{0}.{domain} {0}\n", config.hostname),
    }
}

/// A file of the container's; empty when it is gone.
fn read_file(path: &Path) -> Result<String> {
    read(&path.to_string_lossy())
}

/// Writes a file that is mounted, and therefore must stay the same one.
fn write_in_place(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("write {}", path.display()))
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

fn hosts(mut text: String, extra: &[String], host_gateway: Option<IpAddr>) -> Result<String> {
    for host in extra {
        check_extra_host(host)?;
        let Some((name, address)) = host.split_once(':') else { continue };
        if address != HOST_GATEWAY {
            text.push_str(&format!("{}\t{name}\n", unbracketed(address)));
        } else if let Some(gateway) = host_gateway {
            text.push_str(&format!("{gateway}\t{name}\n"));
        } else {
            return Err(Error::system("unable to derive the IP value for host-gateway"));
        }
    }
    Ok(text)
}

/// This machine's resolver, with what the container's configuration says instead.
fn resolv_conf(machine: &str, record: &Record, kind: Servers) -> String {
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
    match kind {
        Servers::Machine => {}
        Servers::Reachable => {
            // Loopback is another one in the container.
            let loopback = |server: &str| server.parse().is_ok_and(|address: IpAddr| address.is_loopback());
            if host_config.dns.is_empty() {
                servers.retain(|server| !loopback(server));
            }
            if servers.is_empty() {
                servers = PUBLIC_SERVERS.map(str::to_owned).to_vec();
            }
        }
        Servers::Resolver => {
            servers = vec![RESOLVER.to_string()];
            if !options.iter().any(|option| option.starts_with("ndots:")) {
                options.push("ndots:0".to_owned());
            }
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
        let gateway = Some(IpAddr::from([172, 17, 0, 1]));
        let text = hosts(HOSTS.to_owned(), &extra, gateway).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.5\tdb\n::5\tv6\n172.17.0.1\tup\n"));
        assert!(hosts(String::new(), &extra, None).is_err());
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
            resolv_conf(machine, &record, Servers::Machine),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch lan corp\noptions ndots:2\n"
        );
        record.host_config.dns = vec!["1.1.1.1".to_owned()];
        record.host_config.dns_search = vec![".".to_owned()];
        let own = resolv_conf(machine, &record, Servers::Reachable);
        assert_eq!(own, "nameserver 1.1.1.1\noptions ndots:2\n");
        let resolver = resolv_conf(machine, &record, Servers::Resolver);
        assert_eq!(resolver, "nameserver 127.0.0.11\noptions ndots:2\n");
    }

    #[test]
    fn a_loopback_server_is_of_no_use_in_a_container() {
        let record = testing::record("web");
        let text = |machine, kind| resolv_conf(machine, &record, kind);
        let two = "nameserver 127.0.0.53\nnameserver 10.0.0.2\n";
        assert_eq!(text(two, Servers::Reachable), "nameserver 10.0.0.2\n");
        assert_eq!(text(two, Servers::Machine), two);
        assert_eq!(text("nameserver ::1\n", Servers::Reachable), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert_eq!(text("", Servers::Resolver), "nameserver 127.0.0.11\noptions ndots:0\n");
    }

    #[test]
    fn a_running_container_comes_into_networks_and_leaves_them() {
        let directory = tempfile::tempdir().unwrap();
        let files = EtcFiles::in_directory(directory.path());
        let mut record = testing::record("web");
        record.config.hostname = "web".to_owned();
        let mode = Mode::of("bridge");
        files.write(&record, &mode, &Surroundings::default()).unwrap();
        let hosts = fs::read_to_string(&files.hosts).unwrap();
        let resolv_conf = || fs::read_to_string(&files.resolv_conf).unwrap();
        assert!(!resolv_conf().contains("127.0.0.11"));
        let addresses = vec![IpAddr::from([10, 0, 0, 2])];
        let joined = Started { addresses, resolver: true, ..Started::default() };
        files.join(&record, &joined).unwrap();
        assert_eq!(fs::read_to_string(&files.hosts).unwrap(), format!("{hosts}10.0.0.2\tweb\n"));
        assert!(resolv_conf().starts_with("nameserver 127.0.0.11\n"));
        files.leave(&record, &joined.addresses).unwrap();
        assert_eq!(fs::read_to_string(&files.hosts).unwrap(), hosts);
        // What the container writes itself is left alone.
        fs::write(&files.resolv_conf, "nameserver 1.1.1.1\n").unwrap();
        files.join(&record, &joined).unwrap();
        assert_eq!(resolv_conf(), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn files_are_written_for_a_container() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = testing::record("web");
        record.config.hostname = "web".to_owned();
        record.config.domainname = "example.org".to_owned();
        let files = EtcFiles::in_directory(directory.path());
        files.write(&record, &Mode::None, &Surroundings::default()).unwrap();
        assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "web.example.org\n");
        assert_eq!(fs::read_to_string(&files.hosts).unwrap(), HOSTS);
    }
}
