//! `config.toml`: what the user chose for a machine. What is not in it follows the host.

use std::{fmt::Display, fs, io, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item};
use vmm::Accel;
use wire::settings::Proxies;

use super::{
    home::write_atomically,
    proxy::{self, ProxyUrl},
    shares::Shares,
    size::{GIB, MIB, Size},
};
use crate::platform;

/// The keys of the file, in the order in which they are shown.
pub(crate) const KEYS: [&str; 9] =
    ["cpus", "memory", "disk", "accel", "shares", "http-proxy", "https-proxy", "no-proxy", "container-proxy"];

/// More virtual CPUs than this help nobody and cost memory in the guest.
const MAX_CPUS: u8 = 64;
/// Below this the kernel and the engine leave nothing for containers.
const MIN_MEMORY: Size = Size::whole(512 * MIB);
/// Below this the file system's own tables and one image fill the disk.
const MIN_DISK: Size = Size::whole(GIB);
/// 64 TiB: beyond it a raw file meets the limits of common host file systems.
const MAX_DISK: Size = Size::whole(64 << 40);
/// Sparse: costs only what is used.
const DEFAULT_DISK: Size = Size::whole(60 * GIB);

/// A value that a machine cannot have.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {value}: {why}")]
pub(crate) struct Refused {
    pub(crate) key: &'static str,
    value: String,
    pub(crate) why: String,
}

impl Refused {
    pub(crate) fn new(key: &'static str, value: impl Display, why: impl Display) -> Refused {
        Refused { key, value: value.to_string(), why: why.to_string() }
    }
}

/// What a machine is to be like; `None` follows the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    pub(crate) cpus: Option<u8>,
    pub(crate) memory: Option<Size>,
    pub(crate) disk: Option<Size>,
    #[serde(default, serialize_with = "accel_to_text", deserialize_with = "accel_from_text")]
    pub(crate) accel: Option<Accel>,
    pub(crate) shares: Option<Shares>,
    pub(crate) http_proxy: Option<ProxyUrl>,
    pub(crate) https_proxy: Option<ProxyUrl>,
    /// Hosts, domains and CIDRs that are reached without a proxy, separated by commas.
    pub(crate) no_proxy: Option<String>,
    pub(crate) container_proxy: Option<bool>,
}

fn accel_to_text<S: serde::Serializer>(accel: &Option<Accel>, serializer: S) -> Result<S::Ok, S::Error> {
    accel.as_ref().map(ToString::to_string).serialize(serializer)
}

fn accel_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Accel>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// What a machine is like: every choice made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) cpus: u8,
    pub(crate) memory: Size,
    pub(crate) disk: Size,
    pub(crate) accel: Accel,
    pub(crate) shares: Shares,
    pub(crate) proxies: Proxies,
    pub(crate) container_proxy: bool,
}

impl Settings {
    /// The value of each of [`KEYS`], as [`Config::of`] reads it.
    pub(crate) fn values(&self) -> [String; KEYS.len()] {
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| proxy::NONE.to_owned());
        [
            self.cpus.to_string(),
            self.memory.to_string(),
            self.disk.to_string(),
            self.accel.to_string(),
            self.shares.to_string(),
            or_none(&self.proxies.http),
            or_none(&self.proxies.https),
            or_none(&self.proxies.no),
            self.container_proxy.to_string(),
        ]
    }
}

impl Config {
    /// Reads the file; a missing one is an empty one.
    pub(crate) fn load(path: &Path) -> Result<Config> {
        Config::parse(path, &read(path)?)
    }

    /// `path` is for messages.
    fn parse(path: &Path, text: &str) -> Result<Config> {
        toml_edit::de::from_str(text).map_err(|error| {
            let line =
                error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            anyhow!("{}:{line}: {}", path.display(), one_line(error.message()))
        })
    }

    /// The same with the choices of `over` in place of its own.
    pub(crate) fn overridden_by(self, over: Config) -> Config {
        Config {
            cpus: over.cpus.or(self.cpus),
            memory: over.memory.or(self.memory),
            disk: over.disk.or(self.disk),
            accel: over.accel.or(self.accel),
            shares: over.shares.or(self.shares),
            http_proxy: over.http_proxy.or(self.http_proxy),
            https_proxy: over.https_proxy.or(self.https_proxy),
            no_proxy: over.no_proxy.or(self.no_proxy),
            container_proxy: over.container_proxy.or(self.container_proxy),
        }
    }

