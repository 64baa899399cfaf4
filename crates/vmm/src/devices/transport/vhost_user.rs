//! Serves a device to an emulator in another process by the vhost-user protocol
//! (<https://qemu-project.gitlab.io/qemu/interop/vhost-user.html>).
//!
//! The emulator shows the device to its guest, maps guest memory that it shares with us, and passes a pair of eventfds
//! per queue: "kick" from the driver to the device and "call" back. From then on the emulator is not involved in
//! moving data.
//!
//! One thread per device does everything: protocol, kicks, the device's own events. So nothing here is shared, a
//! device is never called while its queues change, and it ends in one place.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error as VhostError, GpuBackend, Result as VhostResult, VhostUserBackendReqHandlerMut,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{GuestAddress, GuestMemoryRegion as _, GuestRegionMmap};

use crate::devices::virtio::queue::Interrupt;
use crate::devices::virtio::{DeviceError, MAX_QUEUES, Progress, VirtQueue, VirtioDevice};
use crate::memory::GuestMemory;
use crate::sys;

/// Tokens of the loop's descriptors. Those of kicks are the queues' numbers.
const PROTOCOL: u64 = u64::MAX;
const DEVICE: u64 = u64::MAX - 1;

/// Why a device is served no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the device's event loop failed")]
    EventLoop(#[source] io::Error),
    #[error("the emulator and the device do not understand each other")]
    Protocol(#[source] VhostError),
    #[error("the device failed")]
    Device(#[source] DeviceError),
    #[error("the device's thread panicked")]
    Panic,
}

/// Who shows the guest a device's configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    /// The emulator asks the device for it.
    Asked,
    /// The emulator knows it, from its own command line.
    Known,
}

/// Serves `device` over `socket` until the emulator closes its end, which is the orderly end.
pub fn serve(device: Box<dyn VirtioDevice>, socket: UnixStream, config: Config) -> Result<(), ServeError> {
    // A bug in a device must end the machine with a message, not leave it with a dead disk.
    catch_unwind(AssertUnwindSafe(|| Server::new(device, socket, config)?.run()))
        .unwrap_or(Err(ServeError::Panic))
}

struct Server {
    backend: Arc<Mutex<Backend>>,
    protocol: BackendReqHandler<Mutex<Backend>>,
    socket: UnixStream,
    epoll: Arc<OwnedFd>,
}

impl Server {
    fn new(device: Box<dyn VirtioDevice>, socket: UnixStream, config: Config) -> Result<Self, ServeError> {
        let setup = || -> io::Result<_> {
            let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
            let watched = socket.try_clone()?;
            epoll::add(&*epoll, &watched, EventData::new_u64(PROTOCOL), EventFlags::IN)?;
            if let Some(source) = device.event_source() {
                epoll::add(&*epoll, source, EventData::new_u64(DEVICE), EventFlags::IN)?;
            }
            Ok((epoll, watched))
        };
        let (epoll, watched) = setup().map_err(ServeError::EventLoop)?;
        let backend = Arc::new(Mutex::new(Backend::new(device, Arc::clone(&epoll), config)));
        let protocol = BackendReqHandler::from_stream(socket, Arc::clone(&backend));
        Ok(Server { backend, protocol, socket: watched, epoll })
    }

    fn run(mut self) -> Result<(), ServeError> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; MAX_QUEUES + 2];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut progress = Progress::Idle;
        loop {
            let timeout = (progress == Progress::Again).then_some(&now);
            let count = match epoll::wait(&*self.epoll, &mut events[..], timeout) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(ServeError::EventLoop(error.into())),
            };
            let mut work = progress == Progress::Again;
            for event in &events[..count] {
                match event.data.u64() {
                    PROTOCOL => {
                        if self.hung_up()? {
                            return Ok(());
                        }
                        if self.take_early_enable()? {
                            continue;
                        }
                        match self.protocol.handle_request() {
                            Ok(()) => {}
                            // It was killed in the middle of a message.
                            Err(VhostError::Disconnected | VhostError::PartialMessage) => return Ok(()),
                            Err(error) => return Err(ServeError::Protocol(error)),
                        }
                        // A queue may have been started with chains in it that no kick will tell of.
                        work = true;
                    }
                    DEVICE => work = true,
                    queue => work |= lock(&self.backend).take_kick(queue),
                }
            }
            if work {
                progress = lock(&self.backend).process().map_err(ServeError::Device)?;
            }
        }
    }

    /// Takes a request to enable a ring that comes before the driver's features, as QEMU sends it for networks; the
    /// protocol library refuses it, since by the specification it needs a feature that nobody has had the chance to
    /// acknowledge. False if the next request is something else.
    fn take_early_enable(&mut self) -> Result<bool, ServeError> {
        if lock(&self.backend).has_features {
            return Ok(false);
        }
        let take = |bytes: &mut [u8], flags| -> io::Result<usize> {
            Ok(retry_on_intr(|| recv(&self.socket, &mut *bytes, flags)).map(|(_, len)| len)?)
        };
        let mut request = [0; EnableRequest::BYTES];
        let peeked = take(&mut request, RecvFlags::PEEK).map_err(ServeError::EventLoop)?;
        let Some(enable) = request.get(..peeked).and_then(EnableRequest::parse) else {
            return Ok(false);
        };
        take(&mut request, RecvFlags::empty()).map_err(ServeError::EventLoop)?;
        let outcome = lock(&self.backend).set_vring_enable(enable.ring, enable.on);
        if enable.wants_reply {
            let reply = enable.reply(outcome.is_ok());
            let sent = retry_on_intr(|| send(&self.socket, &reply, SendFlags::NOSIGNAL));
            // Whether the emulator is gone is seen at the next look.
            if let Err(error) = sent
                && error != rustix::io::Errno::PIPE
            {
                return Err(ServeError::EventLoop(error.into()));
            }
        }
        outcome.map_err(ServeError::Protocol)?;
        Ok(true)
    }

    /// Whether the emulator has closed its end and left nothing to read.
    fn hung_up(&self) -> Result<bool, ServeError> {
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut state = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut state, Some(&now)).map_err(|error| ServeError::EventLoop(error.into()))?;
        let hung_up = state[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        Ok(hung_up && rustix::io::ioctl_fionread(&self.socket).is_ok_and(|waiting| waiting == 0))
    }
}

