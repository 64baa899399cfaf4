//! Where a container stands, and how it gets from one place to another. Every transition is here.

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wire::docker::{NEVER, container as api};

use super::health::Health;
use crate::error::{Error, Result};

/// A container's state. What a restart of the engine needs is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    phase: Phase,
    /// Of the first process, on this machine; 0 when it does not run.
    pid: u32,
    exit_code: i32,
    /// Why it could not be started or removed; empty for no reason.
    error: String,
    oom_killed: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
    /// How often the restart policy has started it since a user did.
    restart_count: u32,
    /// A user stopped it: `unless-stopped` leaves it so.
    manually_stopped: bool,
    /// How its latest run ended; `None` while none has.
    #[serde(skip)]
    latest_exit: Option<i32>,
    /// How many runs have ended since the engine started.
    #[serde(skip)]
    exits: u64,
    #[serde(skip)]
    removing: bool,
    /// The latest attempt to remove it failed.
    #[serde(skip)]
    removal_failed: bool,
    #[serde(skip)]
    removed: bool,
    #[serde(skip)]
    health: Option<Health>,
}

/// The places, without what overlays them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    /// Never started.
    Created,
    Running,
    /// Its processes are frozen.
    Paused,
    /// Ended, and its restart policy will start it again.
    Restarting,
    Exited,
    /// Being removed, or its removal failed: it never runs again.
    Dead,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: None,
            finished_at: None,
            restart_count: 0,
            manually_stopped: false,
            latest_exit: None,
            exits: 0,
            removing: false,
            removal_failed: false,
            removed: false,
            health: None,
        }
    }
}

/// What is asked about a state.
impl State {
    /// Docker's "running", which includes paused and waiting for a restart.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused | Phase::Restarting)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.phase == Phase::Paused
    }

    pub(crate) fn is_restarting(&self) -> bool {
        self.phase == Phase::Restarting
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.removing || self.phase == Phase::Dead
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed
    }

    pub(crate) fn has_removal_failed(&self) -> bool {
        self.removal_failed
    }

    /// Has it ever been started?
    pub(crate) fn was_started(&self) -> bool {
        self.started_at.is_some()
    }

    /// The first process, while there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        (self.pid != 0).then_some(self.pid)
    }

    pub(crate) fn exit_code(&self) -> i32 {
        self.exit_code
    }

    /// How the latest run of this engine's time ended, and which one it was.
    pub(crate) fn latest_exit(&self) -> (u64, i32) {
        (self.exits, self.latest_exit.unwrap_or(self.exit_code))
    }

    pub(crate) fn error(&self) -> &str {
        &self.error
    }

    pub(crate) fn was_manually_stopped(&self) -> bool {
        self.manually_stopped
    }

    pub(crate) fn restart_count(&self) -> u32 {
        self.restart_count
    }

    /// How long the latest run was, or is.
    pub(crate) fn run_time(&self) -> std::time::Duration {
        let Some(started) = self.started_at else { return std::time::Duration::ZERO };
        let end = match self.finished_at {
            Some(finished) if !self.has_process() && finished > started => finished,
            _ => OffsetDateTime::now_utc(),
        };
        (end - started).try_into().unwrap_or_default()
    }

    fn has_process(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }

    pub(crate) fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }

    /// The word for it in lists and filters.
    pub(crate) fn word(&self) -> &'static str {
        match self.phase {
            Phase::Paused => "paused",
            Phase::Restarting => "restarting",
            Phase::Running => "running",
            _ if self.removing => "removing",
            Phase::Dead => "dead",
            Phase::Created => "created",
            Phase::Exited => "exited",
        }
    }

    /// The sentence for it in lists: `Up 5 minutes (healthy)`.
    pub(crate) fn sentence(&self, now: OffsetDateTime) -> String {
        let since = |time: Option<OffsetDateTime>| human_duration(now - time.unwrap_or(now));
        let code = self.exit_code;
        match self.phase {
            Phase::Paused => format!("Up {} (Paused)", since(self.started_at)),
            Phase::Restarting => format!("Restarting ({code}) {} ago", since(self.finished_at)),
            Phase::Running => match &self.health {
                Some(health) => format!("Up {} ({})", since(self.started_at), health.phrase()),
                None => format!("Up {}", since(self.started_at)),
            },
            _ if self.removing => "Removal In Progress".to_owned(),
            Phase::Dead => "Dead".to_owned(),
            Phase::Created => "Created".to_owned(),
            Phase::Exited => format!("Exited ({code}) {} ago", since(self.finished_at)),
        }
    }

    /// The state as inspect shows it.
    pub(crate) fn to_api(&self) -> api::State {
        let time = |time: Option<OffsetDateTime>| {
            time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| NEVER.to_owned())
        };
        api::State {
            status: self.word().to_owned(),
            running: self.is_running(),
            paused: self.is_paused(),
            restarting: self.is_restarting(),
            oom_killed: self.oom_killed,
            dead: self.is_dead(),
            pid: self.pid.into(),
            exit_code: self.exit_code.into(),
            error: self.error.clone(),
            started_at: time(self.started_at),
            finished_at: time(self.finished_at),
            health: self.health.as_ref().map(Health::to_api),
        }
    }

    /// Whether it may be started now.
    ///
    /// # Errors
    /// Docker's words for why not; "not modified" when it runs already.
    pub(crate) fn check_start(&self) -> Result<()> {
        match self.phase {
            Phase::Paused => Err(Error::conflict("cannot start a paused container, try unpause instead")),
            Phase::Running | Phase::Restarting => {
                Err(Error::new(crate::error::Kind::NotModified, "container is already running"))
            }
            _ if self.is_leaving() => {
                Err(Error::conflict("container is marked for removal and cannot be started"))
            }
            _ => Ok(()),
        }
    }

    /// Whether processes can be added to it now.
    ///
    /// # Errors
    /// Docker's words for why not.
    pub(crate) fn check_exec(&self, id: &str, name: &str) -> Result<()> {
        match self.phase {
            Phase::Running => Ok(()),
            Phase::Paused => {
                Err(Error::conflict(format!("Container {name} is paused, unpause the container before exec")))
            }
            Phase::Restarting => Err(is_restarting(id)),
            _ => Err(not_running(id)),
        }
    }

    /// The first process.
    ///
    /// # Errors
    /// Docker's words for a container that has none.
    pub(crate) fn check_process(&self, id: &str) -> Result<u32> {
        match self.phase {
            Phase::Running | Phase::Paused => Ok(self.pid),
            Phase::Restarting => Err(is_restarting(id)),
            _ => Err(not_running(id)),
        }
    }
}

