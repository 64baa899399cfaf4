//! The device against a driver that follows the rules, and one that does not.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown as Direction;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::csm::BUFFER_BYTES;
use super::muxer::Limits;
use super::packet::{Header, Op, TYPE_STREAM};
use super::{HOST_CID, Vsock, VsockDevice};
use crate::devices::virtio::queue::testing::{Driver, READ, WRITE, memory};
use crate::devices::virtio::{Progress, VirtioDevice as _};
use crate::memory::GuestMemory;

const GUEST_CID: u32 = 3;
const PORT: u32 = 2375;
const QUEUE: u16 = 64;

/// Addresses of the receive buffers, one per descriptor.
const RECEIVE: u64 = 0x20_0000;
const RECEIVE_BYTES: u32 = 4096;
/// Addresses of the packets to send, one per descriptor.
const TRANSMIT: u64 = 0x80_0000;
const TRANSMIT_BYTES: u64 = 68 << 10;

/// A guest with a driver that keeps `buffers` receive buffers in the queue.
struct Guest<'m> {
    device: VsockDevice,
    host: Vsock,
    receive: Driver<'m>,
    transmit: Driver<'m>,
    sent: u64,
    offered: u64,
}

impl<'m> Guest<'m> {
    fn new(memory: &'m GuestMemory, buffers: usize) -> Self {
        let limits = Limits { connections: 8, connect_timeout: Duration::from_secs(600) };
        Guest::with_limits(memory, buffers, limits)
    }

    fn with_limits(memory: &'m GuestMemory, buffers: usize, limits: Limits) -> Self {
        let (device, host) = VsockDevice::with_limits(GUEST_CID, limits).unwrap();
        let receive = Driver::new(memory, 0x1000, QUEUE);
        let transmit = Driver::new(memory, 0x1_0000, QUEUE);
        let mut guest = Guest { device, host, receive, transmit, sent: 0, offered: 0 };
        guest.offer_buffers(buffers);
        guest
    }

    fn offer_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let address = RECEIVE + (self.offered % u64::from(QUEUE)) * u64::from(RECEIVE_BYTES);
            self.receive.add_chain(&[(address, RECEIVE_BYTES, WRITE)]);
            self.offered += 1;
        }
    }

    /// Puts a packet into the transmit queue.
    fn send(&mut self, header: Header, payload: &[u8]) {
        let address = TRANSMIT + (self.sent % u64::from(QUEUE)) * TRANSMIT_BYTES;
        let header = Header { len: u32::try_from(payload.len()).unwrap(), ..header };
        self.transmit.write(address, &header.encode());
        self.transmit.write(address + 44, payload);
        self.transmit.add_chain(&[(address, 44 + header.len, READ)]);
        self.sent += 1;
    }

    /// Lets the device work until it rests; returns the packets it sent. Their buffers are offered again.
    fn run(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        loop {
            let mut queues = [self.receive.as_queue(0), self.transmit.as_queue(1)];
            let progress = self.device.process(&mut queues).unwrap();
            let used = self.receive.take_used();
            let before = packets.len();
            for (head, len) in used {
                let address = RECEIVE + u64::from(head) * u64::from(RECEIVE_BYTES);
                let bytes = self.receive.read(address, usize::try_from(len).unwrap());
                let header = Header::decode(bytes[..44].try_into().unwrap());
                assert_eq!(bytes.len(), 44 + usize::try_from(header.len).unwrap());
                assert_eq!((header.source_cid, header.target_cid), (HOST_CID, GUEST_CID.into()));
                packets.push((header, bytes[44..].to_vec()));
            }
            self.transmit.take_used();
            if progress == Progress::Idle && packets.len() == before {
                return packets;
            }
            self.offer_buffers(packets.len() - before);
        }
    }

    /// Waits for the device's event source, then lets the device work.
    fn run_after_event(&mut self) -> Vec<(Header, Vec<u8>)> {
        let source = self.device.event_source().unwrap();
        poll(&mut [PollFd::new(&source, PollFlags::IN)], None).unwrap();
        self.run()
    }

    /// A connection that the host opened and the guest accepted; the host's end, and a header to answer with.
    fn connected(&mut self, buffer_bytes: u32) -> (UnixStream, Header) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.host.connect_stream(PORT, theirs.into());
        let packets = self.run();
        let [(request, _)] = packets[..] else {
            panic!("a request is expected, not {packets:?}");
        };
        assert_eq!(
            (request.op, request.target_port, request.buffer_bytes),
            (Some(Op::Request), PORT, BUFFER_BYTES)
        );
        let header = Header { buffer_bytes, forwarded: 0, ..answer(&request, Op::Response) };
        self.send(header, &[]);
        assert_eq!(self.run(), []);
        (ours, header)
    }
}

