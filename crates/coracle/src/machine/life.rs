//! A machine's life, one event after the other: the only place that decides.

use std::{
    fs,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use wire::{
    app::State,
    guest::{Request, Response, Stage},
};

use super::{
    board::Outcome,
    boot::{self, BootError},
    guest_link::{self, Conversation, GuestError},
    process::Machine,
    vm::{Ended, Vm},
};
use crate::{control::client::name_flag, forward, platform::ClockWatch};

/// How long after a boot failed the word may take that the VM had ended by itself.
const OWN_END_LIMIT: Duration = Duration::from_secs(1);

/// Beyond the containers' time: for the engine to end, and for everything to reach the disk.
const SYNC_LIMIT: Duration = Duration::from_secs(30);
/// For a guest that says it is unmounting: gigabytes that wait to be written to a slow disk take this long,
/// and nobody is served by losing them.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(5 * 60);
/// After the guest closed the conversation in which it was told to power off.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// For the guest's last word, when it races with the VM's end.
const LAST_WORD_RACE: Duration = Duration::from_secs(1);
/// For the hypervisor to end a VM that is killed.
const KILL_LIMIT: Duration = Duration::from_secs(15);
/// The guest's clock is set at least this often: emulated timers drift.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// What happens to a machine.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client or a signal asks to stop it.
    Stop { timeout_seconds: u32, cause: StopCause },
    /// The boot came to its end.
    Booted(Result<(), BootError>),
    /// The guest ended the conversation in which it was told to power off, or it never began.
    PowerOffTold(Result<LastWord, GuestError>),
    /// The VM is gone.
    VmEnded(Ended),
}

/// How the guest ended the conversation in which it was told to power off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastWord {
    /// Everything is stored and unmounted: from here on nothing can be lost.
    Stored,
    /// None: it hung up on its way down.
    None,
}

/// Who wants the machine to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// A client on the control socket.
    Client,
    /// A signal to the machine process.
    Signal,
    /// The starter went away before the machine was ready, or from a machine in the foreground.
    StarterGone,
}

impl StopCause {
    /// What is remembered about a stop that went well.
    fn reason(self) -> &'static str {
        match self {
            StopCause::Client => "stopped as asked",
            StopCause::Signal => "stopped by a signal to its process",
            StopCause::StarterGone => "stopped because the command that started it ended",
        }
    }
}

/// How a life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Whether the guest powered itself off in order.
    pub(crate) clean: bool,
    /// What is remembered about it.
    pub(crate) reason: String,
}

impl End {
    fn failed(clean: bool, message: String) -> End {
        End { reason: message.clone(), outcome: Outcome::Failed { message }, clean }
    }
}

