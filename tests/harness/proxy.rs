//! An HTTP proxy on a loopback address inside a namespace, which remembers what it was asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

/// More than the head of any request here.
const MAX_HEAD: u64 = 64 << 10;

/// A proxy that lasts until the test binary ends.
pub struct Proxy(Arc<Office>);

struct Office {
    namespace: Arc<Namespace>,
    /// Who answers all requests, whomever they are for.
    server: SocketAddr,
    /// The first line of each connection.
    asked: Mutex<Vec<String>>,
}

impl Proxy {
    /// Listens on `port`. Plain requests are answered by `server`, whatever name they are for, and those for a tunnel
    /// (`CONNECT`, RFC 9110 section 9.3.6) are refused.
    pub fn start(namespace: &Arc<Namespace>, port: u16, server: SocketAddr) -> Result<Self> {
        let bind = || TcpListener::bind(("127.0.0.1", port)).context("binding a proxy's port");
        let listener = namespace.in_network(bind)?;
        let office = Arc::new(Office { namespace: Arc::clone(namespace), server, asked: Mutex::default() });
        let clerk = Arc::clone(&office);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let clerk = Arc::clone(&clerk);
                // A client that hangs up in the middle is no concern of a proxy.
                thread::spawn(move || drop(clerk.serve(client)));
            }
        });
        Ok(Self(office))
    }

    /// The first line of each connection's first request.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails unless a line began like this.
    pub fn expect(&self, line: &str) -> Result<()> {
        let asked = self.asked();
        ensure!(asked.iter().any(|asked| asked.starts_with(line)), "nobody asked for {line:?}: {asked:?}");
        Ok(())
    }
}

impl Office {
    fn serve(&self, mut client: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(client.try_clone()?).take(MAX_HEAD);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(reader.read_until(b'\n', &mut head)? > 0, "a request without an end");
        }
        let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        if line.starts_with("CONNECT ") {
            client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(());
        }
        let mut server = self.namespace.connect(self.server)?;
        server.write_all(&head)?;
        let mut rest = reader.into_inner();
        let mut to_server = server.try_clone()?;
        let forth = thread::spawn(move || {
            let _ = std::io::copy(&mut rest, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        std::io::copy(&mut server, &mut client)?;
        let _ = client.shutdown(Shutdown::Both);
        let _ = forth.join();
        Ok(())
    }
}
