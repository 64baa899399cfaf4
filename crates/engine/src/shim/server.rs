//! The shim's loop: one thread that sleeps until a child ends or the engine speaks.

use std::{collections::VecDeque, io, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SocketFlags, accept_with, sockopt::socket_peercred},
    process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid},
};

use super::{
    launch::Program,
    protocol::{MAX_FDS, MAX_PROCESSES, Reply, Request, VERSION, receive, send},
    table::Table,
};

/// How long it stays with nothing to hold and no engine.
const IDLE: Duration = Duration::from_secs(10);

/// The connected engine.
#[derive(Debug)]
struct Engine {
    socket: OwnedFd,
    greeted: bool,
    /// Has asked for the list, so exits make sense to it.
    informed: bool,
    /// Where the list goes on: after this name, or at its start.
    listing: Option<Option<String>>,
    /// Answers not yet taken. Nothing is read while there are any, so it stays short.
    answers: VecDeque<Reply>,
}

#[derive(Debug)]
pub(super) struct Server {
    listener: OwnedFd,
    children: OwnedFd,
    program: Program,
    table: Table,
    engine: Option<Engine>,
}

/// Whether to go on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait,
    End,
}

impl Server {
    /// `listener` listens and does not block; `children` comes from [`super::launch::child_signals`].
    pub(super) fn new(listener: OwnedFd, children: OwnedFd, program: Program) -> Self {
        Self { listener, children, program, table: Table::default(), engine: None }
    }

    /// Serves until nothing is left to hold and nobody asks, or an engine says so.
    ///
    /// # Errors
    /// The loop itself fails: there is nothing the shim could still do.
    pub(super) fn run(mut self, socket_path: &Path) -> io::Result<()> {
        loop {
            if self.turn()? == Next::End {
                // While the lock is still held: a new shim must not lose its socket to us.
                std::fs::remove_file(socket_path)?;
                return Ok(());
            }
        }
    }