/// A header from the guest in answer to one from the host.
fn answer(header: &Header, op: Op) -> Header {
    Header {
        source_cid: header.target_cid,
        target_cid: header.source_cid,
        source_port: header.target_port,
        target_port: header.source_port,
        len: 0,
        kind: TYPE_STREAM,
        op: Some(op),
        flags: 0,
        buffer_bytes: 1 << 20,
        forwarded: 0,
    }
}

fn request(guest_port: u32, host_port: u32) -> Header {
    Header {
        source_cid: GUEST_CID.into(),
        target_cid: HOST_CID,
        source_port: guest_port,
        target_port: host_port,
        len: 0,
        kind: TYPE_STREAM,
        op: Some(Op::Request),
        flags: 0,
        buffer_bytes: 1 << 20,
        forwarded: 0,
    }
}

fn with(header: Header, op: Op) -> Header {
    Header { op: Some(op), ..header }
}

/// Operations and flags, without what carries data.
fn ops(packets: &[(Header, Vec<u8>)]) -> Vec<(Op, u32)> {
    packets.iter().map(|(header, _)| (header.op.unwrap(), header.flags)).collect()
}

fn payload(packets: &[(Header, Vec<u8>)]) -> Vec<u8> {
    packets
        .iter()
        .filter(|(header, _)| header.op == Some(Op::Data))
        .flat_map(|(_, bytes)| bytes.clone())
        .collect()
}

/// Bytes that differ from their neighbours 64 KiB away.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i + i / 251) % 256).unwrap()).collect()
}

fn read_some(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads what the socket holds now.
fn read_available(stream: &mut UnixStream) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let result = stream.read_to_end(&mut bytes);
    stream.set_nonblocking(false).unwrap();
    assert!(result.is_ok() || result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    bytes
}

#[test]
fn bytes_go_both_ways() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    host.write_all(b"GET /_ping").unwrap();
    let packets = guest.run_after_event();
    assert_eq!(payload(&packets), b"GET /_ping");
    assert_eq!(packets[0].0.target_port, PORT);
    guest.send(with(header, Op::Data), b"O");
    guest.send(with(header, Op::Data), b"K");
    assert_eq!(guest.run(), []);
    assert_eq!(read_some(&mut host, 2), b"OK");
}

#[test]
fn large_transfers_to_the_guest_fill_many_buffers_in_order() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, _) = guest.connected(1 << 20);
    let sent = pattern(150_000);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || host.write_all(&copy));
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let packets = guest.run_after_event();
        assert!(
            packets.iter().all(|(header, _)| header.op == Some(Op::Data) && header.len > 0
                || header.op == Some(Op::Shutdown))
        );
        got.extend(payload(&packets));
    }
    writer.join().unwrap().unwrap();
    assert_eq!(got, sent);
}

#[test]
fn no_more_is_read_from_the_host_than_the_guest_has_room_for() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(100);
    host.write_all(&pattern(250)).unwrap();
    let mut got = payload(&guest.run_after_event());
    assert_eq!(got.len(), 100);
    assert_eq!(guest.run(), [], "no credit, no bytes");
    guest.send(Header { forwarded: 60, ..with(header, Op::CreditUpdate) }, &[]);
    got.extend(payload(&guest.run()));
    assert_eq!(got.len(), 160);
    guest.send(Header { forwarded: 160, ..with(header, Op::CreditUpdate) }, &[]);
    got.extend(payload(&guest.run()));
    assert_eq!(got, pattern(250));
}

#[test]
fn a_refusal_closes_the_hosts_socket() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.host.connect_stream(PORT, theirs.into());
    let packets = guest.run();
    guest.send(answer(&packets[0].0, Op::Reset), &[]);
    assert_eq!(guest.run(), []);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn connect_tells_acceptance_and_refusal() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let mut streams = Vec::new();
    for (op, expected) in [(Op::Response, Ok(())), (Op::Reset, Err(io::ErrorKind::ConnectionRefused))] {
        let handle = guest.host.clone();
        let caller = std::thread::spawn(move || handle.connect(PORT, Duration::from_secs(60)));
        let packets = guest.run_after_event();
        guest.send(answer(&packets[0].0, op), &[]);
        guest.run();
        let result = caller.join().unwrap();
        assert_eq!(result.as_ref().map(|_| ()).map_err(io::Error::kind), expected);
        // Dropped now, the first stream would be an event for the second turn.
        streams.push(result);
    }
}

