//! The state of one connection as the protocol sees it: who may still send, and how much.
//!
//! Nothing here touches a queue or a socket; [`connection`](super::connection) adds those.
//!
//! *Credit* (section 5.10.6.3). Each side tells the other, in every packet, how large its receive buffer is and how
//! many bytes it has taken out of it in all. A sender may have at most a buffer of bytes under way. All counters are
//! taken modulo 2^32.

use std::num::Wrapping;

use super::packet::{Header, Shutdown};

/// The receive buffer that we promise to each of the guest's connections, in bytes. It is allocated only while the
/// host's end does not keep up.
pub(super) const BUFFER_BYTES: u32 = 256 << 10;

/// How much of the buffer must have become free before the guest is told without being asked.
const UPDATE_BYTES: u32 = BUFFER_BYTES / 4;

/// The guest sent more than it had credit for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

/// Both directions' flow control.
#[derive(Debug, Default)]
pub(super) struct Credit {
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    announced: Wrapping<u32>,
}

impl Credit {
    /// Takes over what the guest says of its buffer.
    pub(super) fn learn(&mut self, header: &Header) {
        self.guest_buffer = header.buffer_bytes;
        self.guest_forwarded = Wrapping(header.forwarded);
    }

    /// Bytes that the guest has room for. A guest that claims to have taken more than it was sent has none.
    pub(super) fn guest_space(&self) -> u32 {
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    /// Counts bytes that were sent to the guest.
    pub(super) fn count_sent(&mut self, bytes: u32) {
        self.sent += bytes;
    }

    /// Counts bytes that came from the guest.
    pub(super) fn count_received(&mut self, bytes: u32) -> Result<(), Overrun> {
        if bytes > BUFFER_BYTES - self.buffered() {
            return Err(Overrun);
        }
        self.received += bytes;
        Ok(())
    }

    /// Counts received bytes that have left our buffer.
    pub(super) fn count_forwarded(&mut self, bytes: u32) {
        self.forwarded += bytes;
    }

    /// Counts everything received as gone from our buffer.
    pub(super) fn count_all_forwarded(&mut self) {
        self.forwarded = self.received;
    }

    /// Bytes received and not forwarded. At most [`BUFFER_BYTES`], because `count_received` keeps it so.
    fn buffered(&self) -> u32 {
        (self.received - self.forwarded).0
    }

    /// Whether so much has become free that the guest should be told.
    pub(super) fn update_due(&self) -> bool {
        (self.forwarded - self.announced).0 >= UPDATE_BYTES
    }

    /// The counter of forwarded bytes, for a packet that is about to go to the guest.
    pub(super) fn announce(&mut self) -> u32 {
        self.announced = self.forwarded;
        self.forwarded.0
    }
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request goes to the guest, or has gone; it has not answered.
    Connecting,
    /// Bytes flow in the directions that neither side has closed.
    Open,
    /// The guest has let go of the connection; the host's end still has bytes to take.
    Draining,
}

/// What each side has declared closed, and what the guest has been told of it.
#[derive(Debug, Default)]
pub(super) struct Closing {
    pub(super) guest: Shutdown,
    pub(super) host: Shutdown,
    pub(super) host_told: Shutdown,
}

impl Closing {
    /// Whether the guest has to be sent a shutdown.
    pub(super) fn news_for_guest(&self) -> bool {
        self.host != self.host_told
    }

    /// Whether neither direction will carry another byte and the guest knows it.
    pub(super) fn settled(&self) -> bool {
        let to_guest = self.guest.receive || self.host_told.send;
        let to_host = self.guest.send || self.host_told.receive;
        to_guest && to_host
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::vsock::packet::{Op, TYPE_STREAM};

    fn header(buffer_bytes: u32, forwarded: u32) -> Header {
        Header {
            source_cid: 3,
            target_cid: 2,
            source_port: 1,
            target_port: 1,
            len: 0,
            kind: TYPE_STREAM,
            op: Some(Op::CreditUpdate),
            flags: 0,
            buffer_bytes,
            forwarded,
        }
    }

    #[test]
    fn the_guests_space_shrinks_with_what_is_under_way() {
        let mut credit = Credit::default();
        assert_eq!(credit.guest_space(), 0, "nothing before the guest has spoken");
        credit.learn(&header(1000, 0));
        credit.count_sent(600);
        assert_eq!(credit.guest_space(), 400);
        credit.learn(&header(1000, 600));
        assert_eq!(credit.guest_space(), 1000);
        credit.count_sent(1000);
        assert_eq!(credit.guest_space(), 0);
        // The guest shrinks its buffer below what is under way.
        credit.learn(&header(10, 600));
        assert_eq!(credit.guest_space(), 0);
    }

    #[test]
    fn counters_wrap_around() {
        let mut credit = Credit {
            sent: Wrapping(u32::MAX - 9),
            guest_forwarded: Wrapping(u32::MAX - 9),
            ..Credit::default()
        };
        credit.learn(&header(100, u32::MAX - 9));
        credit.count_sent(30);
        assert_eq!(credit.guest_space(), 70);
        credit.learn(&header(100, 20));
        assert_eq!(credit.guest_space(), 100);
        // Claiming to have taken what was never sent earns nothing.
        credit.learn(&header(100, 21));
        assert_eq!(credit.guest_space(), 0);
    }

    #[test]
    fn a_guest_cannot_send_beyond_the_buffer() {
        let mut credit = Credit::default();
        credit.count_received(BUFFER_BYTES - 1).unwrap();
        assert_eq!(credit.count_received(2), Err(Overrun));
        credit.count_received(1).unwrap();
        assert_eq!(credit.count_received(1), Err(Overrun));
        credit.count_forwarded(1);
        credit.count_received(1).unwrap();
        assert_eq!(credit.count_received(u32::MAX), Err(Overrun));
    }

    #[test]
    fn the_guest_is_told_of_space_in_large_steps() {
        let mut credit = Credit::default();
        credit.count_received(BUFFER_BYTES).unwrap();
        credit.count_forwarded(UPDATE_BYTES - 1);
        assert!(!credit.update_due());
        credit.count_forwarded(1);
        assert!(credit.update_due());
        assert_eq!(credit.announce(), UPDATE_BYTES);
        assert!(!credit.update_due());
    }

    #[test]
    fn a_connection_is_settled_when_both_directions_are_closed_by_either_side() {
        let receive = Shutdown { receive: true, send: false };
        let send = Shutdown { receive: false, send: true };
        for (guest, host_told, settled) in [
            (send, send, true),
            (receive, receive, true),
            (Shutdown::default(), Shutdown::BOTH, true),
            (Shutdown::BOTH, Shutdown::default(), true),
            (send, receive, false),
            (receive, send, false),
            (Shutdown::default(), send, false),
        ] {
            let closing = Closing { guest, host_told, host: host_told };
            assert_eq!(closing.settled(), settled, "{guest:?} {host_told:?}");
        }
    }
}
