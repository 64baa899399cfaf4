//! The docker context that leads `docker` to a machine.
//!
//! Written as the docker CLI keeps it: `contexts/meta/<SHA-256 of the name>/meta.json` below the
//! CLI's directory, and `currentContext` in its `config.json`. So the CLI need not be installed when
//! a machine starts.

use std::{
    env, fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::machine::{
    home::{MachineDir, write_atomically},
    image::hex,
    name::MachineName,
};

/// Where an engine installed on the host itself listens.
const SYSTEM_SOCKET: &str = "/var/run/docker.sock";

/// The directory of the docker CLI's own state.
#[derive(Debug, Clone)]
pub(crate) struct DockerConfig(PathBuf);

/// Whether `docker` uses a context without being told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// `docker` uses this context now.
    Selected,
    /// Another engine is in use; why we think so, for the user.
    LeftAlone { because: String },
}

impl DockerConfig {
    /// `$DOCKER_CONFIG`, or `~/.docker`; `None` when there is no home directory.
    pub(crate) fn from_environment() -> Option<DockerConfig> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = set("DOCKER_CONFIG") {
            return Some(DockerConfig(path.into()));
        }
        set("HOME").map(|home| DockerConfig(Path::new(&home).join(".docker")))
    }

    /// Creates or updates the context of a machine.
    pub(crate) fn write_context(&self, machine: &MachineDir) -> Result<()> {
        let name = context_name(machine.name());
        let meta = json!({
            "Name": name,
            "Metadata": { "Description": format!("Coracle machine '{}'", machine.name()) },
            "Endpoints": { "docker": { "Host": docker_host(machine), "SkipTLSVerify": false } },
        });
        let path = self.meta_file(&name);
        let directory = path.parent().context("a context file has a directory")?;
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        write_atomically(&path, meta.to_string().as_bytes(), 0o644)
            .with_context(|| format!("cannot write the docker context {}", path.display()))
    }

    /// Selects the context of a machine unless another engine is in use.
    pub(crate) fn select_if_free(&self, machine: &MachineDir) -> Result<Selection> {
        let other = OtherEngine {
            docker_host: env::var("DOCKER_HOST").ok().filter(|value| !value.is_empty()),
            docker_context: env::var("DOCKER_CONTEXT").ok().filter(|value| !value.is_empty()),
            system_socket: Path::new(SYSTEM_SOCKET).exists(),
        };
        self.select_unless(machine, &other)
    }

    fn select_unless(&self, machine: &MachineDir, other: &OtherEngine) -> Result<Selection> {
        let name = context_name(machine.name());
        let mut config = self.read_config()?;
        let current = config.get("currentContext").and_then(Value::as_str).unwrap_or_default().to_owned();
        let left_alone = |because: String| Ok(Selection::LeftAlone { because });
        // The variables win over the file, in this order, whatever we write there.
        if let Some(host) = &other.docker_host {
            return left_alone(format!("DOCKER_HOST is set to {host}"));
        }
        if let Some(context) = other.docker_context.as_ref().filter(|context| **context != name) {
            return left_alone(format!("DOCKER_CONTEXT is set to {context}"));
        }
        if current == name {
            return Ok(Selection::Selected);
        }
        if !matches!(current.as_str(), "" | "default") {
            return left_alone(format!("the docker context '{current}' is in use"));
        }
        if other.system_socket {
            return left_alone(format!("{SYSTEM_SOCKET} exists"));
        }
        config.insert("currentContext".to_owned(), Value::String(name));
        self.write_config(&config)?;
        Ok(Selection::Selected)
    }

    /// Selects the context of a machine, whatever was selected before.
    pub(crate) fn select(&self, machine: &MachineDir) -> Result<()> {
        let mut config = self.read_config()?;
        config.insert("currentContext".to_owned(), Value::String(context_name(machine.name())));
        self.write_config(&config)
    }

    /// What `docker` uses when nothing is said on its command line.
    pub(crate) fn in_use(&self) -> Result<Use> {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let config = self.read_config()?;
        let selected = config.get("currentContext").and_then(Value::as_str).unwrap_or_default();
        Ok(Use::of(set("DOCKER_HOST"), set("DOCKER_CONTEXT"), selected))
    }

    /// Removes the context of a machine, and its selection. A context of that name that leads
    /// elsewhere is somebody else's and stays.
    pub(crate) fn remove_context(&self, machine: &MachineDir) -> Result<()> {
        let name = context_name(machine.name());
        let path = self.meta_file(&name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let meta: Value = serde_json::from_str(&text).unwrap_or_default();
        if meta["Endpoints"]["docker"]["Host"] != docker_host(machine) {
            return Ok(());
        }
        let mut config = self.read_config()?;
        if config.get("currentContext").and_then(Value::as_str) == Some(&name) {
            config.remove("currentContext");
            self.write_config(&config)?;
        }
        let directory = path.parent().context("a context file has a directory")?;
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove the docker context {}", directory.display()))
    }

    /// What `docker` uses now, and what it could use, for `doctor`.
    pub(crate) fn contexts(&self) -> Result<(String, Vec<String>)> {
        let config = self.read_config()?;
        let current = config.get("currentContext").and_then(Value::as_str).filter(|name| !name.is_empty());
        let mut names = vec!["default".to_owned()];
        if let Ok(entries) = fs::read_dir(self.0.join("contexts/meta")) {
            for entry in entries.flatten() {
                let meta = fs::read(entry.path().join("meta.json")).ok();
                let meta: Option<Value> = meta.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                names.extend(meta.and_then(|meta| Some(meta["Name"].as_str()?.to_owned())));
            }
        }
        names.sort();
        Ok((current.unwrap_or("default").to_owned(), names))
    }

    fn meta_file(&self, context: &str) -> PathBuf {
        let id = hex(&Sha256::digest(context.as_bytes()));
        self.0.join("contexts/meta").join(id).join("meta.json")
    }

    fn config_file(&self) -> PathBuf {
        let path = self.0.join("config.json");
        // Some keep it as a link into a directory under version control: write through it.
        path.canonicalize().unwrap_or(path)
    }

    fn read_config(&self) -> Result<serde_json::Map<String, Value>> {
        let path = self.config_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(serde_json::Map::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match serde_json::from_str(&text) {
            Ok(Value::Object(fields)) => Ok(fields),
            // Never rewritten then: it holds the user's registry logins.
            Ok(_) => bail!("{} is no JSON object", path.display()),
            Err(error) => Err(error).with_context(|| format!("{} is not JSON", path.display())),
        }
    }

    fn write_config(&self, config: &serde_json::Map<String, Value>) -> Result<()> {
        let path = self.config_file();
        let mut text = Vec::new();
        let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, form);
        serde::Serialize::serialize(config, &mut serializer)?;
        // The CLI makes it private, for it may hold logins; a mode that the user chose stays.
        let mode = fs::metadata(&path).map_or(0o600, |found| found.mode() & 0o777);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.0)?;
            write_atomically(&path, &text, mode)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What `docker` uses, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// A context's name or, of `DOCKER_HOST`, an address.
    pub(crate) current: String,
    /// The environment variable that says so; else the docker CLI's configuration does.
    pub(crate) variable: Option<&'static str>,
}

