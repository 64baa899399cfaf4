//! A DHCP client's messages (RFC 2131): an address is asked for once, from the one server on the link, and is kept.

use std::net::Ipv4Addr;

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;

/// The longest message that is read: one frame of an ordinary link.
pub(crate) const MESSAGE_BYTES: usize = 1500;

/// Fields of fixed place, RFC 2131, section 2: lengths up to the options, and what precedes these.
const OPTIONS_AT: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// Asks for answers to everyone: a host without an address hears no others.
const BROADCAST: u8 = 0x80;

/// Options, RFC 2132 and RFC 3397.
const PAD: u8 = 0;
const NETMASK: u8 = 1;
const ROUTER: u8 = 3;
const NAME_SERVERS: u8 = 6;
const MTU: u8 = 26;
const WANTED_ADDRESS: u8 = 50;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const WANTED_OPTIONS: u8 = 55;
const SEARCH: u8 = 119;
const END: u8 = 255;

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Offer,
    Ack,
    Nak,
}

/// What a server offers or gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) server: Ipv4Addr,
    pub(crate) address: Ipv4Addr,
    pub(crate) netmask: Ipv4Addr,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) name_servers: Vec<Ipv4Addr>,
    pub(crate) search: Vec<String>,
    pub(crate) mtu: Option<u16>,
}

/// Asks whether there is a server.
pub(crate) fn discover(transaction: u32, hardware: [u8; 6]) -> Vec<u8> {
    message(transaction, hardware, 1, &[])
}

/// Takes what a server has offered.
pub(crate) fn request(transaction: u32, hardware: [u8; 6], offer: &Lease) -> Vec<u8> {
    let options = [(WANTED_ADDRESS, offer.address.octets()), (SERVER, offer.server.octets())];
    message(transaction, hardware, 3, &options)
}

fn message(transaction: u32, hardware: [u8; 6], kind: u8, options: &[(u8, [u8; 4])]) -> Vec<u8> {
    let mut message = vec![0; OPTIONS_AT];
    message[..3].copy_from_slice(&[REQUEST, ETHERNET, 6]);
    message[4..8].copy_from_slice(&transaction.to_be_bytes());
    message[10] = BROADCAST;
    message[28..34].copy_from_slice(&hardware);
    message[236..240].copy_from_slice(&MAGIC);
    message.extend_from_slice(&[KIND, 1, kind]);
    for (option, address) in options {
        message.extend_from_slice(&[*option, 4]);
        message.extend_from_slice(address);
    }
    message.extend_from_slice(&[WANTED_OPTIONS, 5, NETMASK, ROUTER, NAME_SERVERS, MTU, SEARCH, END]);
    message
}

/// Reads an answer. `None` for what is none, or not to this question.
pub(crate) fn parse(message: &[u8], transaction: u32, hardware: [u8; 6]) -> Option<(Kind, Lease)> {
    let (fixed, options) = message.split_at_checked(OPTIONS_AT)?;
    let ours = fixed[0] == REPLY && fixed[4..8] == transaction.to_be_bytes() && fixed[28..34] == hardware;
    (ours && fixed[236..] == MAGIC).then_some(())?;
    let mut lease = Lease {
        server: Ipv4Addr::UNSPECIFIED,
        address: address(&fixed[16..])?,
        netmask: Ipv4Addr::new(255, 255, 255, 0),
        router: None,
        name_servers: Vec::new(),
        search: Vec::new(),
        mtu: None,
    };
    let mut kind = None;
    let mut rest = options;
    while let [option, after @ ..] = rest {
        match *option {
            PAD => {
                rest = after;
                continue;
            }
            END => break,
            _ => {}
        }
        let (len, after) = after.split_first()?;
        let (data, after) = after.split_at_checked(usize::from(*len))?;
        match (*option, data) {
            (KIND, [2]) => kind = Some(Kind::Offer),
            (KIND, [5]) => kind = Some(Kind::Ack),
            (KIND, [6]) => kind = Some(Kind::Nak),
            (SERVER, _) => lease.server = address(data)?,
            (NETMASK, _) => lease.netmask = address(data)?,
            (ROUTER, _) => lease.router = address(data),
            (NAME_SERVERS, _) => lease.name_servers = data.chunks_exact(4).filter_map(address).collect(),
            (MTU, [high, low]) => lease.mtu = Some(u16::from_be_bytes([*high, *low])),
            (SEARCH, _) => lease.search = names(data),
            _ => {}
        }
        rest = after;
    }
    Some((kind?, lease))
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// Domain names without compression; what is behind the first that is odd is left out.
fn names(mut data: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    while let Some((len, rest)) = data.split_first() {
        let Some((label, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
        data = rest;
        if label.is_empty() {
            if !name.is_empty() {
                names.push(std::mem::take(&mut name));
            }
            continue;
        }
        // It goes into a file of lines and words.
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !label.iter().all(plain) {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(*byte)));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 9];

    /// An answer that is good.
    fn answer() -> Vec<u8> {
        let mut answer = discover(7, HARDWARE);
        answer.truncate(OPTIONS_AT);
        answer[0] = REPLY;
        answer[16..20].copy_from_slice(&[10, 0, 0, 2]);
        answer.extend_from_slice(&[
            PAD, KIND, 1, 5, SERVER, 4, 10, 0, 0, 1, NETMASK, 4, 255, 0, 0, 0, MTU, 2, 5, 220,
        ]);
        answer.extend_from_slice(&[ROUTER, 4, 10, 0, 0, 1, NAME_SERVERS, 8, 10, 0, 0, 1, 10, 0, 0, 3]);
        answer.extend_from_slice(&[SEARCH, 11, 1, b'a', 2, b'b', b'c', 0, 1, b'd', 0, 1, b'\n', END]);
        answer
    }

    #[test]
    fn an_answer_is_read() {
        let (kind, lease) = parse(&answer(), 7, HARDWARE).unwrap();
        let expected = Lease {
            server: Ipv4Addr::new(10, 0, 0, 1),
            address: Ipv4Addr::new(10, 0, 0, 2),
            netmask: Ipv4Addr::new(255, 0, 0, 0),
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            name_servers: vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 3)],
            search: vec!["a.bc".to_owned(), "d".to_owned()],
            mtu: Some(1500),
        };
        assert_eq!((kind, lease), (Kind::Ack, expected));
        assert_eq!(parse(&answer(), 8, HARDWARE), None);
        assert_eq!(parse(&answer(), 7, [0; 6]), None);
    }

    #[test]
    fn a_request_names_what_was_offered() {
        let (_, lease) = parse(&answer(), 7, HARDWARE).unwrap();
        let request = request(7, HARDWARE, &lease);
        assert!(request.windows(6).any(|bytes| bytes == [WANTED_ADDRESS, 4, 10, 0, 0, 2]));
        assert_eq!(parse(&request, 7, HARDWARE), None, "it is no answer");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = answer();
        // A fixed sequence (Numerical Recipes' generator): each run tries the same.
        let mut state = 1_u32;
        let mut next = |end: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(state >> 8).unwrap() % end
        };
        for _ in 0..200_000 {
            let mut bytes = good.clone();
            for _ in 0..next(5) {
                let at = OPTIONS_AT + next(good.len() - OPTIONS_AT);
                bytes[at] = u8::try_from(next(256)).unwrap();
            }
            bytes.truncate(next(good.len() + 1));
            if let Some((_, lease)) = parse(&bytes, 7, HARDWARE) {
                assert!(lease.search.iter().all(|name| !name.contains(char::is_whitespace)));
            }
        }
    }
}
