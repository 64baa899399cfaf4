//! The virtual machine as the machine process needs it: a seam, so that the life of a machine can be
//! tested with a guest that is a thread.

use std::{
    io,
    net::SocketAddrV4,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

/// What is done with a stream that the guest has opened. It MUST return at once.
pub(crate) type OnStream = Box<dyn Fn(UnixStream) + Send>;

/// A virtual machine that was started.
pub(crate) trait Vm: Send + Sync {
    /// Opens a stream to a port of the guest. Fails at the latest after `timeout`.
    fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream>;

    /// Joins a client's socket to a port of the guest. From here on the muxer owns the socket: it
    /// carries half-closes and back-pressure, and closes it when the guest refuses.
    fn connect_stream(&self, port: u32, stream: OwnedFd);

    /// Leads a client's TCP socket to an address behind the guest, from the guest's router. The user-mode network owns the
    /// socket then: it carries half-closes and back-pressure, and closes it when nobody is there.
    ///
    /// # Errors
    /// The socket, when the guest has no network now.
    fn lead(&self, address: SocketAddrV4, stream: OwnedFd) -> Result<(), OwnedFd>;

    /// Has `on_connection` called with each stream that the guest opens to a port of the host.
    fn listen(&self, port: u32, on_connection: OnStream);

    /// Blocks until the machine has ended and nothing of it runs any more.
    fn wait(&self) -> Ended;

    /// Ends the machine at once, as pulling the plug does.
    fn kill(&self);

    /// The process id of the emulator, if the CPUs run in one.
    fn emulator_pid(&self) -> Option<u32>;
}

/// How a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Whether the guest powered off by itself.
    pub(crate) powered_off: bool,
    /// What happened, for the user.
    pub(crate) reason: String,
}

#[cfg(test)]
pub(crate) mod fake {
    //! A guest that is a handful of threads.

    use std::{
        io::{BufReader, Read, Write},
        sync::{Arc, Condvar, Mutex},
        thread,
    };

    use wire::{
        frame::Frame,
        guest::{Request, Response, Stage, State},
        line,
        vsock::{CONTROL_PORT, DOCKER_PORT, HOST_PORTS_PORT},
    };

    use super::*;

