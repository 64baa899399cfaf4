//! Thousands of connections at a time.
//!
//! The guest's stack of the other tests looks at all its sockets for each packet. Here each of the guest's ends is a few
//! numbers, and a segment is put together by hand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, TcpPacket};

use super::listener;
use crate::config::Config;
use crate::sys::page_size;
use crate::testing::{GUEST, Guest, HOST, frame};

const FIRST_PORT: u16 = 10_000;
/// The number of the guest's requests: those of its bytes soon begin anew at zero.
const ISN: u32 = 0xffff_f000;
const SYN: u8 = 2;
const RST: u8 = 4;
const PUSH: u8 = 8;
const ACK: u8 = 16;
/// By how much the windows of these ends are shifted.
const SHIFT: u8 = 7;

/// One of the guest's ends.
#[derive(Debug, Default)]
struct End {
    open: bool,
    /// Of the next byte that it sends, and of the next that it expects.
    sequence: u32,
    expected: u32,
    /// Up to where its bytes have arrived, and up to where it may send.
    acknowledged: u32,
    edge: u32,
    shift: u8,
    received: Vec<u8>,
}

/// Many ends, all with the same server.
struct Crowd {
    guest: Guest,
    server: u16,
    ends: Vec<End>,
    /// Whether they take data. If not, they never acknowledge any.
    read: bool,
}

impl Crowd {
    fn new(config: Config, server: u16) -> Self {
        let mut guest = Guest::new(config);
        guest.wire.aside = Some((FIRST_PORT..40_000, Vec::new()));
        Crowd { guest, server, ends: Vec::new(), read: true }
    }

    fn send(&mut self, index: usize, flags: u8, data: &[u8]) {
        let end = &mut self.ends[index];
        let port = FIRST_PORT + u16::try_from(index).unwrap();
        let mut segment = [port.to_be_bytes(), self.server.to_be_bytes()].concat();
        segment.extend_from_slice(&end.sequence.to_be_bytes());
        segment.extend_from_slice(&end.expected.to_be_bytes());
        let syn = flags & SYN != 0;
        segment.extend_from_slice(&[if syn { 0x70 } else { 0x50 }, flags, 0xff, 0xff, 0, 0, 0, 0]);
        if syn {
            // The longest segment, and the windows' shift.
            segment.extend_from_slice(&[2, 4, 0xff, 0xb4, 1, 3, 3, SHIFT]);
        }
        segment.extend_from_slice(data);
        end.sequence = end.sequence.wrapping_add(u32::try_from(data.len()).unwrap() + u32::from(syn));
        self.guest.wire.from_guest.push_back(frame(GUEST, HOST, IpProtocol::Tcp, &segment));
    }

    /// Lets the network work, and the ends answer.
    fn work(&mut self) {
        loop {
            self.guest.work();
            let (ports, frames) = self.guest.wire.aside.take().unwrap();
            self.guest.wire.aside = Some((ports, Vec::new()));
            if frames.is_empty() {
                return;
            }
            for frame in &frames {
                self.take(frame);
            }
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let packet = Ipv4Packet::new_checked(EthernetFrame::new_unchecked(frame).payload()).unwrap();
        let segment = TcpPacket::new_checked(packet.payload()).unwrap();
        assert!(segment.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()));
        assert!(!segment.rst(), "a connection was reset");
        let index = usize::from(segment.dst_port() - FIRST_PORT);
        let end = &mut self.ends[index];
        let acknowledged = segment.ack_number().0.cast_unsigned();
        end.acknowledged = acknowledged;
        if segment.syn() {
            end.open = true;
            end.expected = segment.seq_number().0.cast_unsigned().wrapping_add(1);
            // smoltcp's rings are long enough for the same shift in all connections.
            end.shift =
                *segment.options().windows(3).find(|bytes| bytes[..2] == [3, 3]).unwrap().last().unwrap();
            end.edge = acknowledged + u32::from(segment.window_len());
            self.send(index, ACK, &[]);
            return;
        }
        end.edge = acknowledged.wrapping_add(u32::from(segment.window_len()) << end.shift);
        if self.read && !segment.payload().is_empty() {
            if segment.seq_number().0.cast_unsigned() == end.expected {
                end.received.extend_from_slice(segment.payload());
                end.expected = end.expected.wrapping_add(u32::try_from(segment.payload().len()).unwrap());
            }
            self.send(index, ACK, &[]);
        }
    }

    /// Works until `done` holds.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Crowd) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            self.work();
            if done(self) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{what} did not come about");
            self.guest.wait(Duration::from_millis(5));
        }
    }

    /// Opens connections, a few hundred at a time.
    fn open(&mut self, count: usize) {
        let all = self.ends.len() + count;
        while self.ends.len() < all {
            let begin = self.ends.len();
            for index in begin..all.min(begin + 256) {
                self.ends.push(End { sequence: ISN, ..End::default() });
                self.send(index, SYN, &[]);
            }
            self.until("connections", |crowd| crowd.ends[begin..].iter().all(|end| end.open));
        }
    }
}