#[test]
fn a_silent_guest_times_out_and_is_told() {
    let memory = memory();
    let limits = Limits { connections: 8, connect_timeout: Duration::from_millis(5) };
    let mut guest = Guest::with_limits(&memory, 32, limits);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.host.connect_stream(PORT, theirs.into());
    assert_eq!(ops(&guest.run()), [(Op::Request, 0)]);
    assert_eq!(ops(&guest.run_after_event()), [(Op::Reset, 0)]);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn requests_wait_for_a_guest_that_has_not_booted() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 0);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    guest.host.connect_stream(PORT, theirs.into());
    assert_eq!(guest.run(), []);
    guest.device.reset();
    guest.offer_buffers(4);
    assert_eq!(ops(&guest.run()), [(Op::Request, 0)]);
}

#[test]
fn half_close_goes_both_ways() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    host.write_all(b"last words").unwrap();
    host.shutdown(Direction::Write).unwrap();
    let packets = guest.run_after_event();
    assert_eq!(payload(&packets), b"last words");
    assert_eq!(ops(&packets).last(), Some(&(Op::Shutdown, 2)), "after the data: no more will be sent");
    // The guest goes on sending, then half-closes too.
    guest.send(with(header, Op::Data), b"answer");
    guest.run();
    assert_eq!(read_some(&mut host, 6), b"answer");
    guest.send(Header { flags: 2, ..with(header, Op::Shutdown) }, &[]);
    guest.run();
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    // Its close is answered, so that it can use the port again.
    guest.send(Header { flags: 3, ..with(header, Op::Shutdown) }, &[]);
    assert_eq!(ops(&guest.run()), [(Op::Reset, 0)]);
    guest.send(with(header, Op::Data), b"x");
    assert_eq!(ops(&guest.run()), [(Op::Reset, 0)], "the connection is forgotten");
}

#[test]
fn the_guest_may_half_close_first() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    guest.send(with(header, Op::Data), b"all");
    guest.send(Header { flags: 2, ..with(header, Op::Shutdown) }, &[]);
    assert_eq!(guest.run(), []);
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"all");
    host.write_all(b"still here").unwrap();
    assert_eq!(payload(&guest.run_after_event()), b"still here");
    drop(host);
    let told = ops(&guest.run_after_event());
    assert_eq!(told.last(), Some(&(Op::Shutdown, 3)), "{told:?}");
}

#[test]
fn a_vanished_client_is_told_to_the_guest_without_waiting_for_credit() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(4);
    host.write_all(b"12345678").unwrap();
    drop(host);
    let packets = guest.run_after_event();
    assert_eq!(payload(&packets), b"1234");
    assert_eq!(ops(&packets).last(), Some(&(Op::Shutdown, 1)), "it takes no more, but has more");
    guest.send(with(header, Op::Data), b"in vain");
    guest.send(Header { forwarded: 4, ..with(header, Op::CreditUpdate) }, &[]);
    let packets = guest.run();
    assert_eq!(payload(&packets), b"5678");
    // The end was not seen yet when the credit ran out.
    guest.send(Header { forwarded: 8, ..with(header, Op::CreditUpdate) }, &[]);
    let packets = guest.run();
    assert_eq!(ops(&packets).last(), Some(&(Op::Shutdown, 3)));
}

#[test]
fn a_slow_host_stops_the_guest_and_loses_nothing() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    let sent = pattern(2_000_000);
    let (mut at, mut forwarded, mut got) = (0, 0, Vec::new());
    let mut stalled = false;
    while got.len() < sent.len() {
        // As much as the credit allows.
        let credit = usize::try_from(BUFFER_BYTES).unwrap() - (at - forwarded);
        let len = credit.min(60_000).min(sent.len() - at);
        let packets = if len > 0 {
            guest.send(with(header, Op::Data), &sent[at..at + len]);
            at += len;
            guest.run()
        } else {
            stalled = true;
            got.extend(read_available(&mut host));
            guest.run()
        };
        for (header, _) in packets {
            assert_eq!(header.op, Some(Op::CreditUpdate));
            forwarded = usize::try_from(header.forwarded).unwrap();
        }
    }
    assert!(stalled, "the guest never ran out of credit: there was no back-pressure");
    assert!(got == sent);
}