/// A request to enable a ring or to disable it (section "Front-end message types"): a header of request, flags and size,
/// then the ring's number and 0 or 1; all in the machine's own byte order.
struct EnableRequest {
    ring: u32,
    on: bool,
    wants_reply: bool,
}

impl EnableRequest {
    const BYTES: usize = 20;
    const REQUEST: u32 = 18;
    const PAYLOAD_BYTES: u32 = 8;
    const VERSION: u32 = 0x1;
    const IS_REPLY: u32 = 0x4;
    const WANTS_REPLY: u32 = 0x8;

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let [request, flags, size, ring, on] = words else {
            return None;
        };
        let [request, flags, size, ring, on] =
            [request, flags, size, ring, on].map(|word| u32::from_ne_bytes(*word));
        let wants_reply = flags & EnableRequest::WANTS_REPLY != 0;
        let known = request == EnableRequest::REQUEST && size == EnableRequest::PAYLOAD_BYTES && on <= 1;
        known.then_some(EnableRequest { ring, on: on == 1, wants_reply })
    }

    /// The answer: the same header, and zero for success.
    fn reply(&self, ok: bool) -> [u8; EnableRequest::BYTES] {
        let flags = EnableRequest::VERSION | EnableRequest::IS_REPLY;
        let words = [EnableRequest::REQUEST, flags, EnableRequest::PAYLOAD_BYTES, u32::from(!ok), 0];
        let mut reply = [0; EnableRequest::BYTES];
        for (to, word) in reply.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        reply
    }
}

/// Only the device's thread ever takes this lock; the protocol library asks for one.
fn lock(backend: &Mutex<Backend>) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The eventfd by which the guest is interrupted, once the emulator has passed it.
struct Call(Option<File>);

impl Interrupt for Call {
    fn trigger(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |file| sys::wake(file.as_fd()))
    }
}

