//! `start`.

use std::{path::PathBuf, sync::Arc};

use rustix::mount::{MountFlags, UnmountFlags};
use wire::docker::container::ContainerConfig;

use super::{
    Container, Containers, create,
    etc_files::{EtcFiles, Surroundings},
    exec::What,
    exit::Changing,
    record::Mount,
    state::State,
};
use crate::{
    error::{Context, Error, Result},
    network::Mode,
    runtime::{
        self, Stdio,
        spec::{self, ExecRequest, Files, Join, Request, RequestedMount, User},
    },
    userns::{Owners, Userns},
};

impl Containers {
    /// Starts a container.
    ///
    /// # Errors
    /// "Not modified" for one that runs; why it cannot be started, in Docker's words.
    pub(crate) async fn start(&self, name: &str) -> Result<()> {
        let container = self.get(name)?;
        container.state().check_start()?;
        self.start_now(&container, true).await
    }

    /// Starts a container unless it runs.
    pub(super) async fn start_now(&self, container: &Arc<Container>, by_user: bool) -> Result<()> {
        let changing = container.changing.lock().await;
        if container.state().is_running() {
            return Ok(());
        }
        self.start_locked(container, &changing, by_user).await
    }

    /// Starts a container whose state nobody else changes.
    pub(super) async fn start_locked(
        &self,
        container: &Arc<Container>,
        _changing: &Changing<'_>,
        by_user: bool,
    ) -> Result<()> {
        if container.state().is_leaving() {
            return Err(Error::conflict("container is marked for removal and cannot be started"));
        }
        if by_user {
            container.restarts().begin_anew();
            container.note(State::start_asked);
        }
        let started = self.launch(container).await;
        match started {
            Ok(()) => {
                self.emit(container, "start", &[]);
                Ok(())
            }
            Err(error) => {
                self.clean_up(container).await;
                container.renew_hub().close();
                let code = runtime::start_exit_code(&error);
                container.change(|state| state.start_failed(code, error.to_string()));
                self.remove_if_asked(container);
                Err(error)
            }
        }
    }

    async fn launch(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        let (containers, target) = (self.clone(), container.clone());
        let spec = crate::blocking(move || containers.prepare(&target)).await?;
        if let Some(log) = &container.log {
            log.begin().context(|| format!("write {}", log.path().display()))?;
        }
        let [rows, columns] = record.host_config.console_size;
        let size = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let stdio = Stdio {
            terminal: record.config.tty.then(|| (size(rows), size(columns))),
            stdin: record.config.open_stdin,
        };
        let running = self.0.runtime.start(&container.id, &spec, stdio).await;
        if record.mounts.iter().any(Mount::has_brief_place) {
            let (parts, id) = (self.0.parts.clone(), container.id.clone());
            crate::blocking(move || {
                parts.remove(&id);
                Ok(())
            })
            .await?;
        }
        let running = running?;
        let begun = container.hub().begin(running.streams);
        container.change(|state| state.started(running.pid));
        self.watch_exit(container, running.exit);
        if let Err(error) = begun {
            // It runs, but nobody could hear it.
            tracing::error!(container = container.id, "serve its streams: {error}");
        }
        self.begin_health_checks(container);
        Ok(())
    }

    /// Makes everything ready that a start needs, and says what is to be started.
    fn prepare(&self, container: &Container) -> Result<oci_spec::runtime::Spec> {
        let record = container.record();
        let host = &record.host_config;
        let mode = Mode::of(&host.network_mode);
        let userns = self.userns_of(&record);
        let rootfs = self.0.snapshots.mount(&container.id, userns)?;
        let mut config = record.config.clone();
        let linked = self.linked(&record)?;
        config.env.get_or_insert_default().extend(linked.environment);
        let started = self.start_network(&record, &mode)?;
        let files = match &mode {
            // They share the network and what names it.
            Mode::Container(other) => {
                let other = self.get(other)?;
                config.hostname.clone_from(&other.record().config.hostname);
                config.domainname.clone_from(&other.record().config.domainname);
                EtcFiles::in_directory(&other.directory)
            }
            _ => {
                let files = EtcFiles::in_directory(&container.directory);
                let surroundings = Surroundings {
                    addresses: started.as_ref().map_or(&[], |started| &started.addresses),
                    linked: &linked.hosts,
                    resolver: started.as_ref().is_some_and(|started| started.resolver),
                    host_gateway: self.0.networks.host_gateway(),
                };
                files.write(&record, &mode, &surroundings)?;
                files
            }
        };
        let mut join = self.join(container, &mode)?;
        if let Some(started) = started {
            join.network = Some(started.namespace);
        }
        let mounts = create::to_mount(host, &record.mounts)?;
        let mounts = self.mount_volumes(&record, &record.id, mounts, userns)?;
        let owners = userns.map_or_else(Owners::default, |userns| userns.remap.owners());
        owners
            .as_root(|| mounts.iter().try_for_each(RequestedMount::prepare))
            .context(|| "become the container's root".to_owned())??;
        let user =
            User::resolve(&rootfs, &record.config.user, host.group_add.as_deref().unwrap_or_default())?;
        let files = [&files.hosts, &files.hostname, &files.resolv_conf]
            .map(|path| userns.map_or_else(|| path.clone(), |userns| userns.path(path)));
        let [hosts, hostname, resolv_conf] = &files;
        let request = Request {
            id: &container.id,
            config: &config,
            host,
            rootfs: &rootfs,
            user: &user,
            files: Files { hosts: Some(hosts), hostname: Some(hostname), resolv_conf: Some(resolv_conf) },
            mounts: &mounts,
            join,
            program: &self.0.program,
        };
        spec::build(&request, &self.0.machine)
    }