#[test]
fn a_guest_that_ignores_its_credit_is_reset() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    let mut packets = Vec::new();
    for _ in 0..100 {
        guest.send(with(header, Op::Data), &[0; 60_000]);
        packets.extend(guest.run());
        if ops(&packets).contains(&(Op::Reset, 0)) {
            break;
        }
    }
    assert!(ops(&packets).contains(&(Op::Reset, 0)));
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 1_000_000, "what was taken is bounded");
}

#[test]
fn a_close_by_the_guest_delivers_what_it_had_sent() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    // More than the socket takes: the rest waits in the device.
    let sent = pattern(BUFFER_BYTES.try_into().unwrap());
    for piece in sent.chunks(60_000) {
        guest.send(with(header, Op::Data), piece);
    }
    guest.send(Header { flags: 3, ..with(header, Op::Shutdown) }, &[]);
    assert!(ops(&guest.run()).contains(&(Op::Reset, 0)), "the guest does not wait for the host");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        host.read_to_end(&mut all).map(|_| all)
    });
    while !reader.is_finished() {
        let source = guest.device.event_source().unwrap();
        let second = rustix::time::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        poll(&mut [PollFd::new(&source, PollFlags::IN)], Some(&second)).unwrap();
        guest.run();
    }
    assert!(reader.join().unwrap().unwrap() == sent);
}

#[test]
fn a_guest_reaches_listeners_and_nothing_else() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (accepted, connections) = mpsc::channel();
    guest.host.listen(1024, Box::new(move |stream| accepted.send(stream).unwrap()));
    guest.send(request(5000, 1024), &[]);
    guest.send(request(5001, 1025), &[]);
    let answers = guest.run();
    let mut answers: Vec<_> =
        answers.iter().map(|(header, _)| (header.target_port, header.op.unwrap())).collect();
    answers.sort_by_key(|(port, _)| *port);
    assert_eq!(answers, [(5000, Op::Response), (5001, Op::Reset)]);
    let mut stream = connections.try_recv().unwrap();
    guest.send(with(request(5000, 1024), Op::Data), b"ready");
    guest.run();
    assert_eq!(read_some(&mut stream, 5), b"ready");
    stream.write_all(b"go").unwrap();
    assert_eq!(payload(&guest.run_after_event()), b"go");
    // A second request for a connection that exists breaks it.
    guest.send(request(5000, 1024), &[]);
    assert_eq!(ops(&guest.run()), [(Op::Reset, 0)]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_flood_of_requests_meets_a_bounded_table() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (accepted, connections) = mpsc::channel();
    guest.host.listen(1024, Box::new(move |stream| accepted.send(stream).unwrap()));
    let mut answers = Vec::new();
    for port in 0..20 {
        guest.send(request(port, 1024), &[]);
        answers.extend(guest.run());
    }
    let count = |op| ops(&answers).iter().filter(|(seen, _)| *seen == op).count();
    assert_eq!((count(Op::Response), count(Op::Reset)), (8, 12));
    assert_eq!(connections.try_iter().count(), 8);
    // Those streams are dropped: once the guest knows, its connections make room.
    assert_eq!(guest.run_after_event().len(), 8);
    guest.send(request(100, 1024), &[]);
    assert!(ops(&guest.run()).contains(&(Op::Response, 0)));
}

#[test]
fn nonsense_is_answered_with_resets_or_silence() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    let unknown = request(9, 9);
    for op in [Op::Response, Op::Data, Op::Shutdown, Op::CreditUpdate, Op::CreditRequest] {
        guest.send(with(unknown, op), &[]);
    }
    guest.send(Header { op: None, ..unknown }, &[]);
    guest.send(Header { kind: 2, ..unknown }, &[]);
    let answers = guest.run();
    assert_eq!(ops(&answers), [(Op::Reset, 0); 7]);
    // Resets and foreign addresses get no answer: answers to answers would never end.
    guest.send(with(unknown, Op::Reset), &[]);
    guest.send(Header { source_cid: 77, ..unknown }, &[]);
    guest.send(Header { target_cid: 77, ..unknown }, &[]);
    assert_eq!(guest.run(), []);
    // None of this touched the good connection; a second response to it does.
    guest.send(with(header, Op::Data), b"fine");
    guest.run();
    assert_eq!(read_some(&mut host, 4), b"fine");
    guest.send(with(header, Op::Response), &[]);
    assert_eq!(ops(&guest.run()), [(Op::Reset, 0)]);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_guest_without_buffers_is_not_listened_to_for_ever() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 0);
    let unknown = with(request(9, 9), Op::Data);
    let mut offered = 0;
    while offered < 1000 {
        let taken_before = guest.sent;
        for _ in 0..QUEUE / 2 {
            guest.send(unknown, &[]);
            offered += 1;
        }
        assert!(guest.run().is_empty());
        // The device stopped taking packets once too many answers waited.
        if guest.transmit.queue_is_full(guest.sent) {
            assert!(taken_before >= 200, "{taken_before}");
            break;
        }
    }
    assert!(offered < 1000, "all packets were taken in");
    guest.offer_buffers(32);
    let answers = guest.run();
    assert_eq!(u64::try_from(answers.len()).unwrap(), guest.sent);
}

