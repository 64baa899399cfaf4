//! The engine's start: containers are read from the disk, those that still run are taken over, and what
//! a crash or a power cut left half done is finished.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use time::OffsetDateTime;

use super::{
    Container, Containers, Inner,
    exit::UNKNOWN_EXIT,
    record::{self, Record},
    remove, restart_policy,
    state::State,
};
use crate::{
    Config,
    error::{Context, Result},
    events::Events,
    image::{ImageUser, Images},
    network::{Mode, Networks},
    runtime::{Held, Runtime, spec::Machine},
    snapshot::Snapshots,
    userns::Userns,
    volume::{Parts, Volumes},
};

impl Containers {
    /// Reads the containers under `data_root`. Of `held`, what the shim kept while no engine ran, those
    /// that belong to a container go on as if nothing had happened; the rest is killed.
    ///
    /// # Errors
    /// A directory that cannot be made or read. A damaged container is logged and left alone.
    #[expect(clippy::too_many_arguments, reason = "they are what containers are made of")]
    pub(crate) async fn open(
        config: &Config,
        images: Images,
        snapshots: Snapshots,
        volumes: Volumes,
        networks: Networks,
        runtime: Runtime,
        held: Vec<Held>,
        userns: Option<Userns>,
        events: Events,
    ) -> Result<Self> {
        let Config { data_root, exec_root, .. } = config;
        let root = data_root.join("containers");
        fs::create_dir_all(&root).context(|| format!("create {}", root.display()))?;
        let mut machine = Machine::read(runtime.cgroups()).context(|| "look at this machine".to_owned())?;
        machine.remap = userns.as_ref().map(|userns| userns.remap);
        let program = std::env::current_exe().context(|| "find the engine's program".to_owned())?;
        let containers = Self(Arc::new(Inner {
            volumes,
            networks,
            parts: Parts::open(exec_root)?,
            data_root: data_root.clone(),
            shares: config.shares.clone(),
            root,
            exec_root: exec_root.to_owned(),
            environment: config.container_environment(),
            program,
            images,
            snapshots,
            runtime,
            machine,
            userns,
            events,
            index: Default::default(),
            execs: Default::default(),
            shutting_down: Default::default(),
            pruning: Default::default(),
        }));
        let loading = containers.clone();
        crate::blocking(move || loading.load()).await?;
        containers.tell_images();
        containers.settle(held).await;
        let settled = containers.clone();
        crate::blocking(move || {
            settled.0.volumes.settle();
            settled.0.networks.settle(|id| settled.index().by_id.contains_key(id));
            Ok(())
        })
        .await?;
        Ok(containers)
    }

    /// Reads every container's directory, and finishes interrupted removals and creations.
    fn load(&self) -> Result<()> {
        let root = &self.0.root;
        let mut removals = Vec::new();
        let entries = fs::read_dir(root).context(|| format!("read {}", root.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("read {}", root.display()))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let directory = entry.path();
            if let Some((id, volumes)) = remove::begun_removal(&name) {
                removals.push((id.to_owned(), volumes, directory));
                continue;
            }
            match self.load_one(&name, &directory) {
                Ok(Some(container)) => {
                    for mount in container.record().mounts.iter().filter(|mount| mount.is_volume()) {
                        self.log_failure(&name, self.0.volumes.keep(&mount.point.name, &name));
                    }
                    let mut index = self.index_mut();
                    index.names.insert(container.record().name.clone(), name.clone());
                    index.by_id.insert(name, container);
                }
                Ok(None) => {
                    tracing::info!(container = name, "undoing its interrupted creation");
                    self.log_failure(&name, self.finish_removal(&name, &directory));
                }
                Err(error) => tracing::error!(container = name, "it is damaged, and left alone: {error}"),
            }
        }
        for (id, volumes, directory) in removals {
            tracing::info!(container = id, "finishing its removal");
            self.log_failure(&id, self.resume_removal(&id, volumes, &directory));
        }
        // A file system whose container is gone altogether.
        for id in self.0.snapshots.ids() {
            let known = self.index().by_id.contains_key(&id) || root.join(&id).exists();
            if !known {
                self.log_failure(&id, self.0.snapshots.remove(&id));
            }
        }
        Ok(())
    }