/// Starts the VM with `start` and sees the machine through until no VM runs any more.
pub(crate) fn live(
    machine: &Arc<Machine>,
    events: &Receiver<Event>,
    start: impl FnOnce() -> Result<Arc<dyn Vm>>,
) -> End {
    let vm = match start() {
        Ok(vm) => vm,
        Err(error) => return End::failed(true, format!("{error:#}")),
    };
    // Set once: this is the only place.
    let _ = machine.vm.set(Arc::clone(&vm));
    forward::ports::serve(&vm);
    if let Some(settings) = machine.settings.get() {
        forward::settings::serve(&*vm, settings);
        if let Some(agent) = forward::ssh_agent::socket() {
            forward::ssh_agent::serve(&*vm, agent);
        }
    }
    let booting = thread::Builder::new().name("vm-end".into()).spawn({
        let (machine, vm) = (Arc::clone(machine), Arc::clone(&vm));
        move || {
            let ended = vm.wait();
            let _ = machine.events.send(Event::VmEnded(ended));
        }
    });
    let booting = booting.and_then(|_| {
        thread::Builder::new().name("boot".into()).spawn({
            let (machine, vm) = (Arc::clone(machine), Arc::clone(&vm));
            move || {
                let result = boot::boot(&*vm, &machine);
                let _ = machine.events.send(Event::Booted(result));
            }
        })
    });
    if let Err(error) = booting {
        vm.kill();
        vm.wait();
        return End::failed(false, format!("cannot start a thread: {error}"));
    }
    loop {
        // The machine holds a sender, so this ends with an event.
        let Ok(event) = events.recv() else { return End::failed(false, "no events any more".into()) };
        match event {
            Event::Stop { timeout_seconds, cause } => {
                return stop(machine, events, &vm, timeout_seconds, cause);
            }
            Event::Booted(Ok(())) => {
                let took = machine.started.elapsed();
                tracing::info!("ready after {:.2} s", took.as_secs_f64());
                machine.board.update(|view| {
                    view.state = State::Running;
                    view.step.clear();
                    view.ready_after = Some(took);
                });
                keep_clock(Arc::clone(&vm));
            }
            Event::Booted(Err(BootError::Engine(message))) => {
                let flag = name_flag(machine.dir.name().as_str());
                tracing::error!("the engine did not start: {message}");
                machine.board.update(|view| {
                    view.state = State::Running;
                    view.step.clear();
                    view.engine_failure = Some(format!(
                        "the engine did not start: {message}; the VM stays up, so that you can look with `coracle shell{flag}`; `coracle stop{flag}` ends it"
                    ));
                });
            }
            Event::Booted(Err(error)) => return give_up(machine, events, &vm, error),
            Event::PowerOffTold(_) => {}
            Event::VmEnded(ended) => return ended_by_itself(machine, &ended),
        }
    }
}

/// The boot failed and nothing in the guest is worth keeping up.
fn give_up(machine: &Machine, events: &Receiver<Event>, vm: &Arc<dyn Vm>, error: BootError) -> End {
    // A VM that died explains a conversation that broke off, and not the other way round; but the word of its end
    // may come second.
    let ended = await_end(events, OWN_END_LIMIT);
    if ended.is_none() {
        vm.kill();
        await_end(events, KILL_LIMIT);
    }
    match ended {
        Some(ended) => ended_by_itself(machine, &ended),
        None => End::failed(false, with_console(machine, format!("{:#}", anyhow::Error::from(error)))),
    }
}

fn vm_end(event: Event) -> Option<Ended> {
    match event {
        Event::VmEnded(ended) => Some(ended),
        _ => None,
    }
}

/// Waits for the VM's end, whatever else happens meanwhile.
fn await_end(events: &Receiver<Event>, limit: Duration) -> Option<Ended> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        if let Some(ended) = vm_end(events.recv_timeout(left).ok()?) {
            return Some(ended);
        }
    }
}

/// Nobody asked for it.
fn ended_by_itself(machine: &Machine, ended: &Ended) -> End {
    let ready = machine.board.now().state == State::Running;
    if ended.powered_off && ready {
        let reason = "the guest powered itself off".to_owned();
        return End { outcome: Outcome::Stopped, clean: true, reason };
    }
    let when = if ready { "while it ran" } else { "before it was ready" };
    let flag = name_flag(machine.dir.name().as_str());
    End::failed(false, format!("the VM ended {when}: {} (see `coracle logs --console{flag}`)", ended.reason))
}

/// What the guest said last is all there is to go by when it says nothing more.
fn with_console(machine: &Machine, message: String) -> String {
    match boot::last_console_line(&machine.dir.console_log()) {
        Some(line) => {
            let flag = name_flag(machine.dir.name().as_str());
            format!("{message}; its console ends with {line:?} (see `coracle logs --console{flag}`)")
        }
        None => message,
    }
}