    /// What a fake guest does differently from a good one.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Habit {
        Good,
        /// Its PID 1 never listens.
        NeverListens,
        /// Its engine cannot start.
        BrokenEngine,
        /// Says that its engine is ready, which answers nothing.
        MuteEngine,
        /// Never gets beyond preparing its disk.
        StuckDisk,
        /// Refuses to power off.
        Stubborn,
        /// Ends its VM with a reset and no power-off, once everything is stored.
        ResetsWhenStored,
        /// Crashes while it powers off.
        CrashesAtPowerOff,
    }

    pub(crate) struct FakeVm {
        habit: Habit,
        ended: Mutex<Option<Ended>>,
        changed: Condvar,
        /// Time-outs of the power-off requests that came.
        pub(crate) power_offs: Mutex<Vec<u32>>,
        ports: Mutex<Option<OnStream>>,
    }

    impl FakeVm {
        pub(crate) fn new(habit: Habit) -> Arc<FakeVm> {
            let ended = Mutex::new(None);
            Arc::new(FakeVm {
                habit,
                ended,
                changed: Condvar::new(),
                power_offs: Mutex::new(Vec::new()),
                ports: Mutex::default(),
            })
        }

        /// Ends the VM; the first reason stays.
        pub(crate) fn end(&self, powered_off: bool, reason: &str) {
            let ended = Ended { powered_off, reason: reason.to_owned() };
            self.ended.lock().unwrap().get_or_insert(ended);
            self.changed.notify_all();
        }

        fn until_ended(&self) -> Ended {
            let ended = self.ended.lock().unwrap();
            self.changed.wait_while(ended, |ended| ended.is_none()).unwrap().clone().unwrap()
        }

        pub(crate) fn has_ended(&self) -> Option<Ended> {
            self.ended.lock().unwrap().clone()
        }

        /// PID 1, for one connection.
        fn control(&self, stream: &UnixStream) -> io::Result<()> {
            let state = |stage| {
                Response::State(State {
                    stage,
                    agent_version: "1".into(),
                    kernel: "6.12".into(),
                    uptime_ms: 1,
                    engine_restarts: 0,
                    figures: None,
                })
            };
            let mut reader = BufReader::new(stream);
            let mut writer = stream;
            match line::read::<Request>(&mut reader)?.unwrap() {
                Request::State => line::write(stream, &state(Stage::Ready)),
                Request::SetClock { .. } => line::write(stream, &Response::Done),
                Request::WaitReady => {
                    line::write(stream, &state(Stage::PreparingDisk))?;
                    if self.habit == Habit::StuckDisk {
                        self.until_ended();
                        return Ok(());
                    }
                    line::write(stream, &state(Stage::StartingEngine))?;
                    let broken = Stage::Failed { message: "no engine".into() };
                    line::write(
                        stream,
                        &state(if self.habit == Habit::BrokenEngine { broken } else { Stage::Ready }),
                    )
                }
                Request::PowerOff { timeout_seconds } => {
                    self.power_offs.lock().unwrap().push(timeout_seconds);
                    if self.habit == Habit::Stubborn {
                        return line::write(stream, &Response::Failed { message: "no".into() });
                    }
                    line::write(stream, &state(Stage::StoppingContainers))?;
                    line::write(stream, &state(Stage::Unmounting))?;
                    if self.habit != Habit::CrashesAtPowerOff {
                        line::write(stream, &Response::Done)?;
                    }
                    let off = !matches!(self.habit, Habit::CrashesAtPowerOff | Habit::ResetsWhenStored);
                    self.end(off, "its end");
                    Ok(())
                }
                // Echoes its input until that ends, and exits with 7.
                Request::Shell(shell) if shell.argv == ["cat"] => {
                    line::write(stream, &Response::Done)?;
                    while let Some(Frame::Stdin(bytes)) = Frame::read(&mut reader)? {
                        Frame::Stdout(bytes).write(&mut writer)?;
                    }
                    Frame::Exit(7).write(&mut writer)
                }
                Request::Shell(_) => line::write(stream, &Response::Failed { message: "not found".into() }),
            }
        }

        /// The engine, for one connection.
        fn docker(&self, mut stream: &UnixStream) -> io::Result<()> {
            let mut request = [0; 4096];
            let length = stream.read(&mut request)?;
            assert!(request[..length].starts_with(b"GET /_ping "));
            let mute = self.habit == Habit::MuteEngine;
            if mute { Ok(()) } else { stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK") }
        }
    }

    impl Vm for Arc<FakeVm> {
        fn connect(&self, port: u32, _timeout: Duration) -> io::Result<UnixStream> {
            assert_eq!(port, CONTROL_PORT);
            if self.habit == Habit::NeverListens || self.has_ended().is_some() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (host, guest) = UnixStream::pair()?;
            let vm = Arc::clone(self);
            // What a conversation comes to is seen at the host's end.
            thread::spawn(move || vm.control(&guest));
            Ok(host)
        }

        fn connect_stream(&self, port: u32, stream: OwnedFd) {
            assert_eq!(port, DOCKER_PORT);
            let vm = Arc::clone(self);
            thread::spawn(move || vm.docker(&stream.into()));
        }

        fn lead(&self, _address: SocketAddrV4, stream: OwnedFd) -> Result<(), OwnedFd> {
            Err(stream)
        }

        fn listen(&self, port: u32, on_connection: OnStream) {
            assert_eq!(port, HOST_PORTS_PORT);
            *self.ports.lock().unwrap() = Some(on_connection);
        }

        fn wait(&self) -> Ended {
            self.until_ended()
        }

        fn kill(&self) {
            self.end(false, "killed");
        }

        fn emulator_pid(&self) -> Option<u32> {
            None
        }
    }
}
