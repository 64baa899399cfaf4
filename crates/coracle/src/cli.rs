//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vmm::Accel;

use crate::machine::{
    config::Config, file_server, launch, name::MachineName, process::Orders, shares::Shares, size::Size,
};

/// A Docker of your own: a small virtual machine that runs containers, for the `docker` you have.
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    after_help = "\
Files are in $CORACLE_HOME (~/.coracle if unset), one directory per machine.
First steps:
  coracle start
  docker --context coracle run --rm hello-world
If something does not work, `coracle doctor` says why."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a machine; returns when Docker answers
    ///
    /// Creates the machine if there is none of that name, and a docker context that leads to it. What
    /// is chosen by options is kept in the machine's config.toml and holds for later starts too.
    Start(Start),
    /// Stop a machine; returns when it is off
    Stop(Stop),
    /// Stop a machine if it runs, and start it
    Restart(Restart),
    /// Show how a machine is doing
    ///
    /// Exits with 0 if the machine runs, with 3 if it does not.
    Status(Status),
    /// List all machines
    List(List),
    /// Delete a machine with all its images, containers and volumes
    Delete(Delete),
    /// Run a shell, or a command, in the VM itself
    ///
    /// This is the system around the containers, as root: for looking at what goes on in the VM. Exits
    /// with the exit code of the command.
    Shell(Shell),
    /// Show what a machine's process logged
    Logs(Logs),
    /// Show or change what a machine is like
    Config(ConfigArgs),
    /// Look into volumes, and copy files in and out
    ///
    /// No container is needed, and none that uses a volume minds.
    #[command(subcommand)]
    Volume(Volume),
    /// Check whether this host has all that is needed
    ///
    /// Exits with 1 if something that is needed is missing.
    Doctor(Doctor),
    /// Show which engine `docker` uses, or make it use a machine
    DockerContext(DockerContext),
    /// Open the desktop app
    App(App),
    #[command(name = launch::COMMAND, hide = true)]
    MachineProcess(Start),
    #[command(name = file_server::COMMAND, hide = true)]
    FileServer(Files),
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    #[arg(long = "share")]
    shares: Vec<Shares>,
}