    fn load_one(&self, id: &str, directory: &Path) -> Result<Option<Arc<Container>>> {
        let Some(record) = Record::load(directory)? else { return Ok(None) };
        if record.id != id {
            return Err(crate::error::Error::system(format!("it says that it is {}", record.id)));
        }
        // A power cut may have spoilt it. All that is lost is how the container ended.
        let state = record::load_state(directory).unwrap_or_else(|error| {
            tracing::warn!(container = id, "{error}");
            let mut state = State::default();
            state.exited(UNKNOWN_EXIT, OffsetDateTime::now_utc());
            state
        });
        Container::new(record, state, directory).map(Some)
    }

    fn log_failure(&self, id: &str, result: Result<()>) {
        if let Err(error) = result {
            tracing::error!(container = id, "{error}");
        }
    }

    /// Lets images know who uses them.
    fn tell_images(&self) {
        let inner = Arc::downgrade(&self.0);
        self.0.images.set_users(Box::new(move |image| {
            let Some(inner) = inner.upgrade() else { return Vec::new() };
            Self(inner)
                .all()
                .into_iter()
                .filter(|container| container.record().uses_image(image))
                .map(|container| ImageUser {
                    container: container.id.clone(),
                    running: container.state().is_running(),
                })
                .collect()
        }));
    }

    /// Takes over what runs, and brings all others to where they should be.
    async fn settle(&self, held: Vec<Held>) {
        let mut running = HashMap::new();
        let mut execs = Vec::new();
        for held in held {
            if held.exec.is_some() {
                execs.push(held);
            } else {
                running.insert(held.id.clone(), held);
            }
        }
        for container in self.all() {
            match running.remove(&container.id) {
                Some(held) => self.adopt(&container, held).await,
                None => self.settle_ended(&container).await,
            }
        }
        for held in running.into_values() {
            tracing::warn!(container = held.id, "it runs and nobody knows it: it is killed");
            self.log_failure(&held.id, self.0.runtime.delete(&held.id).await);
        }
        for held in execs {
            let container = self.index().by_id.get(&held.id).cloned();
            if let (Some(container), Some(exec)) = (container, held.exec) {
                self.adopt_exec(&container, exec, held.pid, held.streams, held.exit);
            }
        }
    }

    /// Goes on with a container that an engine before this one started. It may have ended meanwhile.
    async fn adopt(&self, container: &Arc<Container>, held: Held) {
        let _changing = container.changing.lock().await;
        tracing::info!(container = container.id, pid = held.pid, "it still runs");
        if let Some(log) = &container.log
            && let Err(error) = log.begin()
        {
            tracing::error!(container = container.id, "write {}: {error}", log.path().display());
        }
        if let Err(error) = container.hub().begin(held.streams) {
            tracing::error!(container = container.id, "serve its streams: {error}");
        }
        for mount in container.record().mounts.iter().filter(|mount| mount.is_volume()) {
            self.0.volumes.adopt(&mount.point.name, &container.id);
        }
        let (networks, record) = (self.0.networks.clone(), container.record());
        let adopted = crate::blocking(move || {
            networks.adopt(&record.id, &record.name, &Mode::of(&record.host_config.network_mode));
            Ok(())
        });
        self.log_failure(&container.id, adopted.await);
        container.change(|state| state.adopted(held.pid));
        self.watch_exit(container, held.exit);
        self.begin_health_checks(container);
    }

    /// A container that does not run: its end may be unknown, and it may have to start again or to go.
    async fn settle_ended(&self, container: &Arc<Container>) {
        let was_running = {
            let _changing = container.changing.lock().await;
            let was_running = container.state().is_running();
            if was_running {
                if container.state().is_restarting() {
                    container.change(State::restart_cancelled);
                } else {
                    let now = OffsetDateTime::now_utc();
                    container.change(|state| state.exited(UNKNOWN_EXIT, now));
                }
            }
            self.clean_up(container).await;
            was_running
        };
        let record = container.record();
        let state = container.state();
        if state.is_dead() {
            let (containers, container) = (self.clone(), container.clone());
            tokio::spawn(async move { containers.remove_automatically(&container).await });
            return;
        }
        let restart = state.was_started()
            && restart_policy::wants_restart(
                &record.host_config.restart_policy,
                state.exit_code(),
                state.was_manually_stopped(),
                state.restart_count(),
            );
        if restart {
            tracing::info!(container = container.id, was_running, "starting it again");
            let (containers, container) = (self.clone(), container.clone());
            tokio::spawn(async move {
                if let Err(error) = containers.start_now(&container, false).await {
                    tracing::warn!(container = container.id, "start: {error}");
                }
            });
        } else {
            self.remove_if_asked(container);
        }
    }
}