    /// The same without the choice of `key`.
    ///
    /// # Errors
    /// There is no such key.
    pub(crate) fn without(mut self, key: &str) -> Result<Config> {
        match key {
            "cpus" => self.cpus = None,
            "memory" => self.memory = None,
            "disk" => self.disk = None,
            "accel" => self.accel = None,
            "shares" => self.shares = None,
            "http-proxy" => self.http_proxy = None,
            "https-proxy" => self.https_proxy = None,
            "no-proxy" => self.no_proxy = None,
            "container-proxy" => self.container_proxy = None,
            _ => bail!("unknown key {key:?}; the keys are {}", KEYS.join(", ")),
        }
        Ok(self)
    }

    /// Writes the choices made in `self` into the file, and leaves the rest of it as it is: other
    /// keys, comments, order.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        self.save_without(path, &[])
    }

    /// The same, and takes the keys in `unset` out, in one change of the file.
    pub(crate) fn save_without(&self, path: &Path, unset: &[String]) -> Result<()> {
        let old = read(path)?;
        let mut document: DocumentMut = old.parse().map_err(|error: toml_edit::TomlError| {
            anyhow!("{}: {}", path.display(), one_line(error.message()))
        })?;
        for key in unset {
            document.remove(key);
        }
        for (key, choice) in self.choices()? {
            set(&mut document, &key, choice);
        }
        let new = document.to_string();
        if new != old {
            write_atomically(path, new.as_bytes(), 0o600)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Each choice that is made, by its key.
    pub(crate) fn choices(&self) -> Result<impl Iterator<Item = (String, Item)>> {
        let table = toml_edit::ser::to_document(self).context("settings cannot be written as TOML")?;
        Ok(table.into_table().into_iter().map(|(key, item)| (key.to_string(), item)))
    }

    /// A configuration in which `key` alone is chosen, as `text` says.
    pub(crate) fn of(key: &str, text: &str) -> Result<Config> {
        let mut config = Config::default();
        let Some(key) = KEYS.into_iter().find(|known| *known == key) else {
            bail!("unknown key {key:?}; the keys are {}", KEYS.join(", "));
        };
        let wrong = |error: &dyn std::fmt::Display| Refused::new(key, format!("{text:?}"), error);
        match key {
            "cpus" => config.cpus = Some(text.parse().map_err(|_| wrong(&"not a number of CPUs"))?),
            "memory" => config.memory = Some(text.parse().map_err(|error| wrong(&error))?),
            "disk" => config.disk = Some(text.parse().map_err(|error| wrong(&error))?),
            "accel" => config.accel = Some(text.parse().map_err(|error| wrong(&error))?),
            "shares" => config.shares = Some(text.parse().map_err(|error| wrong(&error))?),
            "http-proxy" => config.http_proxy = Some(text.parse().map_err(|error| wrong(&error))?),
            "https-proxy" => config.https_proxy = Some(text.parse().map_err(|error| wrong(&error))?),
            "no-proxy" => config.no_proxy = Some(text.to_owned()),
            "container-proxy" => {
                config.container_proxy = Some(text.parse().map_err(|_| wrong(&"neither true nor false"))?);
            }
            _ => unreachable!("every key is above"),
        }
        Ok(config)
    }

    /// Fills in the defaults and checks that this host can serve the result.
    ///
    /// `disk_now` is the size of the data disk if there is one: it is the default then, and the least
    /// that can be asked for.
    pub(crate) fn settle(self, host: &Host, disk_now: Option<Size>) -> Result<Settings> {
        let settings = Settings {
            cpus: self.cpus.unwrap_or(host.cpus.min(4)),
            memory: self.memory.unwrap_or_else(|| host.default_memory()),
            disk: self.disk.or(disk_now).unwrap_or(DEFAULT_DISK),
            accel: self.accel.unwrap_or(Accel::Auto),
            shares: self.shares.unwrap_or_else(|| host.shares.clone()),
            proxies: Proxies {
                http: self.http_proxy.map_or_else(|| host.proxies.http.clone(), ProxyUrl::into_url),
                https: self.https_proxy.map_or_else(|| host.proxies.https.clone(), ProxyUrl::into_url),
                no: self.no_proxy.map_or_else(|| host.proxies.no.clone(), proxy::unless_none),
            },
            container_proxy: self.container_proxy.unwrap_or(false),
        };
        if !(1..=MAX_CPUS).contains(&settings.cpus) {
            let why = format!("a machine has 1 to {MAX_CPUS} CPUs");
            return Err(Refused::new("cpus", settings.cpus, why).into());
        }
        if settings.memory < MIN_MEMORY {
            let why = format!("a machine needs at least {MIN_MEMORY}");
            return Err(Refused::new("memory", settings.memory, why).into());
        }
        if settings.memory > host.memory {
            let why = format!("this host has {}M in all", host.memory.mib());
            return Err(Refused::new("memory", settings.memory, why).into());
        }
        if !(MIN_DISK..=MAX_DISK).contains(&settings.disk) {
            let why = format!("a data disk has {MIN_DISK} to {MAX_DISK}");
            return Err(Refused::new("disk", settings.disk, why).into());
        }
        if let Some(now) = disk_now.filter(|now| settings.disk < *now) {
            let why = format!(
                "the data disk has {now} already and cannot shrink; ask for {now} or more, or delete the machine and start a new one"
            );
            return Err(Refused::new("disk", settings.disk, why).into());
        }
        Ok(settings)
    }
}

/// What the host has, as far as it limits a machine, and what it says where the user does not.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) cpus: u8,
    pub(crate) memory: Size,
    /// Those of this process's environment.
    pub(crate) proxies: Proxies,
    /// Those of its user.
    pub(crate) shares: Shares,
}

