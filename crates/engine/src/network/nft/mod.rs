//! nf_tables: a table of this engine's own, replaced as a whole in one transaction, so that at no instant are
//! there half of its rules. Formats are those of `linux/netfilter/nf_tables.h`.

mod rules;

use std::{io, net::IpAddr};

use super::{
    address::Prefix,
    netlink::{Message, NLM_F_APPEND, NLM_F_CREATE, Socket},
};

pub(super) use rules::{BridgeRules, PublishedRule, Ruleset, Subnet, resolver};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const COMPARE_EQUAL: u32 = 0;
const COMPARE_NOT_EQUAL: u32 = 1;
const CT_STATE: u32 = 0;
/// `NF_CT_STATE_BIT` of established and related.
const CT_OF_OLD: u32 = 0b110;
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
const LOCAL_ADDRESS: u32 = 2;
/// Bytes of an interface's name in a register.
const NAME_SIZE: usize = 16;

/// Where a chain sees packets: a hook, and the order of chains at it.
#[derive(Debug, Clone, Copy)]
enum Hook {
    RawPrerouting,
    NatPrerouting,
    NatOutput,
    Forward,
    NatPostrouting,
}

impl Hook {
    /// The type of chain, the number of the hook, the priority.
    fn parameters(self) -> (&'static str, u32, i32) {
        match self {
            Self::RawPrerouting => ("filter", 0, -300),
            Self::NatPrerouting => ("nat", 0, -100),
            Self::Forward => ("filter", 2, 0),
            Self::NatOutput => ("nat", 3, -100),
            Self::NatPostrouting => ("nat", 4, 100),
        }
    }
}

/// Which direction of a packet is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy)]
enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
}

/// A table being written.
#[derive(Debug)]
struct Table {
    name: &'static str,
    messages: Vec<Message>,
}

fn message(kind: u16, flags: u16) -> Message {
    let [high, low] = 0u16.to_be_bytes();
    Message::new(SUBSYSTEM << 8 | kind, flags).put(&[NFPROTO_INET, 0, high, low])
}

fn batch(kind: u16) -> Message {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::new(kind, 0).put(&[NFPROTO_UNSPEC, 0, high, low])
}

impl Table {
    /// Takes the place of the table of that name.
    fn replacing(name: &'static str) -> Self {
        let table = |kind, flags| message(kind, flags).text(TABLE_NAME, name);
        // Removing what may not be there needs it to be made first.
        let begin = vec![
            batch(BATCH_BEGIN),
            table(NEWTABLE, NLM_F_CREATE),
            table(DELTABLE, 0),
            table(NEWTABLE, NLM_F_CREATE),
        ];
        Self { name, messages: begin }
    }

    /// Removes the table of that name, which may not be there.
    fn removing(name: &'static str) -> Self {
        let mut table = Self::replacing(name);
        table.messages.pop();
        table
    }

    /// A chain that packets come to by a jump.
    fn chain(&mut self, name: &str) {
        self.messages
            .push(message(NEWCHAIN, NLM_F_CREATE).text(CHAIN_TABLE, self.name).text(CHAIN_NAME, name));
    }

    /// A chain that every packet comes to, and that lets pass what no rule of it stops.
    fn base_chain(&mut self, name: &str, hook: Hook) {
        let (kind, number, priority) = hook.parameters();
        const ACCEPT: u32 = 1;
        self.messages.push(
            message(NEWCHAIN, NLM_F_CREATE)
                .text(CHAIN_TABLE, self.name)
                .text(CHAIN_NAME, name)
                .nest(CHAIN_HOOK, |hook| {
                    hook.be32(HOOK_NUMBER, number).bytes(HOOK_PRIORITY, &priority.to_be_bytes())
                })
                .be32(CHAIN_POLICY, ACCEPT)
                .text(CHAIN_TYPE, kind),
        );
    }

    fn rule(&mut self, chain: &str, rule: Rule) {
        self.messages.push(
            message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
                .text(RULE_TABLE, self.name)
                .text(RULE_CHAIN, chain)
                .nest(RULE_EXPRESSIONS, |mut all| {
                    for (name, fill) in rule.0 {
                        all = all.nest(LIST_ELEMENT, |element| {
                            element.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill)
                        });
                    }
                    all
                }),
        );
    }

    /// Hands the table to the kernel.
    fn commit(mut self, socket: &mut Socket) -> io::Result<()> {
        self.messages.push(batch(BATCH_END));
        socket.transaction(self.messages)
    }
}

type Fill = Box<dyn FnOnce(Message) -> Message>;