struct Ring {
    queue: Queue,
    kick: Option<File>,
    call: Call,
    enabled: bool,
    /// The driver broke the queue's rules: it is not touched until it is set up anew.
    broken: bool,
}

impl Ring {
    fn is_live(&self) -> bool {
        self.enabled && !self.broken && self.queue.ready()
    }
}

/// A piece of guest memory: where the emulator has it, and where the guest.
struct Mapping {
    emulator_address: u64,
    guest_address: u64,
    bytes: u64,
}

/// The state that the protocol's requests act on.
struct Backend {
    device: Box<dyn VirtioDevice>,
    config: Config,
    /// The driver's features are known.
    has_features: bool,
    epoll: Arc<OwnedFd>,
    rings: Vec<Ring>,
    memory: GuestMemory,
    mappings: Vec<Mapping>,
}

impl Backend {
    fn new(device: Box<dyn VirtioDevice>, epoll: Arc<OwnedFd>, config: Config) -> Self {
        let rings = device
            .queue_sizes()
            .iter()
            .take(MAX_QUEUES)
            .filter_map(|&size| Queue::new(size).ok())
            .map(|queue| Ring { queue, kick: None, call: Call(None), enabled: false, broken: false })
            .collect();
        Backend {
            device,
            config,
            has_features: false,
            epoll,
            rings,
            memory: GuestMemory::new(),
            mappings: Vec::new(),
        }
    }

    /// Clears a queue's kick; false if there was none, or its queue is not to be worked on.
    fn take_kick(&mut self, index: u64) -> bool {
        let ring = usize::try_from(index).ok().and_then(|index| self.rings.get(index));
        let Some((ring, kick)) = ring.and_then(|ring| Some((ring, ring.kick.as_ref()?))) else {
            return false;
        };
        sys::clear(kick.as_fd());
        ring.is_live()
    }

    /// Lets the device work.
    fn process(&mut self) -> Result<Progress, DeviceError> {
        let memory = &self.memory;
        let mut queues: Vec<VirtQueue<'_>> = self
            .rings
            .iter_mut()
            .enumerate()
            .map(|(index, ring)| {
                let live = ring.is_live();
                VirtQueue::new(index, live.then_some(&mut ring.queue), memory, &ring.call)
            })
            .collect();
        match self.device.process(&mut queues) {
            Err(DeviceError::Guest(error)) => {
                drop(queues);
                tracing::warn!(
                    device = self.device.name(),
                    error = &error as &dyn std::error::Error,
                    "the guest broke a queue; the device stands still until its driver resets it"
                );
                for ring in &mut self.rings {
                    ring.broken = true;
                }
                self.device.reset();
                Ok(Progress::Idle)
            }
            result => result,
        }
    }

    fn ring(&mut self, index: u32) -> VhostResult<&mut Ring> {
        let index = usize::try_from(index).map_err(|_| VhostError::InvalidParam)?;
        self.rings.get_mut(index).ok_or(VhostError::InvalidParam)
    }

    /// The guest's address of something that the emulator has at `address`.
    fn guest_address(&self, address: u64) -> VhostResult<GuestAddress> {
        self.mappings
            .iter()
            .find_map(|mapping| {
                let offset = address.checked_sub(mapping.emulator_address)?;
                (offset < mapping.bytes).then(|| GuestAddress(mapping.guest_address + offset))
            })
            .ok_or(VhostError::InvalidParam)
    }

    fn watch_kick(epoll: BorrowedFd<'_>, index: u8, ring: &mut Ring, kick: Option<File>) -> io::Result<()> {
        if let Some(old) = ring.kick.take() {
            epoll::delete(epoll, &old)?;
        }
        if let Some(kick) = &kick {
            // A kick left from before is not lost: the eventfd is readable.
            epoll::add(epoll, kick, EventData::new_u64(index.into()), EventFlags::IN)?;
        }
        ring.kick = kick;
        Ok(())
    }