pub(crate) fn not_running(id: &str) -> Error {
    Error::conflict(format!("container {id} is not running"))
}

fn is_restarting(id: &str) -> Error {
    Error::conflict(format!("Container {id} is restarting, wait until the container is running"))
}

/// The transitions.
impl State {
    /// Its first process runs.
    pub(crate) fn started(&mut self, pid: u32) {
        self.adopted(pid);
        self.exit_code = 0;
        self.error.clear();
        self.oom_killed = false;
        self.started_at = Some(OffsetDateTime::now_utc());
    }

    /// An engine before this one started it.
    pub(crate) fn adopted(&mut self, pid: u32) {
        if self.phase != Phase::Paused {
            self.phase = Phase::Running;
        }
        self.pid = pid;
        self.started_at.get_or_insert_with(OffsetDateTime::now_utc);
    }

    /// A user starts it: counts begin anew.
    pub(crate) fn start_asked(&mut self) {
        self.restart_count = 0;
        self.manually_stopped = false;
    }

    /// It could not be started.
    pub(crate) fn start_failed(&mut self, exit_code: i32, error: String) {
        if self.phase == Phase::Restarting {
            self.exited_in(Phase::Exited, exit_code, OffsetDateTime::now_utc());
        }
        self.exit_code = exit_code;
        self.latest_exit = Some(exit_code);
        self.error = error;
        self.pid = 0;
    }

    pub(crate) fn paused(&mut self) {
        self.phase = Phase::Paused;
    }

    pub(crate) fn resumed(&mut self) {
        self.phase = Phase::Running;
    }

    /// A user stops it.
    pub(crate) fn stop_asked(&mut self) {
        self.manually_stopped = true;
    }

    /// The kernel killed a process of it for want of memory.
    pub(crate) fn ran_out_of_memory(&mut self) {
        self.oom_killed = true;
    }

    /// Its first process ended, and it stays so.
    pub(crate) fn exited(&mut self, exit_code: i32, at: OffsetDateTime) {
        self.exited_in(Phase::Exited, exit_code, at);
    }

    /// Its first process ended, and it will be started again.
    pub(crate) fn restarting(&mut self, exit_code: i32, at: OffsetDateTime) {
        self.exited_in(Phase::Restarting, exit_code, at);
        self.restart_count += 1;
    }

    fn exited_in(&mut self, phase: Phase, exit_code: i32, at: OffsetDateTime) {
        self.phase = phase;
        self.pid = 0;
        self.exit_code = exit_code;
        self.finished_at = Some(at);
        self.latest_exit = Some(exit_code);
        self.exits += 1;
        if let Some(health) = &mut self.health {
            health.stop();
        }
    }