    fn turn(&mut self) -> io::Result<Next> {
        self.flush();
        let idle = self.engine.is_none() && self.table.is_empty() && !has_children();
        let timeout =
            idle.then(|| Timespec { tv_sec: i64::try_from(IDLE.as_secs()).unwrap_or(10), tv_nsec: 0 });
        let mut fds =
            vec![PollFd::new(&self.children, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        if let Some(engine) = &self.engine {
            let waits = !engine.answers.is_empty() || engine.listing.is_some();
            fds.push(PollFd::new(&engine.socket, if waits { PollFlags::OUT } else { PollFlags::IN }));
        }
        let ready = match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(Next::Wait),
            Err(error) => return Err(error.into()),
        };
        if ready == 0 {
            return Ok(Next::End);
        }
        let [children, listener, engine] =
            [0, 1, 2].map(|index| fds.get(index).is_some_and(|fd| !fd.revents().is_empty()));
        if children {
            self.reap();
        }
        if engine && self.serve() == Next::End {
            return Ok(Next::End);
        }
        if listener {
            self.accept();
        }
        Ok(Next::Wait)
    }

    fn reap(&mut self) {
        let mut drained = [0; 1024];
        while rustix::io::read(&self.children, &mut drained).is_ok_and(|read| read > 0) {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.table.ended(pid, exit_code(status));
        }
    }

    /// The newest engine is the right one: whoever connected before has died or is dying.
    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return;
        };
        let us = rustix::process::geteuid();
        if !socket_peercred(&socket).is_ok_and(|peer| peer.uid == us) {
            return;
        }
        self.hear_out();
        self.table.new_engine();
        self.engine =
            Some(Engine { socket, greeted: false, informed: false, listing: None, answers: VecDeque::new() });
    }

    /// What the engine before has said and nobody has heard yet still counts: what it has released must
    /// not be told to the next.
    fn hear_out(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        for _ in 0..MAX_PROCESSES {
            match receive::<Request>(&engine.socket, RecvFlags::DONTWAIT) {
                Ok(Some((Request::Release { key }, _))) => self.table.release(&key),
                Ok(Some((Request::CloseInput { key }, _))) => self.table.close_input(&key),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Reads one request. An engine that goes or talks nonsense is let go.
    fn serve(&mut self) -> Next {
        let Some(engine) = &mut self.engine else { return Next::Wait };
        if !engine.answers.is_empty() || engine.listing.is_some() {
            return Next::Wait;
        }
        match receive::<Request>(&engine.socket, RecvFlags::DONTWAIT) {
            Ok(Some((request, fds))) => self.answer(request, fds),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Wait,
            Ok(None) | Err(_) => {
                self.engine = None;
                Next::Wait
            }
        }
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Next {
        let Some(engine) = &mut self.engine else { return Next::Wait };
        let reply = match request {
            Request::Hello { version: VERSION } => {
                engine.greeted = true;
                Some(Reply::Welcome { version: VERSION, pid: std::process::id() })
            }
            Request::Hello { version } => {
                Some(Reply::Refused { reason: format!("this shim speaks version {VERSION}, not {version}") })
            }
            _ if !engine.greeted => Some(Reply::Refused { reason: "no greeting".to_owned() }),
            Request::Spawn { key, arguments, child_fds, input } => {
                let error = self.spawn(&key, &arguments, fds, child_fds, input).err();
                Some(Reply::Spawned { key, error })
            }
            Request::CloseInput { key } => {
                self.table.close_input(&key);
                None
            }
            Request::List => {
                engine.informed = true;
                engine.listing = Some(None);
                None
            }
            Request::Release { key } => {
                self.table.release(&key);
                None
            }
            Request::Quit { force } => {
                if force || !self.table.lives() {
                    return Next::End;
                }
                Some(Reply::Refused { reason: "processes are alive".to_owned() })
            }
        };
        if let (Some(engine), Some(reply)) = (&mut self.engine, reply) {
            engine.answers.push_back(reply);
        }
        Next::Wait
    }

    fn spawn(
        &mut self,
        key: &str,
        arguments: &[String],
        mut fds: Vec<OwnedFd>,
        child_fds: usize,
        input: bool,
    ) -> Result<(), String> {
        if let Some(objection) = self.table.objection(key) {
            return Err(objection.to_owned());
        }
        let needed = child_fds.saturating_add(if input { 2 } else { 1 });
        if fds.len() < needed || fds.len() > MAX_FDS {
            return Err("no descriptor to hold".to_owned());
        }
        let held = fds.split_off(child_fds);
        let helper = self.program.start(arguments, &fds).map_err(|error| error.to_string())?;
        self.table.insert(key.to_owned(), helper, held, input);
        Ok(())
    }

    /// Sends what the engine can take now: answers, then the list, then exits.
    fn flush(&mut self) {
        if self.try_flush().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            self.engine = None;
        }
    }

    fn try_flush(&mut self) -> io::Result<()> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        while let Some(answer) = engine.answers.front() {
            send(&engine.socket, answer, &[])?;
            engine.answers.pop_front();
        }
        while let Some(after) = &engine.listing {
            let Some((reply, fds)) = self.table.after(after.as_deref()) else {
                send(&engine.socket, &Reply::Listed, &[])?;
                engine.listing = None;
                break;
            };
            send(&engine.socket, &reply, &fds)?;
            if let Reply::Held { key, .. } = reply {
                engine.listing = Some(Some(key));
            }
        }
        while engine.informed
            && let Some(exit) = self.table.next_exit()
        {
            if let Err(error) = send(&engine.socket, &exit, &[]) {
                // Told as soon as the engine takes more; should it go instead, the next one is told.
                engine.answers.push_back(exit);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Whether any child is left, also one that nobody asked for.
fn has_children() -> bool {
    // Zombies are gone by now: what is left runs.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255)
}