#[test]
fn credit_is_told_when_asked_for() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    guest.send(with(header, Op::Data), &[0; 500]);
    guest.send(with(header, Op::CreditRequest), &[]);
    let answers = guest.run();
    assert_eq!(ops(&answers), [(Op::CreditUpdate, 0)]);
    assert_eq!((answers[0].0.buffer_bytes, answers[0].0.forwarded), (BUFFER_BYTES, 500));
    assert_eq!(read_some(&mut host, 500), [0; 500]);
}

#[test]
fn connections_share_scarce_buffers() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 0);
    guest.offer_buffers(2);
    let (mut first, _) = guest.connected(1 << 20);
    let (mut second, _) = guest.connected(1 << 20);
    for host in [&mut first, &mut second] {
        host.set_nonblocking(true).unwrap();
        while host.write(&[0; 8192]).is_ok() {}
    }
    let packets = guest.run_after_event();
    let mut ports: Vec<u32> = packets.iter().map(|(header, _)| header.source_port).collect();
    let total = ports.len();
    ports.truncate(total / 2);
    ports.dedup();
    assert!(ports.len() > 2, "the connections took turns: {ports:?}");
}

#[test]
fn a_stopped_driver_ends_its_connections() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    guest.send(with(header, Op::Data), b"said before");
    guest.run();
    guest.device.reset();
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"said before");
}

#[test]
fn an_idle_device_has_no_events() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (mut host, header) = guest.connected(1 << 20);
    guest.send(with(header, Op::Data), &[1; 300_000 / 8]);
    host.write_all(b"x").unwrap();
    guest.run_after_event();
    read_available(&mut host);
    guest.run();
    let source = guest.device.event_source().unwrap();
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&source, PollFlags::IN)], Some(&now)).unwrap(), 0);
}

#[test]
fn random_packets_never_break_the_device() {
    let memory = memory();
    let mut guest = Guest::new(&memory, 32);
    let (accepted, connections) = mpsc::channel();
    guest.host.listen(7, Box::new(move |stream| accepted.send(stream).unwrap()));
    let mut streams = Vec::new();
    // xorshift: the same packets in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let small = |value: u64| u32::try_from(value).unwrap();
    for round in 0..20_000 {
        let ops = [
            Op::Request,
            Op::Response,
            Op::Reset,
            Op::Shutdown,
            Op::Data,
            Op::CreditUpdate,
            Op::CreditRequest,
        ];
        let op = ops.get(usize::try_from(random(9)).unwrap()).copied();
        let header = Header {
            op,
            kind: if random(50) == 0 { 2 } else { TYPE_STREAM },
            flags: small(random(4)),
            buffer_bytes: small(random(1 << 18)),
            forwarded: small(random(1 << 18)),
            ..request(small(random(4)), 6 + small(random(2)))
        };
        let len = if op == Some(Op::Data) { usize::try_from(random(20_000)).unwrap() } else { 0 };
        guest.send(header, &vec![0; len]);
        if round % 8 == 0 {
            guest.run();
        }
        streams.extend(connections.try_iter());
        if streams.len() > 4 {
            let mut stream: UnixStream = streams.swap_remove(usize::try_from(random(4)).unwrap());
            let _ = stream.write_all(&[0; 1000]);
            if random(2) == 0 {
                read_available_or_reset(&mut stream);
                streams.push(stream);
            }
        }
    }
    assert!(streams.len() <= 20_000);
}

fn read_available_or_reset(stream: &mut UnixStream) {
    stream.set_nonblocking(true).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}
