//! What the guest writes to its console, and QEMU to its standard error, within bounds.
//!
//! A guest may write as much as it likes. Its console goes to a log of [`LOG_BYTES`]; when that is full it becomes
//! `<log>.1`, replacing the one before, so that at least the last [`LOG_BYTES`] are kept and at most twice that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ChildStderr;

use rustix::event::{PollFd, PollFlags, poll};

/// The log's size before it is put aside.
pub const LOG_BYTES: u64 = 4 << 20;

/// How much of the ends of both streams is kept for error messages.
const TAIL_BYTES: usize = 16 << 10;

/// What Linux prints when it gives up.
const PANIC: &str = "Kernel panic - not syncing: ";

/// A log file of bounded size.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
    failed: bool,
}

impl Log {
    /// Opens a log for appending; its content is of earlier runs and counts.
    pub(crate) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Log { path: path.to_path_buf(), file, bytes, limit, failed: false })
    }

    fn append(&mut self, bytes: &[u8]) {
        // Losing console output must not stop the guest; saying so once is enough.
        if let Err(error) = self.try_append(bytes)
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!(path = %self.path.display(), %error, "the console's output is lost");
        }
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.bytes.saturating_add(len) > self.limit {
            let mut older = self.path.as_os_str().as_bytes().to_vec();
            older.extend(b".1");
            fs::rename(&self.path, Path::new(std::ffi::OsStr::from_bytes(&older)))?;
            self.file = open(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(bytes)?;
        self.bytes += len;
        self.failed = false;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // The console may show what the guest's processes print: for the owner alone.
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The end of a stream.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn append(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        // Cut rarely, not at every byte.
        if self.0.len() > 2 * TAIL_BYTES {
            self.0.drain(..self.0.len() - TAIL_BYTES);
        }
    }

    fn text(&self) -> String {
        let start = self.0.len().saturating_sub(TAIL_BYTES);
        String::from_utf8_lossy(&self.0[start..]).into_owned()
    }
}

/// What was written until the end, as far as it matters.
#[derive(Default)]
pub(crate) struct Output {
    /// The end of what QEMU wrote to its standard error.
    pub(crate) stderr: String,
    /// The message with which the guest's kernel gave up.
    pub(crate) panic: Option<String>,
}

/// Reads the guest's console and QEMU's standard error until QEMU has closed both.
pub(crate) fn record(mut console: UnixStream, mut stderr: ChildStderr, mut log: Log) -> Output {
    let (mut console_tail, mut stderr_tail) = (Tail::default(), Tail::default());
    let (mut console_open, mut stderr_open) = (true, true);
    while console_open || stderr_open {
        let (console_ready, stderr_ready) = {
            let interest = |open: bool| if open { PollFlags::IN } else { PollFlags::empty() };
            let mut sources = [
                PollFd::from_borrowed_fd(console.as_fd(), interest(console_open)),
                PollFd::from_borrowed_fd(stderr.as_fd(), interest(stderr_open)),
            ];
            // A closed stream would report its end again and again: it is not asked.
            let first = usize::from(!console_open);
            let last = if stderr_open { 2 } else { 1 };
            match poll(&mut sources[first..last], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "the console's output is lost");
                    break;
                }
            }
            (
                console_open && !sources[0].revents().is_empty(),
                stderr_open && !sources[1].revents().is_empty(),
            )
        };
        if console_ready {
            console_open = take(&mut console, |bytes| {
                log.append(bytes);
                console_tail.append(bytes);
            });
        }
        if stderr_ready {
            stderr_open = take(&mut stderr, |bytes| stderr_tail.append(bytes));
        }
    }
    Output { stderr: stderr_tail.text().trim_end().to_owned(), panic: find_panic(&console_tail.text()) }
}

/// Reads once; false at the end of the stream.
fn take(stream: &mut impl Read, mut sink: impl FnMut(&[u8])) -> bool {
    let mut buffer = [0; 16 << 10];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            sink(&buffer[..count]);
            true
        }
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
    }
}

/// The last panic message in a console's text.
fn find_panic(text: &str) -> Option<String> {
    let (_, message) = text.rsplit_once(PANIC)?;
    Some(message.lines().next().unwrap_or_default().trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_put_aside_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let older = directory.path().join("console.log.1");
        fs::write(&path, "from before\n").unwrap();
        let mut log = Log::open(&path, 30).unwrap();
        log.append(b"0123456789\n");
        assert_eq!(fs::read(&path).unwrap(), b"from before\n0123456789\n");
        log.append(b"abcdefghij\n");
        assert_eq!(fs::read(&path).unwrap(), b"abcdefghij\n");
        assert_eq!(fs::read(&older).unwrap(), b"from before\n0123456789\n");
        for _ in 0..100 {
            log.append(b"xxxxxxxxx\n");
        }
        let kept: u64 = [&path, &older].iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(kept <= 60, "{kept}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_tail_is_the_end_and_bounded() {
        let mut tail = Tail::default();
        for number in 0..20_000 {
            tail.append(format!("{number}\n").as_bytes());
            assert!(tail.0.len() <= 2 * TAIL_BYTES);
        }
        assert!(tail.text().ends_with("19998\n19999\n"));
        assert!(tail.text().len() <= TAIL_BYTES);
    }

    #[test]
    fn panics_are_found_with_their_message() {
        let text = "[ 1.0] fine\r\n[ 2.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\r\n[ 2.1] CPU: 0\r\n";
        assert_eq!(find_panic(text).unwrap(), "Attempted to kill init! exitcode=0x0");
        assert_eq!(find_panic("all is well"), None);
    }

    #[test]
    fn both_streams_are_read_to_their_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo one >&2; echo two >&2"])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Log::open(&path, LOG_BYTES).unwrap();
        let recorder = std::thread::spawn(move || record(ours, stderr, log));
        child.wait().unwrap();
        guest.write_all(b"Kernel panic - not syncing: test\n").unwrap();
        drop(guest);
        let output = recorder.join().unwrap();
        assert_eq!((output.stderr.as_str(), output.panic.as_deref()), ("one\ntwo", Some("test")));
        assert_eq!(fs::read(&path).unwrap(), b"Kernel panic - not syncing: test\n");
    }
}
