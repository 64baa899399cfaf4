//! The guest's network card, joined to the user-mode network: two crates that do not know each other.

use std::{io, os::fd::BorrowedFd};

use usernet::{Config, Entrance, FRAME_BYTES, HEADER_BYTES};
use vmm::NetConfig;
use vmm::net::{self, Progress};
use wire::network::{GATEWAY, GUEST, HOST, HOST_NAMES, PREFIX};

/// The guest's Ethernet address. Each machine is alone on its network, so machines can share it. Locally administered,
/// as the router's.
const GUEST_MAC: [u8; 6] = [0x02, 0x63, 0x6f, 0x72, 0x61, 0x02];

// What passes here is one and the same frame.
const _: () = assert!(HEADER_BYTES == net::HEADER_BYTES && FRAME_BYTES > 1 << 16);

/// A card on a network of its own, which leads wherever this process may go, and the way in to the guest.
///
/// # Errors
/// When the host gives no descriptors.
pub(crate) fn card() -> io::Result<(NetConfig, Entrance)> {
    let config = Config {
        guest: GUEST,
        guest_mac: Some(GUEST_MAC),
        gateway: GATEWAY,
        host: HOST,
        prefix: PREFIX,
        host_names: HOST_NAMES.map(str::to_owned).to_vec(),
        ..Config::default()
    };
    let mtu = config.mtu;
    let network = usernet::Network::new(config)?;
    let entrance = network.entrance();
    Ok((NetConfig { mac: GUEST_MAC, mtu, network: Box::new(Network(network)) }, entrance))
}

struct Network(usernet::Network);

impl net::Network for Network {
    fn event_source(&self) -> BorrowedFd<'_> {
        self.0.event_source()
    }

    fn work(&mut self, guest: &mut dyn net::Frames) -> io::Result<Progress> {
        Ok(match self.0.exchange(&mut Frames(guest))? {
            usernet::Progress::Idle => Progress::Idle,
            usernet::Progress::Again => Progress::Again,
        })
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

struct Frames<'a>(&'a mut dyn net::Frames);

impl usernet::Frames for Frames<'_> {
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        self.0.receive(frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        self.0.send(frame)
    }

    fn offloads(&self) -> usernet::Offloads {
        let offloads = self.0.offloads();
        usernet::Offloads {
            checksum: offloads.guest_csum,
            tso4: offloads.guest_tso4,
            tso6: offloads.guest_tso6,
        }
    }
}