    fn add_region(&mut self, region: &VhostUserMemoryRegion, file: File) -> VhostResult<()> {
        let mapped = region.mmap_region(file)?;
        let mapped = GuestRegionMmap::new(mapped, GuestAddress(region.guest_phys_addr))
            .ok_or(VhostError::InvalidParam)?;
        let bytes = mapped.len();
        self.memory = self
            .memory
            .insert_region(Arc::new(mapped))
            .map_err(|error| VhostError::ReqHandlerError(io::Error::other(error)))?;
        self.mappings.push(Mapping {
            emulator_address: region.user_addr,
            guest_address: region.guest_phys_addr,
            bytes,
        });
        Ok(())
    }
}

fn refuse<T>() -> VhostResult<T> {
    Err(VhostError::InvalidOperation("not offered by this device"))
}

/// The requests of the emulator, in the order of a device's life.
impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> VhostResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> VhostResult<()> {
        Ok(())
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        let transport = [VIRTIO_F_VERSION_1, VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX];
        let transport = transport.into_iter().fold(0, |features, bit| features | 1_u64 << bit);
        Ok(self.device.features() | transport | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> VhostResult<()> {
        if features & !self.get_features()? != 0 {
            return Err(VhostError::InvalidParam);
        }
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let enabled = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        for ring in &mut self.rings {
            ring.queue.set_event_idx(event_idx);
            // Without protocol features there is no request to enable a ring: all are, from the start.
            ring.enabled |= enabled;
        }
        self.has_features = true;
        self.device.negotiated(features);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        let mut features = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        // Offered without need it makes QEMU write a warning, which a user would meet in the message of another error.
        let asked = self.config == Config::Asked && !self.device.config().is_empty();
        features.set(VhostUserProtocolFeatures::CONFIG, asked);
        Ok(features)
    }

    fn set_protocol_features(&mut self, _features: u64) -> VhostResult<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        u64::try_from(self.rings.len()).map_err(|_| VhostError::InvalidParam)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> VhostResult<Vec<u8>> {
        let config = self.device.config();
        let [offset, size] = [offset, size].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        // Fields that a newer emulator knows and the device does not read as zeroes. The size is that of a message.
        Ok((0..size.min(0x1000))
            .map(|at| config.get(offset.saturating_add(at)).copied().unwrap_or(0))
            .collect())
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> VhostResult<()> {
        refuse()
    }

    fn set_mem_table(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> VhostResult<()> {
        self.memory = GuestMemory::new();
        self.mappings.clear();
        for (region, file) in regions.iter().zip(files) {
            self.add_region(region, file)?;
        }
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> VhostResult<()> {
        let size = u16::try_from(num).map_err(|_| VhostError::InvalidParam)?;
        self.ring(index)?.queue.try_set_size(size).map_err(|_| VhostError::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> VhostResult<()> {
        let [descriptor, used, available] =
            [descriptor, used, available].map(|address| self.guest_address(address));
        let (descriptor, used, available) = (descriptor?, used?, available?);
        let index = usize::try_from(index).map_err(|_| VhostError::InvalidParam)?;
        let ring = self.rings.get_mut(index).ok_or(VhostError::InvalidParam)?;
        let queue = &mut ring.queue;
        queue.try_set_desc_table_address(descriptor).map_err(|_| VhostError::InvalidParam)?;
        queue.try_set_avail_ring_address(available).map_err(|_| VhostError::InvalidParam)?;
        queue.try_set_used_ring_address(used).map_err(|_| VhostError::InvalidParam)?;
        // SET_VRING_BASE tells only of the available ring; the used ring tells of itself.
        let next_used =
            queue.used_idx(&self.memory, Ordering::Acquire).map_err(|_| VhostError::InvalidParam)?;
        queue.set_next_used(next_used.0);
        ring.broken = false;
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        let base = u16::try_from(base).map_err(|_| VhostError::InvalidParam)?;
        self.ring(index)?.queue.set_next_avail(base);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.ring(index.into())?.call = Call(fd);
        Ok(())
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let epoll = Arc::clone(&self.epoll);
        let ring = self.ring(index.into())?;
        // Section "Starting and stopping rings": a ring starts with its kick.
        ring.queue.set_ready(fd.is_some());
        Backend::watch_kick(epoll.as_fd(), index, ring, fd).map_err(VhostError::ReqHandlerError)
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> VhostResult<()> {
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> VhostResult<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    /// Stops a ring.
    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        let epoll = Arc::clone(&self.epoll);
        let ring = self.ring(index)?;
        ring.queue.set_ready(false);
        ring.call = Call(None);
        let next = ring.queue.next_avail();
        let number = u8::try_from(index).map_err(|_| VhostError::InvalidParam)?;
        Backend::watch_kick(epoll.as_fd(), number, ring, None).map_err(VhostError::ReqHandlerError)?;
        // Whichever queue stops first: the driver is gone, and with it all that the device knows of it.
        self.device.reset();
        Ok(VhostUserVringState::new(index, next.into()))
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        for ring in &mut self.rings {
            ring.enabled = false;
        }
        self.device.reset();
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        refuse()
    }

    fn add_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion, _file: File) -> VhostResult<()> {
        refuse()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        refuse()
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> VhostResult<()> {
        refuse()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> VhostResult<File> {
        refuse()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> VhostResult<(VhostUserInflight, File)> {
        refuse()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> VhostResult<()> {
        refuse()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> VhostResult<Option<File>> {
        refuse()
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        refuse()
    }

    fn get_shmem_config(&mut self) -> VhostResult<VhostUserShMemConfig> {
        refuse()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> VhostResult<()> {
        refuse()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::JoinHandle;

    use vhost::vhost_user::message::VhostUserConfigFlags;
    use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
    use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
    use vm_memory::FileOffset;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::virtio::queue::testing::{Driver, READ, WRITE};
    use std::os::fd::AsRawFd as _;

    const MEMORY: usize = 1 << 20;
    /// Where the emulator has guest address 0.
    const EMULATOR_BASE: u64 = 0x7000_0000_0000;
    const CONFIG: [u8; 4] = [1, 2, 3, 4];

    /// Answers each chain with the length of its readable part; panics at one of 13 bytes.
    struct Echo;

    impl VirtioDevice for Echo {
        fn name(&self) -> &str {
            "echo"
        }

        fn features(&self) -> u64 {
            0b101
        }

        fn queue_sizes(&self) -> &[u16] {
            &[64, 64]
        }

        fn config(&self) -> &[u8] {
            &CONFIG
        }

        fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError> {
            for queue in queues {
                loop {
                    while let Some(chain) = queue.pop()? {
                        assert_ne!(chain.readable.len(), 13);
                        chain.writable.copy_from(&[7]);
                        queue.push_used(chain.head, u32::try_from(chain.readable.len()).unwrap())?;
                    }
                    queue.notify()?;
                    if !queue.enable_kicks()? {
                        break;
                    }
                }
            }
            Ok(Progress::Idle)
        }

        fn reset(&mut self) {}
    }

    /// An emulator with one guest page of rings, that has negotiated everything and started queue 0.
    struct Emulator {
        frontend: Frontend,
        kick: EventFd,
        call: EventFd,
        server: JoinHandle<Result<(), ServeError>>,
    }

    fn shared_memory() -> (File, GuestMemory) {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(u64::try_from(MEMORY).unwrap()).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory = GuestMemory::from_ranges_with_files([(GuestAddress(0), MEMORY, Some(offset))]).unwrap();
        (file, memory)
    }

    fn start(file: &File, driver: &Driver<'_>, size: u16) -> Emulator {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || serve(Box::new(Echo), theirs, Config::Asked));
        let mut frontend = Frontend::from_stream(ours, 2);
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        assert_eq!(features & 0xff_ffff, 0b101);
        // This driver never says which used chain it wants to hear of.
        frontend.set_features(features & !(1 << VIRTIO_RING_F_EVENT_IDX)).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol).unwrap();
        assert_eq!(frontend.get_queue_num().unwrap(), 2);
        let (_, config) = frontend.get_config(2, 8, VhostUserConfigFlags::WRITABLE, &[0; 8]).unwrap();
        assert_eq!(config, [3, 4, 0, 0, 0, 0, 0, 0], "what the device does not have reads as zeroes");
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: u64::try_from(MEMORY).unwrap(),
            userspace_addr: EMULATOR_BASE,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        let (kick, call) = (EventFd::new(libc::EFD_NONBLOCK).unwrap(), EventFd::new(0).unwrap());
        frontend.set_vring_num(0, size).unwrap();
        let (descriptors, available, used) = driver.rings();
        let rings = VringConfigData {
            queue_max_size: 64,
            queue_size: size,
            flags: 0,
            desc_table_addr: EMULATOR_BASE + descriptors,
            used_ring_addr: EMULATOR_BASE + used,
            avail_ring_addr: EMULATOR_BASE + available,
            log_addr: None,
        };
        frontend.set_vring_addr(0, &rings).unwrap();
        frontend.set_vring_base(0, 0).unwrap();
        frontend.set_vring_call(0, &call).unwrap();
        frontend.set_vring_kick(0, &kick).unwrap();
        frontend.set_vring_enable(0, true).unwrap();
        Emulator { frontend, kick, call, server }
    }

    #[test]
    fn a_device_is_served_from_start_to_end() {
        let (file, memory) = shared_memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        // This one is in the queue before the device starts.
        driver.add_chain(&[(0x1_0000, 5, READ), (0x2_0000, 1, WRITE)]);
        let emulator = start(&file, &driver, 8);
        emulator.call.read().unwrap();
        assert_eq!(driver.take_used(), [(0, 5)]);
        assert_eq!(driver.read(0x2_0000, 1), [7]);
        driver.add_chain(&[(0x1_0000, 6, READ)]);
        emulator.kick.write(1).unwrap();
        emulator.call.read().unwrap();
        assert_eq!(driver.take_used(), [(2, 6)]);
        assert_eq!(emulator.frontend.get_vring_base(0).unwrap(), 2, "the queue stopped after two chains");
        drop(emulator.frontend);
        emulator.server.join().unwrap().unwrap();
    }

    #[test]
    fn a_ring_may_be_enabled_before_anything_is_negotiated() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || serve(Box::new(Echo), theirs, Config::Known));
        for (ring, expected) in [(1_u32, 0_u64), (7, 1)] {
            let mut request = Vec::new();
            for word in [18, 0x9, 8, ring, 1] {
                request.extend_from_slice(&u32::to_ne_bytes(word));
            }
            std::io::Write::write_all(&mut &ours, &request).unwrap();
            let mut reply = [0; 20];
            std::io::Read::read_exact(&mut &ours, &mut reply).unwrap();
            assert_eq!(reply[12..], expected.to_ne_bytes(), "ring {ring}");
        }
        // Of the second one the device has only two.
        assert!(matches!(server.join().unwrap(), Err(ServeError::Protocol(VhostError::InvalidParam))));
    }

    #[test]
    fn a_broken_queue_stands_still_and_the_device_lives_on() {
        let (file, memory) = shared_memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        let emulator = start(&file, &driver, 8);
        driver.add_chain(&[(0xffff_0000, 5, READ)]);
        emulator.kick.write(1).unwrap();
        driver.add_chain(&[(0x1_0000, 5, READ)]);
        emulator.kick.write(1).unwrap();
        // Answered by the same thread, so after the kicks or before; then once more, so after.
        for _ in 0..2 {
            emulator.frontend.get_features().unwrap();
        }
        assert_eq!(driver.take_used(), []);
        drop(emulator.frontend);
        emulator.server.join().unwrap().unwrap();
    }

    #[test]
    fn a_panic_in_a_device_is_reported() {
        let (file, memory) = shared_memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        let emulator = start(&file, &driver, 8);
        driver.add_chain(&[(0x1_0000, 13, READ)]);
        emulator.kick.write(1).unwrap();
        assert!(matches!(emulator.server.join().unwrap(), Err(ServeError::Panic)));
    }

    #[test]
    fn an_emulator_that_talks_nonsense_ends_the_service() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || serve(Box::new(Echo), theirs, Config::Asked));
        std::io::Write::write_all(&mut ours, &[0xff; 12]).unwrap();
        assert!(matches!(server.join().unwrap(), Err(ServeError::Protocol(_))));
    }
}
