//! The way in: clients of the host's that are led to the guest, or to who is behind it.
//!
//! The guest sees them come from its router. It is told of none before it has an address, as it could not answer.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::poller::{Owner, Poller};
use crate::sys::Bell;

/// Clients that wait to be led in.
const WAITING: usize = 1024;

/// A connected TCP socket, and where it is to lead.
pub(crate) type Client = (SocketAddrV4, OwnedFd);

/// Leads clients in, from whatever thread.
#[derive(Clone)]
pub struct Entrance {
    clients: SyncSender<Client>,
    shared: Arc<Shared>,
}

struct Shared {
    bell: Bell,
    /// The guest has its address.
    open: AtomicBool,
}

impl Entrance {
    /// Leads a connected TCP socket to `address`, which is the guest's or one that it routes to. Returns at once: when
    /// nobody is there, the client is closed later.
    ///
    /// # Errors
    /// The client, when the guest has no address or too many others wait.
    pub fn lead(&self, address: SocketAddrV4, client: OwnedFd) -> Result<(), OwnedFd> {
        if !self.shared.open.load(Ordering::Relaxed) {
            return Err(client);
        }
        self.clients.try_send((address, client)).map_err(|refused| {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full((_, client)) | Disconnected((_, client))) = refused;
            client
        })?;
        self.shared.bell.ring();
        Ok(())
    }
}

/// The network's side of it.
pub(crate) struct Door {
    clients: Receiver<Client>,
    entrance: Entrance,
}

impl Door {
    /// Rings with `poller`.
    ///
    /// # Errors
    /// When the host gives no descriptors.
    pub(crate) fn new(poller: &mut Poller) -> io::Result<Self> {
        let (sender, clients) = sync_channel(WAITING);
        let bell = Bell::new()?;
        poller.add(bell.as_owned(), Owner::Entrance)?;
        let shared = Arc::new(Shared { bell, open: AtomicBool::new(false) });
        Ok(Door { clients, entrance: Entrance { clients: sender, shared } })
    }

    pub(crate) fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// The guest has its address.
    pub(crate) fn open(&self) {
        self.entrance.shared.open.store(true, Ordering::Relaxed);
    }

    /// The next client that waits.
    pub(crate) fn next(&self) -> Option<Client> {
        self.clients.try_recv().ok()
    }

    /// Turns everyone away: the guest has forgotten its address.
    pub(crate) fn close(&self) {
        self.entrance.shared.open.store(false, Ordering::Relaxed);
        while self.next().is_some() {}
    }
}