impl Files {
    pub(crate) fn shares(&self) -> Shares {
        Shares::concat(&self.shares)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// Name of the machine
    #[arg(long, short, value_name = "NAME", default_value = MachineName::DEFAULT)]
    pub(crate) name: MachineName,
}

#[derive(Debug, Args)]
pub(crate) struct Choices {
    /// Number of CPUs [default: the host's, at most 4]
    #[arg(long, value_name = "N")]
    cpus: Option<u8>,
    /// Most memory the VM may use, as in 4G [default: a quarter of the host's, 2G to 8G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Size of the data disk, as in 60G; takes up only what is used, and can grow but not shrink [default: 60G]
    #[arg(long, value_name = "SIZE")]
    disk: Option<Size>,
    /// How to run the VM's CPUs: kvm (hardware), qemu (emulation, slow), or auto (the best that works) [default: auto]
    #[arg(long, value_name = "auto|kvm|qemu")]
    accel: Option<Accel>,
    /// A folder of the host that containers can mount, with :ro for read-only; can be repeated, or "none" [default: the home
    /// directory and the system's temporary directory]
    #[arg(long = "share", value_name = "PATH[:ro]")]
    shares: Vec<Shares>,
}

impl Choices {
    pub(crate) fn config(&self) -> Config {
        Config {
            cpus: self.cpus,
            memory: self.memory,
            disk: self.disk,
            accel: self.accel,
            shares: (!self.shares.is_empty()).then(|| Shares::concat(&self.shares)),
            ..Config::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) choices: Choices,
    /// Stay, and stop the machine at Ctrl-C or when this command is ended
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Print each step and how it ended as a line of JSON
    #[arg(long, conflicts_with = "foreground")]
    pub(crate) json: bool,
}

impl Start {
    pub(crate) fn orders(&self) -> Orders {
        Orders {
            name: self.machine.name.clone(),
            overrides: self.choices.config(),
            foreground: self.foreground,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StopTimeout {
    /// How long containers have to end before they are killed
    #[arg(long, short, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=86_400))]
    pub(crate) timeout: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) timeout: StopTimeout,
    /// Print each step and how it ended as a line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) timeout: StopTimeout,
    #[command(flatten)]
    pub(crate) choices: Choices,
    /// Print each step and how it ended as a line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Do not ask, and stop the machine if it runs
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Command and its arguments [default: a login shell]
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Go on with what is logged from now on, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Show what the VM's kernel said on its console instead
    #[arg(long)]
    pub(crate) console: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) action: Option<ConfigAction>,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Print the value of a key, or all keys
    Get {
        /// cpus, memory, disk, accel, shares, http-proxy, https-proxy, no-proxy or container-proxy
        key: Option<String>,
        #[command(flatten)]
        machine: Machine,
        /// Print all keys as JSON: what is chosen and what holds, and whether a restart is needed
        #[arg(long, conflicts_with = "key")]
        json: bool,
    },
    /// Change values, from the next start on: all of them or, if one is refused, none
    ///
    /// Keys and their values:
    ///   cpus, memory, disk, accel  as the options of `coracle start`
    ///   shares                     folders of the host that containers can mount, as in /home/me,/data:ro, or none
    ///   http-proxy, https-proxy,   how images are pulled, as the environment variable has it; "none" for no proxy
    ///   no-proxy                   [default: as the environment of `coracle start` says]
    ///   container-proxy            whether containers find the proxies in their environment [default: false]
    #[command(verbatim_doc_comment)]
    Set {
        /// A key and its value; more of them may follow
        #[arg(value_names = ["KEY", "VALUE"], num_args = 2.., required_unless_present = "unset")]
        pairs: Vec<String>,
        /// Back to the default for this key, in the same change; can be repeated
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        #[command(flatten)]
        machine: Machine,
        /// Print what `coracle config get --json` would say then, or what is refused
        #[arg(long)]
        json: bool,
    },
    /// Go back to the defaults, from the next start on
    Unset {
        /// As `coracle config get` lists them
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        machine: Machine,
    },
    /// Print where the file is
    Path {
        #[command(flatten)]
        machine: Machine,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write what a report of a problem should hold (logs, versions, settings, no secrets) to a tar.gz file
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
    /// Show what `--bundle` would write, and write nothing
    #[arg(long, conflicts_with = "bundle")]
    pub(crate) bundle_preview: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DockerContext {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Make `docker` use this machine
    #[arg(long)]
    pub(crate) select: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct App {
    /// What to show, as in coracle://containers
    #[arg(value_name = "LINK")]
    pub(crate) link: Option<String>,
}

/// Whose volumes.
#[derive(Debug, Args)]
pub(crate) struct EngineChoice {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// An engine without a machine, as in unix:///run/coracle/docker.sock
    #[arg(long, value_name = "ADDRESS", conflicts_with = "name")]
    pub(crate) host: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// List all volumes with their sizes
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        engine: EngineChoice,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// List the files in a volume, or in a directory of it
    Files {
        #[command(flatten)]
        engine: EngineChoice,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        /// The volume, and what in it
        #[arg(value_name = "VOLUME[:PATH]")]
        place: String,
    },
    /// Copy files between a volume and this host
    ///
    /// One of both is VOLUME:PATH, the other a path of this host, or - for a tar archive on standard input or
    /// output. A directory is copied with all that is in it: into the target if that is a directory, else as the
    /// target; with /. at the source's end, only what is in it. A path that is no volume's begins with / or . where
    /// it has a colon.
    Cp {
        #[command(flatten)]
        engine: EngineChoice,
        /// In the volume, keep the numbers of users and groups; else files belong to root there
        #[arg(long, short)]
        archive: bool,
        #[arg(value_name = "FROM")]
        from: String,
        #[arg(value_name = "TO")]
        to: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn several_keys_are_set_and_unset_at_once() {
        let line = ["coracle", "config", "set", "cpus", "2", "memory", "4G", "--unset", "disk"];
        let Verb::Config(config) = Cli::try_parse_from(line).unwrap().verb else { panic!() };
        let Some(ConfigAction::Set { pairs, unset, .. }) = config.action else { panic!() };
        assert_eq!(
            (pairs, unset),
            (["cpus", "2", "memory", "4G"].map(str::to_owned).to_vec(), vec!["disk".to_owned()])
        );
        assert!(Cli::try_parse_from(["coracle", "config", "set", "--unset", "disk"]).is_ok());
        for line in [&["coracle", "config", "set"][..], &["coracle", "config", "set", "cpus"]] {
            assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_command_for_the_vm_keeps_its_own_options() {
        for line in [
            &["coracle", "shell", "--", "ls", "-l", "--name"][..],
            &["coracle", "shell", "ls", "-l", "--name"],
        ] {
            let Verb::Shell(shell) = Cli::try_parse_from(line).unwrap().verb else { panic!() };
            assert_eq!(shell.command, ["ls", "-l", "--name"]);
            assert!(shell.machine.name.is_default());
        }
    }
}
