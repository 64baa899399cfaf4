//! Bytes between two sockets, both ways.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
};

/// Carries bytes both ways until `guest` has ended its direction, or `client` is gone.
pub(crate) fn relay(client: &UnixStream, guest: &UnixStream) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = carry(client, guest);
            // A guest that takes no more input may still have a last word.
            let _ = client.shutdown(Shutdown::Read);
            let _ = guest.shutdown(Shutdown::Write);
        });
        match carry(guest, client) {
            Ok(()) => drop(client.shutdown(Shutdown::Write)),
            Err(_) => {
                // Both directions: a half that lives on would keep the other thread waiting for ever.
                let _ = guest.shutdown(Shutdown::Both);
                let _ = client.shutdown(Shutdown::Both);
            }
        }
    });
}

/// Carries bytes one way until there are no more.
fn carry(mut from: &UnixStream, mut to: &UnixStream) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_guest_that_takes_no_more_input_arrives() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (theirs, mut guest) = UnixStream::pair().unwrap();
        let relaying = thread::spawn(move || relay(&ours, &theirs));
        guest.shutdown(Shutdown::Read).unwrap();
        while client.write_all(b"input").is_ok() {}
        guest.write_all(b"exit").unwrap();
        drop(guest);
        let mut word = [0; 4];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"exit");
        relaying.join().unwrap();
    }
}