    /// It waited for a restart that will not come.
    pub(crate) fn restart_cancelled(&mut self) {
        if self.phase == Phase::Restarting {
            self.phase = Phase::Exited;
            self.exits += 1;
        }
    }

    /// Begins its removal. False when another has begun it.
    pub(crate) fn begin_removal(&mut self) -> bool {
        self.removal_failed = false;
        !std::mem::replace(&mut self.removing, true)
    }

    /// Its removal did not begin after all.
    pub(crate) fn removal_refused(&mut self) {
        self.removing = false;
    }

    /// From here on it can only be removed.
    pub(crate) fn dead(&mut self) {
        self.phase = Phase::Dead;
    }

    /// Its removal failed, and may be tried again.
    pub(crate) fn removal_failed(&mut self, error: String) {
        self.removing = false;
        self.removal_failed = true;
        self.error = error;
        self.exits += 1;
    }

    pub(crate) fn removed(&mut self) {
        self.removed = true;
        self.error.clear();
        self.exits += 1;
    }

    pub(crate) fn set_health(&mut self, health: Option<Health>) {
        self.health = health;
    }

    pub(crate) fn health_mut(&mut self) -> Option<&mut Health> {
        self.health.as_mut()
    }
}

/// A duration as Docker rounds it for people.
pub(crate) fn human_duration(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds();
    let minutes = duration.whole_minutes();
    // Hours are rounded, all else is cut.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", duration.whole_hours() / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn durations_are_dockers() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (3600 + 1800, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (13 * 86_400, "13 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (730 * 86_400, "2 years"),
        ] {
            assert_eq!(human_duration(time::Duration::seconds(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn a_life_in_words() {
        let mut state = State::default();
        assert_eq!((state.word(), state.sentence(at(0)).as_str()), ("created", "Created"));
        state.started(42);
        state.started_at = Some(at(0));
        assert_eq!((state.word(), state.sentence(at(5)).as_str()), ("running", "Up 5 seconds"));
        state.paused();
        assert_eq!(state.sentence(at(60)), "Up About a minute (Paused)");
        assert!(state.is_running());
        state.resumed();
        state.restarting(3, at(70));
        assert_eq!(
            (state.word(), state.sentence(at(71)).as_str()),
            ("restarting", "Restarting (3) 1 second ago")
        );
        assert!(state.is_running());
        state.restart_cancelled();
        assert_eq!((state.word(), state.sentence(at(190)).as_str()), ("exited", "Exited (3) 2 minutes ago"));
        assert!(state.begin_removal() && !state.begin_removal());
        assert_eq!(state.sentence(at(200)), "Removal In Progress");
        state.dead();
        state.removal_failed("disk".to_owned());
        assert_eq!((state.word(), state.sentence(at(200)).as_str()), ("dead", "Dead"));
        assert_eq!(state.to_api().started_at, "1970-01-12T13:46:40Z");
    }

    #[test]
    fn what_may_not_be_started_says_so_in_dockers_words() {
        let mut state = State::default();
        state.check_start().unwrap();
        state.started(1);
        assert_eq!(state.check_start().unwrap_err().kind(), Kind::NotModified);
        state.paused();
        assert_eq!(
            state.check_start().unwrap_err().to_string(),
            "cannot start a paused container, try unpause instead"
        );
        assert_eq!(
            state.check_exec("abc", "web").unwrap_err().to_string(),
            "Container web is paused, unpause the container before exec"
        );
        state.exited(0, at(0));
        state.check_start().unwrap();
        assert_eq!(state.check_process("abc").unwrap_err().to_string(), "container abc is not running");
        state.dead();
        assert_eq!(
            state.check_start().unwrap_err().to_string(),
            "container is marked for removal and cannot be started"
        );
    }

    #[test]
    fn each_end_is_counted_with_its_code() {
        let mut state = State::default();
        state.started(1);
        let (before, _) = state.latest_exit();
        state.restarting(7, at(0));
        let (after, code) = state.latest_exit();
        assert_eq!((after - before, code), (1, 7));
        // The next run does not hide how the one before ended.
        state.started(2);
        assert_eq!(state.latest_exit(), (after, 7));
        assert_eq!(state.exit_code(), 0);
    }

    #[test]
    fn what_a_restart_of_the_engine_needs_is_kept() {
        let mut state = State::default();
        state.started(1);
        state.stop_asked();
        state.exited(137, at(5));
        let kept: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(kept.exit_code(), 137);
        assert!(kept.was_manually_stopped() && !kept.is_running());
        assert_eq!(kept.finished_at, Some(at(5)));
    }
}
