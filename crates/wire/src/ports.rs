//! Published ports: the guest's engine asks the host to open a port, one a vsock stream to
//! [`crate::vsock::HOST_PORTS_PORT`].
//!
//! The guest sends one `Open` line, the host answers with one `Opened` line. The port stays open as long as the
//! guest keeps its direction of the stream open; when the port is closed, the host closes the stream.
//!
//! What comes to a TCP port is led to `Open::container` by the host's user-mode network, from [`crate::network::GATEWAY`];
//! without one, or one that the guest has an address of, it is carried by a stream of its own from the host to
//! `Open::guest_port`. What comes to a UDP port, from whomever, is carried by one stream, both ways, as `Datagram`s.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4},
};

use serde::{Deserialize, Serialize};

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A port to be opened on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// The guest's vsock port that what comes is carried to.
    pub guest_port: u32,
    /// Of a TCP port: where it leads, if the guest lets the router's packets through to there.
    pub container: Option<SocketAddrV4>,
}

/// The host's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Opened {
    Open,
    /// It cannot be opened: Linux's number of the error, and what the user may do about it, if anything.
    Refused {
        errno: i32,
        hint: String,
    },
}

/// The largest datagram, in bytes (UDP's own bound is a little lower).
pub const MAX_DATAGRAM: usize = 65_535;

/// The head of a datagram on a stream: 2 bytes length, 16 bytes address (IPv4 mapped, RFC 4291 section 2.5.5.2), 2
/// bytes port, all in network byte order. The address is that of the peer beyond the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    pub length: u16,
    pub peer: SocketAddr,
}

impl Datagram {
    /// Bytes of a head.
    pub const HEAD: usize = 20;

    pub fn encode(&self) -> [u8; Self::HEAD] {
        let address = match self.peer.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut head = [0; Self::HEAD];
        head[..2].copy_from_slice(&self.length.to_be_bytes());
        head[2..18].copy_from_slice(&address.octets());
        head[18..].copy_from_slice(&self.peer.port().to_be_bytes());
        head
    }

    pub fn decode(head: &[u8; Self::HEAD]) -> Self {
        let mut address = [0; 16];
        address.copy_from_slice(&head[2..18]);
        let address = IpAddr::V6(Ipv6Addr::from(address)).to_canonical();
        Self {
            length: u16::from_be_bytes([head[0], head[1]]),
            peer: SocketAddr::new(address, u16::from_be_bytes([head[18], head[19]])),
        }
    }

    /// Writes one with its head.
    ///
    /// # Errors
    /// Those of `to`; a datagram that is longer than [`MAX_DATAGRAM`].
    pub fn write(mut to: impl Write, peer: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut all = Vec::with_capacity(Self::HEAD + bytes.len());
        all.extend(Self { length, peer }.encode());
        all.extend(bytes);
        to.write_all(&all)
    }

    /// Reads one into `bytes`; `None` at the end of the stream.
    ///
    /// # Errors
    /// Those of `from`, and an end in the middle.
    pub fn read(mut from: impl Read, bytes: &mut [u8; MAX_DATAGRAM]) -> io::Result<Option<Self>> {
        let mut head = [0; Self::HEAD];
        if from.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut head[1..])?;
        let datagram = Self::decode(&head);
        from.read_exact(&mut bytes[..usize::from(datagram.length)])?;
        Ok(Some(datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_back_and_then_the_end() {
        let mut stream = Vec::new();
        let peers: [SocketAddr; 2] =
            ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:65535".parse().unwrap()];
        Datagram::write(&mut stream, peers[0], b"question").unwrap();
        Datagram::write(&mut stream, peers[1], b"").unwrap();
        let mut bytes = [0; MAX_DATAGRAM];
        let mut from = stream.as_slice();
        let first = Datagram::read(&mut from, &mut bytes).unwrap().unwrap();
        assert_eq!((first.peer, &bytes[..usize::from(first.length)]), (peers[0], &b"question"[..]));
        assert_eq!(
            Datagram::read(&mut from, &mut bytes).unwrap(),
            Some(Datagram { length: 0, peer: peers[1] })
        );
        assert_eq!(Datagram::read(&mut from, &mut bytes).unwrap(), None);
        assert!(Datagram::read(&stream[..5], &mut bytes).is_err());
        assert!(Datagram::write(Vec::new(), peers[0], &[0; MAX_DATAGRAM + 1]).is_err());
    }
}