fn raise_open_files(need: u64) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let enough = limit.maximum.is_none_or(|maximum| maximum >= need);
    assert!(enough, "this test needs {need} open files, the hard limit (ulimit -Hn) is {:?}", limit.maximum);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * page_size()
}

const FLOWS: usize = 10_000;
/// Makes this test the server of another one: a process has not descriptors enough for both ends.
const SERVER: &str = "USERNET_TEST_SERVER";
const GREETING: &str = "port ";

/// Answers each of the connections once with what it sends, and stays until its standard input ends.
fn serve() {
    let (listener, port) = listener();
    rustix::net::listen(&listener, 4096).unwrap();
    let mut stdout = std::io::stdout();
    writeln!(stdout, "\n{GREETING}{port}").unwrap();
    stdout.flush().unwrap();
    let mut streams: Vec<TcpStream> = (0..FLOWS).map(|_| listener.accept().unwrap().0).collect();
    for stream in &mut streams {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn ten_thousand_connections() {
    raise_open_files(FLOWS as u64 + 4000);
    if std::env::var_os(SERVER).is_some() {
        return serve();
    }
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::crowd::ten_thousand_connections", "--nocapture"])
        .env(SERVER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = lines.find_map(|line| line.unwrap().strip_prefix(GREETING)?.parse().ok()).unwrap();

    let before = resident();
    let mut crowd = Crowd::new(Config::default(), port);
    crowd.open(FLOWS);
    assert_eq!(crowd.guest.network.conversations().0, FLOWS);
    for index in 0..FLOWS {
        crowd.send(index, ACK | PUSH, &u64::try_from(index).unwrap().to_be_bytes());
        if index % 256 == 0 {
            crowd.work();
        }
    }
    crowd.until("all answers", |crowd| crowd.ends.iter().all(|end| end.received.len() == 8));
    for (index, end) in crowd.ends.iter().enumerate() {
        assert_eq!(end.received, u64::try_from(index).unwrap().to_be_bytes());
    }

    // They are idle now: nothing of them wakes anybody, and their buffers are gone.
    crowd.until("quiet", |crowd| crowd.guest.network.deadline().is_none());
    assert_eq!(crowd.guest.network.buffered(), (0, 0));
    let each = resident().saturating_sub(before) / FLOWS;
    writeln!(std::io::stderr(), "{each} bytes for each of {FLOWS} idle connections").unwrap();
    assert!(each < 8 << 10, "{each} bytes for an idle connection");

    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    crowd.guest.network.reset();
    assert_eq!(crowd.guest.network.conversations().0, 0);
}

/// What waits in connections, counted and as the kernel has it, against what may.
fn ensure_bounded(crowd: &Crowd, budget: usize) {
    let (counted, resident) = crowd.guest.network.buffered();
    // However little is left, a connection gets a page for the host's bytes and two for the guest's.
    let most = budget + crowd.ends.len() * 3 * page_size();
    assert!(
        resident <= counted && counted <= most,
        "{resident} bytes resident, {counted} counted, {most} allowed"
    );
}

#[test]
fn a_thousand_connections_that_never_read_share_one_budget() {
    const CONNECTIONS: usize = 1000;
    const BUDGET: usize = 4 << 20;
    raise_open_files(6000);
    let (listener, port) = listener();
    rustix::net::sockopt::set_socket_send_buffer_size(&listener, 16 << 10).unwrap();
    let mut config = Config::default();
    config.limits.buffers = BUDGET;
    let mut crowd = Crowd::new(config, port);
    crowd.read = false;
    let mut streams = Vec::new();
    while streams.len() < CONNECTIONS {
        crowd.open(100);
        for _ in 0..100 {
            let stream = listener.accept().unwrap().0;
            stream.set_nonblocking(true).unwrap();
            streams.push(stream);
        }
    }

    // The servers send until nobody takes any more.
    let piece = vec![7; 64 << 10];
    let mut still = 0;
    crowd.until("the servers are held back", |crowd| {
        let mut sent = 0;
        for stream in &mut streams {
            sent += stream.write(&piece).unwrap_or(0);
        }
        ensure_bounded(crowd, BUDGET);
        still = if sent == 0 { still + 1 } else { 0 };
        still > 3
    });
    let (counted, _) = crowd.guest.network.buffered();
    assert!(counted > BUDGET, "only {counted} bytes wait: this shows nothing");

    // One that reads gets through nevertheless.
    let handle = crowd.guest.connect(HOST, port);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut received) = (0, 0);
    crowd.until("all bytes", |crowd| {
        sent += stream.write(&piece[..piece.len().min((1 << 20) - sent)]).unwrap_or(0);
        let socket = crowd.guest.tcp(handle);
        while socket.can_recv() {
            received += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        ensure_bounded(crowd, BUDGET);
        received == 1 << 20
    });

    // When they read, everything arrives, and the memory is given back.
    crowd.read = true;
    drop(streams);
    crowd.guest.network.reset();
    assert_eq!(crowd.guest.network.buffered(), (0, 0));
}

#[test]
fn a_server_that_never_reads_costs_a_share_and_is_heard_again_when_it_does() {
    const CONNECTIONS: usize = 24;
    const BUDGET: usize = 512 << 10;
    raise_open_files(6000);
    let (listener, port) = listener();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 16 << 10).unwrap();
    let mut config = Config::default();
    config.limits.buffers = BUDGET;
    let mut crowd = Crowd::new(config, port);
    crowd.open(CONNECTIONS);
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| listener.accept().unwrap().0).collect();

    // As a decent guest does, the ends send as far as they may.
    let mut sent = [0_usize; CONNECTIONS];
    crowd.until("the guest is held back", |crowd| {
        let mut more = false;
        for (index, sent) in sent.iter_mut().enumerate() {
            let end = &crowd.ends[index];
            let may = usize::try_from(end.edge.wrapping_sub(end.sequence).cast_signed()).unwrap_or(0);
            let piece = vec![index.to_le_bytes()[0]; may.min(60_000)];
            if !piece.is_empty() {
                crowd.send(index, ACK | PUSH, &piece);
                *sent += piece.len();
                more = true;
            }
        }
        crowd.work();
        ensure_bounded(crowd, BUDGET);
        !more
    });
    let (counted, _) = crowd.guest.network.buffered();
    assert!(counted > BUDGET / 2, "only {counted} bytes wait: this shows nothing");

    // An indecent one sends beyond: what there is no memory for is not taken.
    for index in 0..CONNECTIONS {
        for _ in 0..20 {
            crowd.send(index, ACK | PUSH, &[index.to_le_bytes()[0]; 60_000]);
        }
    }
    crowd.work();
    ensure_bounded(&crowd, BUDGET);
    for (end, sent) in crowd.ends.iter_mut().zip(&mut sent) {
        end.sequence = end.acknowledged;
        *sent = usize::try_from(end.acknowledged.wrapping_sub(ISN + 1)).unwrap();
    }

    // The server reads at last: all that was acknowledged is there, and the guest hears that it may send on, though it
    // has not asked.
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
    }
    let mut received = [0_usize; CONNECTIONS];
    let mut bytes = vec![0; 1 << 20];
    crowd.until("all bytes, and room for more", |crowd| {
        for (index, stream) in streams.iter_mut().enumerate() {
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                assert!(bytes[..count].iter().all(|byte| *byte == index.to_le_bytes()[0]));
                received[index] += count;
            }
        }
        let may = |end: &End| end.edge.wrapping_sub(end.sequence).cast_signed() > 8000;
        received == sent && crowd.ends.iter().all(may)
    });
}