impl Use {
    /// The variables win over the file, in this order.
    fn of(docker_host: Option<String>, docker_context: Option<String>, selected: &str) -> Use {
        match (docker_host, docker_context) {
            (Some(host), _) => Use { current: host, variable: Some("DOCKER_HOST") },
            (None, Some(context)) => Use { current: context, variable: Some("DOCKER_CONTEXT") },
            (None, None) => {
                let current = if selected.is_empty() { "default" } else { selected };
                Use { current: current.to_owned(), variable: None }
            }
        }
    }
}

/// Signs of an engine that the user had before us.
#[derive(Debug, Default)]
struct OtherEngine {
    docker_host: Option<String>,
    docker_context: Option<String>,
    system_socket: bool,
}

/// `coracle` for the default machine, `coracle-<name>` for others.
pub(crate) fn context_name(machine: &MachineName) -> String {
    if machine.is_default() { "coracle".to_owned() } else { format!("coracle-{machine}") }
}

/// What `DOCKER_HOST` is to be for a machine.
pub(crate) fn docker_host(machine: &MachineDir) -> String {
    format!("unix://{}", machine.docker_socket().display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::home::Home;

    struct Fixture {
        dir: tempfile::TempDir,
        docker: DockerConfig,
        machine: MachineDir,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let docker = DockerConfig(dir.path().join("docker"));
        Fixture {
            dir,
            docker,
            machine: Home::at(Path::new("/home/me/.coracle")).machine(&"default".parse().unwrap()),
        }
    }

    fn config(fixture: &Fixture) -> Value {
        serde_json::from_slice(&fs::read(fixture.docker.config_file()).unwrap()).unwrap()
    }

    #[test]
    fn the_context_is_where_and_as_the_docker_cli_reads_it() {
        let fixture = fixture();
        fixture.docker.write_context(&fixture.machine).unwrap();
        // `printf coracle | sha256sum`
        let id = "b49c20fb70ea73ddcf100ae0aaceca6425a41128e98107ed96a35a1249e8500f";
        let path = fixture.docker.0.join("contexts/meta").join(id).join("meta.json");
        let meta: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let expected = json!({
            "Name": "coracle",
            "Metadata": { "Description": "Coracle machine 'default'" },
            "Endpoints": { "docker": { "Host": "unix:///home/me/.coracle/default/docker.sock", "SkipTLSVerify": false } },
        });
        assert_eq!(meta, expected);
        assert_eq!(context_name(&"web".parse().unwrap()), "coracle-web");
    }

    #[test]
    fn it_is_selected_only_when_nothing_else_is_in_use() {
        let fixture = fixture();
        fs::create_dir(&fixture.docker.0).unwrap();
        let with = |text: &str, other: OtherEngine| {
            fs::write(fixture.docker.config_file(), text).unwrap();
            fixture.docker.select_unless(&fixture.machine, &other).unwrap()
        };
        let none = OtherEngine::default;
        assert_eq!(with(r#"{"auths": {"r": {}}}"#, none()), Selection::Selected);
        assert_eq!(config(&fixture), json!({"auths": {"r": {}}, "currentContext": "coracle"}));
        assert_eq!(
            with(r#"{"currentContext": "coracle"}"#, OtherEngine { system_socket: true, ..none() }),
            Selection::Selected
        );
        for (text, other) in [
            (r#"{"currentContext": "colima"}"#, none()),
            ("{}", OtherEngine { system_socket: true, ..none() }),
            ("{}", OtherEngine { docker_host: Some("tcp://x".into()), ..none() }),
            ("{}", OtherEngine { docker_context: Some("x".into()), ..none() }),
        ] {
            assert!(matches!(with(text, other), Selection::LeftAlone { .. }), "{text}");
            assert_eq!(fs::read_to_string(fixture.docker.config_file()).unwrap(), text);
        }
    }

    #[test]
    fn it_is_selected_over_another_when_the_user_asks() {
        let fixture = fixture();
        fs::create_dir(&fixture.docker.0).unwrap();
        fs::write(fixture.docker.config_file(), r#"{"currentContext": "colima", "auths": {}}"#).unwrap();
        fixture.docker.select(&fixture.machine).unwrap();
        assert_eq!(config(&fixture), json!({"currentContext": "coracle", "auths": {}}));
    }

    #[test]
    fn the_environment_decides_before_the_file() {
        let word = |text: &str| Some(text.to_owned());
        for (host, context, selected, expected) in [
            (word("tcp://x"), word("y"), "z", ("tcp://x", Some("DOCKER_HOST"))),
            (None, word("y"), "z", ("y", Some("DOCKER_CONTEXT"))),
            (None, None, "z", ("z", None)),
            (None, None, "", ("default", None)),
        ] {
            let used = Use::of(host, context, selected);
            assert_eq!((&*used.current, used.variable), expected);
        }
    }

    #[test]
    fn a_broken_config_of_docker_is_not_touched() {
        let fixture = fixture();
        fs::create_dir(&fixture.docker.0).unwrap();
        fs::write(fixture.docker.config_file(), "{\"auths\"").unwrap();
        assert!(fixture.docker.select_unless(&fixture.machine, &OtherEngine::default()).is_err());
        assert_eq!(fs::read_to_string(fixture.docker.config_file()).unwrap(), "{\"auths\"");
    }

    #[test]
    fn a_linked_config_is_written_through_and_keeps_its_mode() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let fixture = fixture();
        fs::create_dir(&fixture.docker.0).unwrap();
        let real = fixture.dir.path().join("dotfiles.json");
        fs::write(&real, "{}").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&real, fixture.docker.0.join("config.json")).unwrap();
        fixture.docker.select_unless(&fixture.machine, &OtherEngine::default()).unwrap();
        assert!(fs::read_to_string(&real).unwrap().contains("coracle"));
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn removing_takes_back_context_and_selection_but_only_our_own() {
        let fixture = fixture();
        fixture.docker.write_context(&fixture.machine).unwrap();
        fixture.docker.select_unless(&fixture.machine, &OtherEngine::default()).unwrap();
        let elsewhere = Home::at(Path::new("/other")).machine(&"default".parse().unwrap());
        fixture.docker.remove_context(&elsewhere).unwrap();
        assert!(fixture.docker.meta_file("coracle").exists());
        assert_eq!(
            fixture.docker.contexts().unwrap(),
            ("coracle".to_owned(), vec!["coracle".to_owned(), "default".to_owned()])
        );
        fixture.docker.remove_context(&fixture.machine).unwrap();
        assert!(!fixture.docker.meta_file("coracle").exists());
        assert_eq!(config(&fixture), json!({}));
        fixture.docker.remove_context(&fixture.machine).unwrap();
    }
}