/// Powers the guest off in order, or ends it when it does not follow.
fn stop(
    machine: &Arc<Machine>,
    events: &Receiver<Event>,
    vm: &Arc<dyn Vm>,
    timeout_seconds: u32,
    cause: StopCause,
) -> End {
    let contacted = machine.board.now().contacted;
    machine.board.update(|view| view.state = State::Stopping);
    // New clients are told at once that there is no Docker; those that are connected see theirs through.
    let _ = fs::remove_file(machine.dir.docker_socket());
    if !contacted {
        // Nothing of the user's runs yet, and no one is there to be asked.
        machine.board.step("taking the start back");
        return kill(events, vm, "stopped before it was ready", true);
    }
    machine.board.step("asking the guest to power off");
    let told = thread::Builder::new().name("power-off".into()).spawn({
        let (machine, vm) = (Arc::clone(machine), Arc::clone(vm));
        move || {
            let result = tell_power_off(&machine, &*vm, timeout_seconds);
            let _ = machine.events.send(Event::PowerOffTold(result));
        }
    });
    if let Err(error) = told {
        machine.board.remark(format!("cannot ask the guest to power off: {error}; ending it"));
        return kill(events, vm, "the guest could not be asked to power off", false);
    }
    let limit = |seconds: u32| Duration::from_secs(seconds.into()) + SYNC_LIMIT;
    let stopped = || End { outcome: Outcome::Stopped, clean: true, reason: cause.reason().to_owned() };
    let begin = Instant::now();
    let mut deadline = begin + limit(timeout_seconds);
    let mut unmounting = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::VmEnded(ended)) if ended.powered_off => return stopped(),
            Ok(Event::VmEnded(_)) if said_stored(events) => return stopped(),
            Ok(Event::VmEnded(ended)) => {
                machine
                    .board
                    .remark(format!("the VM ended before the guest had powered off: {}", ended.reason));
                let reason = format!("the VM ended while it was being stopped: {}", ended.reason);
                return End { outcome: Outcome::Stopped, clean: false, reason };
            }
            Ok(Event::PowerOffTold(Ok(LastWord::Stored))) => {
                if await_end(events, LAST_WORDS).is_none() {
                    tracing::warn!("the guest stored everything and did not power off; ending it");
                    return kill(events, vm, cause.reason(), true);
                }
                return stopped();
            }
            Ok(Event::PowerOffTold(Ok(LastWord::None))) => {
                deadline = deadline.min(Instant::now() + LAST_WORDS)
            }
            Ok(Event::PowerOffTold(Err(error))) => {
                machine.board.remark(format!(
                    "{:#}; ending it as pulling the plug would",
                    anyhow::Error::from(error).context("the guest does not power off")
                ));
                return kill(events, vm, "the guest did not take the request to power off", false);
            }
            // A second request joins the first; a more impatient one shortens it.
            Ok(Event::Stop { timeout_seconds, .. }) => {
                deadline = deadline.min(Instant::now() + limit(timeout_seconds))
            }
            Ok(Event::Booted(_)) => {}
            Err(RecvTimeoutError::Timeout) if !unmounting && is_unmounting(machine) => {
                unmounting = true;
                deadline = Instant::now() + UNMOUNT_LIMIT;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let waited = begin.elapsed().as_secs();
                machine.board.remark(format!(
                    "the guest did not power off within {waited} s; ending it as pulling the plug would"
                ));
                return kill(events, vm, "the guest did not power off in time", false);
            }
        }
    }
}

fn is_unmounting(machine: &Machine) -> bool {
    machine.board.now().guest.is_some_and(|guest| guest.stage == Stage::Unmounting)
}

/// Whether the guest had stored everything before its VM ended some other way than by a power-off.
fn said_stored(events: &Receiver<Event>) -> bool {
    let deadline = Instant::now() + LAST_WORD_RACE;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::PowerOffTold(word)) => return matches!(word, Ok(LastWord::Stored)),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Tells the guest to power off, and shows how far it is, until its last word.
fn tell_power_off(machine: &Machine, vm: &dyn Vm, timeout_seconds: u32) -> Result<LastWord, GuestError> {
    let mut guest = Conversation::open(vm, &Request::PowerOff { timeout_seconds })?;
    let mut answered = false;
    let silence = Duration::from_secs(timeout_seconds.into()) + SYNC_LIMIT + UNMOUNT_LIMIT;
    loop {
        match guest.next(silence) {
            Ok(Some(Response::State(state))) => {
                // The first answer is where the guest stood before.
                if matches!(state.stage, Stage::StoppingContainers | Stage::Unmounting) {
                    machine.board.step(boot::describe(&state.stage));
                }
                machine.board.update(|view| view.guest = Some(state));
                answered = true;
            }
            Ok(Some(Response::Done)) => return Ok(LastWord::Stored),
            Ok(Some(Response::Failed { message })) => return Err(GuestError::Refused(message.into())),
            // However the stream ends once the guest is on its way down, it ended with the guest.
            Ok(None) | Err(GuestError::Broken(_)) if answered => return Ok(LastWord::None),
            Ok(None) => return Err(GuestError::Closed),
            Err(error) => return Err(error),
        }
    }
}