impl Host {
    pub(crate) fn this() -> Result<Host> {
        let cpus =
            std::thread::available_parallelism().map_or(1, |n| u8::try_from(n.get()).unwrap_or(u8::MAX));
        let memory = platform::memory_bytes().context("cannot tell how much memory this host has")?;
        Ok(Host {
            cpus,
            memory: Size::from_bytes(memory),
            proxies: Proxies::from_environment(),
            shares: Shares::usual(std::env::home_dir(), std::env::temp_dir()),
        })
    }

    /// A quarter of the host's memory in steps of 256 MiB, between 2 and 8 GiB, and never more than half.
    fn default_memory(&self) -> Size {
        let quarter = (self.memory.bytes() / 4).clamp(2 * GIB, 8 * GIB);
        let step = 256 * MIB;
        Size::from_bytes((quarter.min(self.memory.bytes() / 2) / step * step).max(MIN_MEMORY.bytes()))
    }
}

fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Sets a key and keeps what the user wrote around an existing one.
fn set(document: &mut DocumentMut, key: &str, new: Item) {
    match (document.get_mut(key).and_then(Item::as_value_mut), new.into_value()) {
        (Some(old), Ok(mut new)) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        (None, Ok(new)) => document[key] = Item::Value(new),
        (_, Err(_)) => {}
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_PROXIES: Proxies = Proxies { http: None, https: None, no: None };
    const HOST: Host =
        Host { cpus: 8, memory: Size::whole(16 * GIB), proxies: NO_PROXIES, shares: Shares::NONE };

    fn parse(text: &str) -> Result<Config> {
        Config::parse(Path::new("/home/config.toml"), text)
    }

    fn size(text: &str) -> Size {
        text.parse().unwrap()
    }

    #[test]
    fn every_key_is_read() {
        let config = parse("cpus = 2\nmemory = \"4G\"\ndisk = \"80G\"\naccel = \"qemu\"\n").unwrap();
        let expected = Config {
            cpus: Some(2),
            memory: Some(size("4G")),
            disk: Some(size("80G")),
            accel: Some(Accel::Qemu),
            ..Config::default()
        };
        assert_eq!(config, expected);
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn a_mistake_is_one_line_that_names_file_line_and_what_is_known() {
        let cases = [
            ("cpus = 2\n\ncpu = 3\n", ":3:", "unknown field `cpu`"),
            ("memory = \"4X\"\n", ":1:", "\"4X\" is not a size"),
            ("cpus = 2\naccel = \"hvf\"\n", ":2:", "hvf"),
            ("cpus = 2\ncpus = \n", ":2:", ""),
            ("cpus = 300", ":1:", "300"),
        ];
        for (text, line, words) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/home/config.toml{line}")), "{text:?}: {error}");
            assert!(error.contains(words), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = parse("cpu = 3").unwrap_err().to_string();
        for key in KEYS {
            assert!(error.contains(&format!("`{key}`")), "{error} does not name {key}");
        }
    }

    #[test]
    fn saving_keeps_what_the_user_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "# mine\ncpus = 2 # few\naccel = \"auto\"\n").unwrap();
        let flags = Config { cpus: Some(3), memory: Some(size("4G")), ..Config::default() };
        flags.save(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# mine\ncpus = 3 # few\naccel = \"auto\"\nmemory = \"4G\"\n");
        let expected = Config { accel: Some(Accel::Auto), ..flags };
        assert_eq!(Config::load(&path).unwrap(), expected);
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "# mine\ncpus = 2 # few\naccel = \"auto\"\n").unwrap();
        let memory = Config { memory: Some(size("4G")), ..Config::default() };
        memory.save_without(&path, &["cpus".to_owned()]).unwrap();
        assert_eq!(Config::load(&path).unwrap(), Config { accel: Some(Accel::Auto), ..memory });
        assert!(Config::default().without("colour").is_err());
    }

    #[test]
    fn every_key_can_be_taken_out() {
        for (key, value) in KEYS.iter().zip(Config::default().settle(&HOST, None).unwrap().values()) {
            let chosen = Config::of(key, &value).unwrap();
            assert_ne!(chosen, Config::default(), "{key}");
            assert_eq!(chosen.without(key).unwrap(), Config::default(), "{key}");
        }
    }

    #[test]
    fn defaults_follow_the_host_and_an_existing_disk() {
        let settings = Config::default().settle(&HOST, None).unwrap();
        let values = ["4", "4G", "60G", "auto", "none", "none", "none", "none", "false"];
        assert_eq!(settings.values(), values.map(str::to_owned));
        assert_eq!(Config::default().settle(&HOST, Some(size("7G"))).unwrap().disk, size("7G"));
        let small = Host { cpus: 1, memory: size("3G"), ..HOST };
        let settings = Config::default().settle(&small, None).unwrap();
        assert_eq!((settings.cpus, settings.memory), (1, size("1536M")));
        let large = Host { cpus: 128, memory: size("1T"), ..HOST };
        assert_eq!(Config::default().settle(&large, None).unwrap().memory, size("8G"));
    }

    #[test]
    fn proxies_are_the_hosts_unless_chosen_and_every_value_can_be_set_again() {
        let http = Some("http://host.test:3128".to_owned());
        let host = Host { proxies: Proxies { http: http.clone(), ..NO_PROXIES }, ..HOST };
        assert_eq!(Config::default().settle(&host, None).unwrap().proxies.http, http);
        let chosen = parse("http-proxy = \"none\"\nno-proxy = \".test\"\ncontainer-proxy = true\n").unwrap();
        let settings = chosen.settle(&host, None).unwrap();
        let proxies = Proxies { no: Some(".test".to_owned()), ..NO_PROXIES };
        assert_eq!((&settings.proxies, settings.container_proxy), (&proxies, true));
        let again = KEYS.iter().zip(settings.values()).fold(Config::default(), |config, (key, value)| {
            config.overridden_by(Config::of(key, &value).unwrap())
        });
        assert_eq!(again.settle(&host, None).unwrap(), settings);
    }

    #[test]
    fn what_the_host_or_the_disk_cannot_give_is_refused() {
        let cases = [
            ("cpus", "0", "1 to 64"),
            ("memory", "17G", "16384M in all"),
            ("memory", "256M", "at least 512M"),
            ("disk", "10M", "1G to 64T"),
            ("disk", "9G", "cannot shrink"),
        ];
        for (key, text, words) in cases {
            let error =
                Config::of(key, text).unwrap().settle(&HOST, Some(size("10G"))).unwrap_err().to_string();
            assert!(error.contains(words), "{key}={text}: {error}");
        }
        assert!(Config::of("cpu", "1").unwrap_err().to_string().contains("cpus, memory, disk, accel"));
        let error = Config::of("cpus", "two").unwrap_err();
        assert_eq!(error.downcast::<Refused>().unwrap().key, "cpus");
    }
}