/// A rule: expressions in a row, each of which may end the packet's way through it.
#[derive(Default)]
struct Rule(Vec<(&'static str, Fill)>);

impl Rule {
    fn new() -> Self {
        Self::default()
    }

    fn with(mut self, name: &'static str, fill: impl FnOnce(Message) -> Message + 'static) -> Self {
        self.0.push((name, Box::new(fill)));
        self
    }

    fn compare(self, operation: u32, value: Vec<u8>) -> Self {
        self.with("cmp", move |data| {
            data.be32(1, REGISTER_1).be32(2, operation).nest(3, |inner| inner.bytes(DATA_VALUE, &value))
        })
    }

    fn meta(self, key: u32) -> Self {
        self.with("meta", move |data| data.be32(1, REGISTER_1).be32(2, key))
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        self.with("payload", move |data| {
            data.be32(1, REGISTER_1).be32(2, base).be32(3, offset).be32(4, length)
        })
    }

    fn and(self, mask: Vec<u8>) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        self.with("bitwise", move |data| {
            data.be32(1, REGISTER_1)
                .be32(2, REGISTER_1)
                .be32(3, length)
                .nest(4, |inner| inner.bytes(DATA_VALUE, &mask))
                .nest(5, |inner| inner.bytes(DATA_VALUE, &vec![0; mask.len()]))
        })
    }

    fn interface(self, key: u32, name: &str, operation: u32) -> Self {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(NAME_SIZE, 0);
        self.meta(key).compare(operation, padded)
    }

    fn comes_from(self, interface: &str) -> Self {
        self.interface(META_IIFNAME, interface, COMPARE_EQUAL)
    }

    fn comes_not_from(self, interface: &str) -> Self {
        self.interface(META_IIFNAME, interface, COMPARE_NOT_EQUAL)
    }

    fn goes_to(self, interface: &str) -> Self {
        self.interface(META_OIFNAME, interface, COMPARE_EQUAL)
    }

    fn goes_not_to(self, interface: &str) -> Self {
        self.interface(META_OIFNAME, interface, COMPARE_NOT_EQUAL)
    }

    fn family(self, ipv4: bool) -> Self {
        self.meta(META_NFPROTO).compare(COMPARE_EQUAL, vec![if ipv4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }])
    }

    /// Compares an address of the packet, whose family is checked first.
    fn address(self, end: End, prefix: Prefix, operation: u32) -> Self {
        let (offset, length) = match (prefix.is_ipv4(), end) {
            (true, End::Source) => (12, 4),
            (true, End::Destination) => (16, 4),
            (false, End::Source) => (8, 16),
            (false, End::Destination) => (24, 16),
        };
        self.family(prefix.is_ipv4())
            .payload(NETWORK_HEADER, offset, length)
            .and(mask(prefix))
            .compare(operation, octets(prefix.first()))
    }

    fn within(self, end: End, prefix: Prefix) -> Self {
        self.address(end, prefix, COMPARE_EQUAL)
    }

    fn outside(self, end: End, prefix: Prefix) -> Self {
        self.address(end, prefix, COMPARE_NOT_EQUAL)
    }

    /// The protocol's number, and the port that it is sent to.
    fn port(self, protocol: u8, port: u16) -> Self {
        self.protocol(protocol)
            .payload(TRANSPORT_HEADER, 2, 2)
            .compare(COMPARE_EQUAL, port.to_be_bytes().to_vec())
    }

    fn protocol(self, protocol: u8) -> Self {
        self.meta(META_L4PROTO).compare(COMPARE_EQUAL, vec![protocol])
    }

    /// Belongs to a connection that passed already.
    fn of_old(self) -> Self {
        self.with("ct", |data| data.be32(1, REGISTER_1).be32(2, CT_STATE))
            .and(CT_OF_OLD.to_ne_bytes().to_vec())
            .compare(COMPARE_NOT_EQUAL, vec![0; 4])
    }

    /// Is for an address of this machine.
    fn for_here(self) -> Self {
        self.with("fib", |data| {
            data.be32(1, REGISTER_1).be32(2, FIB_ADDRESS_TYPE).be32(3, FIB_OF_DESTINATION)
        })
        .compare(COMPARE_EQUAL, LOCAL_ADDRESS.to_ne_bytes().to_vec())
    }

    fn load(self, register: u32, value: Vec<u8>) -> Self {
        self.with("immediate", move |data| {
            data.be32(1, register).nest(2, |inner| inner.bytes(DATA_VALUE, &value))
        })
    }

    /// Sends the connection to another address and port.
    fn redirect(self, address: IpAddr, port: u16) -> Self {
        let family = if address.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        self.load(REGISTER_1, octets(address)).load(REGISTER_2, port.to_be_bytes().to_vec()).with(
            "nat",
            move |data| {
                data.be32(1, NAT_DESTINATION).be32(2, family.into()).be32(3, REGISTER_1).be32(5, REGISTER_2)
            },
        )
    }

    /// Lets the connection come from an address.
    fn appear_as(self, address: IpAddr) -> Self {
        let family = if address.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        self.load(REGISTER_1, octets(address))
            .with("nat", move |data| data.be32(1, NAT_SOURCE).be32(2, family.into()).be32(3, REGISTER_1))
    }

    /// Lets the connection come from the address of the interface that it leaves by.
    fn masquerade(self) -> Self {
        self.with("masq", |data| data)
    }

    fn end(self, verdict: Verdict<'_>) -> Self {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain.to_owned())),
            Verdict::Return => (-5, None),
        };
        self.with("immediate", move |data| {
            data.be32(1, REGISTER_VERDICT).nest(2, |inner| {
                inner.nest(DATA_VERDICT, |verdict| {
                    let verdict = verdict.bytes(VERDICT_CODE, &i32::to_be_bytes(code));
                    match chain {
                        Some(chain) => verdict.text(VERDICT_CHAIN, &chain),
                        None => verdict,
                    }
                })
            })
        })
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn mask(prefix: Prefix) -> Vec<u8> {
    let ones = |width: u32| u128::MAX.checked_shl(width - u32::from(prefix.length)).unwrap_or(0);
    if prefix.is_ipv4() { ones(32).to_be_bytes()[12..].to_vec() } else { ones(128).to_be_bytes().to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_as_long_as_their_prefix() {
        let of = |text: &str| mask(text.parse().unwrap());
        assert_eq!(of("10.0.0.0/8"), [255, 0, 0, 0]);
        assert_eq!(of("0.0.0.0/0"), [0; 4]);
        assert_eq!(of("10.0.0.1/32"), [255; 4]);
        assert_eq!(of("fd00::/64"), [[255; 8], [0; 8]].concat());
        assert_eq!(of("::/0"), [0; 16]);
    }
}