fn kill(events: &Receiver<Event>, vm: &Arc<dyn Vm>, reason: &str, clean: bool) -> End {
    vm.kill();
    match await_end(events, KILL_LIMIT) {
        Some(_) => End { outcome: Outcome::Stopped, clean, reason: reason.to_owned() },
        // Nothing more can be done from here; the end of this process, which follows, takes the VM with it.
        None => End::failed(
            false,
            format!("{reason}, and the VM did not end {} s after it was killed", KILL_LIMIT.as_secs()),
        ),
    }
}

/// Sets the guest's clock again whenever the host's was set, which includes the end of a sleep.
fn keep_clock(vm: Arc<dyn Vm>) {
    let watch = match ClockWatch::new(CLOCK_INTERVAL) {
        Ok(watch) => watch,
        Err(error) => return tracing::warn!("the guest's clock will not follow the host's: {error}"),
    };
    let kept = thread::Builder::new().name("clock".into()).spawn(move || {
        loop {
            if let Err(error) = watch.wait() {
                return tracing::warn!("the guest's clock follows the host's no more: {error}");
            }
            if let Err(error) = guest_link::set_clock(&*vm) {
                tracing::warn!("{:#}", anyhow::Error::from(error).context("cannot set the guest's clock"));
            }
        }
    });
    if let Err(error) = kept {
        tracing::warn!("the guest's clock will not follow the host's: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, sync::mpsc, thread::JoinHandle};

    use super::*;
    use crate::{
        forward,
        machine::{
            home::Home,
            vm::fake::{FakeVm, Habit},
        },
    };

    /// A machine whose life runs in a thread.
    struct Living {
        machine: Arc<Machine>,
        vm: Arc<FakeVm>,
        end: JoinHandle<End>,
        _home: tempfile::TempDir,
    }

    impl Living {
        fn begin(habit: Habit) -> Living {
            let home = tempfile::tempdir().unwrap();
            let dir = Home::at(home.path()).machine(&"default".parse().unwrap());
            dir.create().unwrap();
            let docker = UnixListener::bind(dir.docker_socket()).unwrap();
            let (events, received) = mpsc::channel();
            let machine = Arc::new(Machine::new(dir, events));
            let vm = FakeVm::new(habit);
            let end = thread::spawn({
                let (machine, vm) = (Arc::clone(&machine), Arc::clone(&vm));
                move || live(&machine, &received, || Ok(Arc::new(vm)))
            });
            thread::spawn({
                let machine = Arc::clone(&machine);
                move || forward::docker::serve(&docker, &machine)
            });
            Living { machine, vm, end, _home: home }
        }

        fn until_running(self) -> Living {
            self.machine.board.wait_until(|view| view.state == State::Running);
            self
        }

        fn stop(&self) {
            self.machine.ask_to_stop(5, StopCause::Client);
        }

        fn end(self) -> End {
            let end = self.end.join().unwrap();
            assert!(self.vm.has_ended().is_some(), "a life ended before its VM");
            end
        }
    }

    fn message(end: &End) -> &str {
        match &end.outcome {
            Outcome::Failed { message } => message,
            Outcome::Stopped => panic!("{end:?}"),
        }
    }

    #[test]
    fn a_machine_gets_ready_and_stops_in_order() {
        let living = Living::begin(Habit::Good).until_running();
        assert!(living.machine.board.now().ready_after.is_some());
        assert!(living.machine.dir.docker_socket().exists());
        living.stop();
        living.machine.board.wait_until(|view| view.state == State::Stopping);
        let (vm, machine) = (Arc::clone(&living.vm), Arc::clone(&living.machine));
        let end = living.end();
        assert_eq!(end, End { outcome: Outcome::Stopped, clean: true, reason: "stopped as asked".into() });
        assert_eq!(*vm.power_offs.lock().unwrap(), [5]);
        assert!(!machine.dir.docker_socket().exists());
    }

    #[test]
    fn a_stop_before_the_guest_answers_pulls_the_plug() {
        let living = Living::begin(Habit::NeverListens);
        living.stop();
        assert_eq!(living.end().outcome, Outcome::Stopped);
    }

    #[test]
    fn a_stop_while_the_disk_is_prepared_asks_the_guest() {
        let living = Living::begin(Habit::StuckDisk);
        living.machine.board.wait_until(|view| view.guest.is_some());
        living.stop();
        let vm = Arc::clone(&living.vm);
        assert!(living.end().clean);
        assert_eq!(vm.power_offs.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_vm_that_dies_is_told() {
        let living = Living::begin(Habit::StuckDisk);
        living.machine.board.wait_until(|view| view.guest.is_some());
        living.vm.end(false, "the emulator was killed");
        let end = living.end();
        assert!(!end.clean);
        assert!(message(&end).contains("before it was ready: the emulator was killed"), "{end:?}");

        let living = Living::begin(Habit::Good).until_running();
        living.vm.end(false, "the emulator was killed");
        assert!(message(&living.end()).contains("while it ran"));
    }

    #[test]
    fn a_guest_that_powers_off_by_itself_is_no_failure() {
        let living = Living::begin(Habit::Good).until_running();
        living.vm.end(true, "power-off");
        let end = living.end();
        assert_eq!((end.outcome, end.clean), (Outcome::Stopped, true));
    }

    #[test]
    fn a_broken_engine_leaves_the_vm_up_for_its_owner() {
        let living = Living::begin(Habit::BrokenEngine).until_running();
        let view = living.machine.board.now();
        assert!(view.engine_failure.unwrap().contains("no engine"));
        assert!(!view.docker_open);
        assert_eq!(living.vm.has_ended(), None);
        living.stop();
        assert!(living.end().clean);
    }

    #[test]
    fn an_engine_that_is_ready_and_silent_is_not_ready() {
        let living = Living::begin(Habit::MuteEngine);
        fs::write(living.machine.dir.console_log(), "Out of memory\n").unwrap();
        let end = living.end();
        assert!(message(&end).contains("Out of memory"), "{end:?}");
        assert!(message(&end).contains("does not answer on the docker socket"), "{end:?}");
    }

    #[test]
    fn a_guest_that_stored_everything_ended_in_order_however_its_vm_ends() {
        let living = Living::begin(Habit::ResetsWhenStored).until_running();
        living.stop();
        let machine = Arc::clone(&living.machine);
        let end = living.end();
        assert_eq!((end.outcome, end.clean), (Outcome::Stopped, true));
        assert!(machine.board.now().remarks.is_empty());
    }

    #[test]
    fn a_guest_that_does_not_power_off_is_ended_and_that_is_said() {
        for (habit, words) in
            [(Habit::Stubborn, "does not power off"), (Habit::CrashesAtPowerOff, "ended before")]
        {
            let living = Living::begin(habit).until_running();
            living.stop();
            let machine = Arc::clone(&living.machine);
            let end = living.end();
            assert_eq!((end.outcome, end.clean), (Outcome::Stopped, false), "{habit:?}");
            let remarks = machine.board.now().remarks;
            assert!(remarks[0].contains(words), "{remarks:?}");
        }
    }

    #[test]
    fn what_prevents_the_vm_is_the_end() {
        let home = tempfile::tempdir().unwrap();
        let (events, received) = mpsc::channel();
        let dir = Home::at(home.path()).machine(&"default".parse().unwrap());
        let machine = Arc::new(Machine::new(dir, events));
        let end = live(&machine, &received, || anyhow::bail!("no QEMU"));
        assert_eq!(message(&end), "no QEMU");
    }
}