    /// The namespaces of other containers, and the shared memory to be shared.
    fn join(&self, container: &Container, mode: &Mode) -> Result<Join> {
        let record = container.record();
        let mut join = Join::default();
        let namespace = |other: &str, what: &str, file: &str| -> Result<(Arc<Container>, PathBuf)> {
            let other = self.get(other)?;
            let state = other.state();
            let pid = state.pid().ok_or_else(|| {
                Error::conflict(format!(
                    "cannot join {what} namespace of a non running container: container {} is {}",
                    record_name(&other),
                    state.word(),
                ))
            })?;
            Ok((other, format!("/proc/{pid}/ns/{file}").into()))
        };
        if let Mode::Container(other) = mode {
            join.network = Some(namespace(other, "network", "net")?.1);
        }
        if let Some(other) = record.host_config.pid_mode.strip_prefix("container:") {
            join.pid = Some(namespace(other, "PID", "pid")?.1);
        }
        let ipc = record.host_config.ipc_mode.as_str();
        if ipc == "shareable" {
            join.shm = Some(self.make_shm(container)?);
        } else if let Some(other) = ipc.strip_prefix("container:") {
            let (other, path) = namespace(other, "IPC", "ipc")?;
            let shm = self.shm(&other);
            if !shm.is_dir() {
                return Err(Error::invalid(format!(
                    "cannot join IPC namespace of container {}: non-shareable IPC (hint: use \
                     IpcMode:shareable for the donor container)",
                    record_name(&other)
                )));
            }
            join.ipc = Some(path);
            join.shm = Some(shm);
        }
        Ok(join)
    }

    /// Where the shared memory of a container is that others may join.
    fn shm(&self, container: &Container) -> PathBuf {
        self.0.exec_root.join("shm").join(&container.id)
    }

    fn make_shm(&self, container: &Container) -> Result<PathBuf> {
        self.remove_shm(container);
        let path = self.shm(container);
        let what = || format!("make {}", path.display());
        std::fs::create_dir_all(&path).context(what)?;
        let record = container.record();
        let mut options = format!("mode=1777,size={}", record.host_config.shm_size);
        if let Some(Userns { remap, .. }) = self.userns_of(&record) {
            options.push_str(&format!(",uid={},gid={}", remap.uids.first, remap.gids.first));
        }
        let options = std::ffi::CString::new(options).context(what)?;
        let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("shm", &path, "tmpfs", flags, Some(options.as_c_str())).context(what)?;
        Ok(path)
    }

    /// Removes the shared memory that a container may have made.
    pub(super) fn remove_shm(&self, container: &Container) {
        let path = self.shm(container);
        if path.is_dir() {
            // Who joined it keeps it until they end.
            let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH);
            let _ = std::fs::remove_dir(&path);
        }
    }

    /// The process of an exec.
    pub(super) async fn exec_process(
        &self,
        container: &Arc<Container>,
        what: &What,
    ) -> Result<oci_spec::runtime::Process> {
        let user = self.user(container, &what.user).await?;
        let record = container.record();
        let command: Vec<String> = std::iter::once(&what.program).chain(&what.arguments).cloned().collect();
        let request = ExecRequest {
            command: &command,
            environment: &what.environment,
            working_dir: &what.working_dir,
            user: &user,
            tty: what.terminal,
            privileged: what.privileged,
        };
        let mut config = record.config.clone();
        // What a link tells, as far as it still leads somewhere.
        let linked = self.linked(&record).unwrap_or_default();
        config.env.get_or_insert_default().extend(linked.environment);
        spec::exec_process(&config, &record.host_config, &request, &self.0.machine)
    }

    /// Checks that a user exists in a running container.
    pub(super) async fn check_user(&self, container: &Arc<Container>, user: &str) -> Result<()> {
        self.user(container, user).await.map(drop).map_err(|error| Error::invalid(error.to_string()))
    }

    async fn user(&self, container: &Arc<Container>, user: &str) -> Result<User> {
        let record = container.record();
        let (snapshots, userns) = (self.0.snapshots.clone(), self.userns_of(&record).cloned());
        let user = user.to_owned();
        crate::blocking(move || {
            let rootfs = snapshots.mount(&record.id, userns.as_ref())?;
            let groups = record.host_config.group_add.as_deref().unwrap_or_default();
            User::resolve(&rootfs, &user, groups)
        })
        .await
    }
}

fn record_name(container: &Container) -> String {
    container.record().name.clone()
}

/// The shell that a container's health check is run by.
pub(super) fn shell(config: &ContainerConfig) -> Vec<String> {
    match config.shell.as_deref() {
        None | Some([]) => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
        Some(shell) => shell.to_vec(),
    }
}
