use std::net::Ipv4Addr;

use fuzzing::fuzz;

use crate::dns;

#[test]
fn names() {
    let samples = vec![
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04host\x06docker\x08internal\0\0\x01\0\x01".to_vec(),
        // With an OPT record (RFC 6891).
        b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x07example\x03org\0\0\x1c\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0"
            .to_vec(),
        b"nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a.org b.org.\noptions ndots:1\n".to_vec(),
    ];
    fuzz("names", samples, 100_000, |bytes| dns::take_anything(bytes, Ipv4Addr::LOCALHOST));
}
