//! A network on a TAP interface in another network namespace, as `slirp4netns` and `pasta` make them:
//!
//!     ip netns add box
//!     cargo run --release --example tap -- /run/netns/box tap0
//!     ip netns exec box udhcpc -i tap0
//!
//! The namespace's connections become this process's. It needs root, or to be started in the user namespace that owns
//! the other.

use std::io;
use std::os::fd::AsFd as _;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use usernet::{Config, Network, Tap, run_on_tap};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(place), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "usage: tap NETWORK-NAMESPACE INTERFACE [MTU]",
        ));
    };
    let mut config = Config::default();
    if let Some(mtu) = arguments.next() {
        config.mtu = mtu.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    }
    // Each connection takes a descriptor.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    // Only this thread goes there, and it comes back by ending: sockets are made where the program was started.
    let open = move || {
        let namespace = std::fs::File::open(place)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Tap::open(&name)
    };
    let opened = std::thread::spawn(open).join();
    let mut tap = opened.map_err(|_| io::Error::other("the thread that opens the interface panicked"))??;
    run_on_tap(&mut Network::new(config)?, &mut tap)
}
