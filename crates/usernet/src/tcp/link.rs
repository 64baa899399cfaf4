//! smoltcp's view of the guest's link: one packet in, any number out.

use std::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use super::window::Window;
use crate::outbox::Outbox;

/// The longest packet that the guest gets in one piece. Less than a packet may have, so that data for a guest whose MTU
/// is the link's comes in whole segments.
const LONGEST: usize = 65_500;

/// The link while smoltcp has a packet to take or room to fill.
pub(super) struct Link<'l, 'o> {
    packet: Option<&'l [u8]>,
    out: &'l mut Outbox<'o>,
    window: Option<&'l mut Window>,
}

impl<'l, 'o> Link<'l, 'o> {
    /// `packet` is the one that comes in. What goes out tells of no more than `window`.
    pub(super) fn new(
        packet: Option<&'l [u8]>,
        out: &'l mut Outbox<'o>,
        window: Option<&'l mut Window>,
    ) -> Self {
        Link { packet, out, window }
    }
}

impl<'o> Device for Link<'_, 'o> {
    type RxToken<'a>
        = Incoming<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Room<'a, 'o>
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'_>, Room<'_, 'o>)> {
        let packet = self.packet.take()?;
        let window = self.window.as_deref_mut();
        Some((Incoming(packet), Room { out: self.out, window, segment: None }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_, 'o>> {
        let room = self.out.has_room();
        room.then_some(Room { out: self.out, window: self.window.as_deref_mut(), segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let offloads = self.out.offloads();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.out.mtu());
        // The outbox fills them in, the guest's are not looked at.
        capabilities.checksum = ChecksumCapabilities::ignored();
        let longest = |offered: bool| NonZeroUsize::new(LONGEST).filter(|_| offered && offloads.checksum);
        capabilities.segmentation.tcpv4 = longest(offloads.tso4);
        capabilities.segmentation.tcpv6 = longest(offloads.tso6);
        capabilities
    }
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Room<'a, 'o> {
    out: &'a mut Outbox<'o>,
    window: Option<&'a mut Window>,
    segment: Option<NonZeroU16>,
}

impl TxToken for Room<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let window = self.window;
        self.out.tcp(len, self.segment.map(NonZeroU16::get), |packet| {
            let result = f(packet);
            if let Some(window) = window {
                window.limit(packet);
            }
            result
        })
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