#[test]
fn a_guest_that_takes_its_request_back_leaves_nothing() {
    let (listener, port) = listener();
    let mut crowd = Crowd::new(Config::default(), port);
    crowd.ends.push(End { sequence: ISN, ..End::default() });
    crowd.send(0, SYN, &[]);
    let answered =
        |guest: &mut Guest| guest.wire.aside.as_ref().is_some_and(|(_, frames)| !frames.is_empty());
    crowd.guest.until("an answer", answered);
    // A reset, and at once another request.
    crowd.send(0, RST | ACK, &[]);
    crowd.send(0, SYN, &[]);
    crowd.guest.work();
    assert_eq!(crowd.guest.network.conversations().0, 0);
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn more_than_was_ever_offered_is_not_taken() {
    const PIECE: usize = 60_000;
    let (listener, port) = listener();
    let mut crowd = Crowd::new(Config::default(), port);
    crowd.open(1);
    let (mut stream, _) = listener.accept().unwrap();
    // All in one go, before anything can be acknowledged.
    for _ in 0..60 {
        crowd.send(0, ACK | PUSH, &[5; PIECE]);
    }
    crowd.work();
    let arrived = usize::try_from(crowd.ends[0].acknowledged.wrapping_sub(ISN + 1)).unwrap();
    assert!((PIECE..60 * PIECE).contains(&arrived), "{arrived} bytes");
    let mut received = vec![0; arrived];
    stream.read_exact(&mut received).unwrap();
    assert!(received.iter().all(|byte| *byte == 5));
}
