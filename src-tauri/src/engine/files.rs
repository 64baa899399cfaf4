//! Bodies from and to files of the host: layers, volumes, what is copied out of a container.

use std::{
    cell::Cell,
    ffi::OsString,
    fs::Metadata,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter, DuplexStream},
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};
use tokio_util::io::{ReaderStream, SyncIoBridge};

use super::{
    exchange::{Answer, Body, Engine, Request, Wrapping, pieces, whole},
    frames::Frames,
};
use crate::error::{Error, Result};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);
/// What is read at once from a file.
const READ: usize = 256 << 10;
/// What may stand in an archive before its file: heads with long names.
const MAX_HEADS: usize = 1 << 20;

/// Writes what an answer's body carries to a file, which appears when it is whole. Returns the file's size;
/// progress is the body's.
pub(crate) async fn to_file(
    engine: &Engine,
    request: Request,
    path: &Path,
    progress: impl FnMut(u64) + Send,
) -> Result<u64> {
    let line = request.line();
    let wrapping = request.file;
    let response = engine.send(request.with_own_body()?).await?;
    if response.status().as_u16() >= 400 {
        return Err(whole(&line, response).await?.refusal());
    }
    let failed = |error: io::Error| Error::host(format!("cannot write {}: {error}", path.display()));
    let draft = Draft::beside(path).map_err(failed)?;
    let file = File::create(&draft.0).await.map_err(failed)?;
    let mut progress = Progress::new(progress);
    let body = pieces(line, response).inspect_ok(|piece| progress.add(piece.len()));
    let size = match wrapping {
        None => write(body, file, failed).await?,
        Some(Wrapping::Frames) => {
            let mut frames = Frames::default();
            write(body.map_ok(|piece| Bytes::from(frames.carried(&piece))), file, failed).await?
        }
        Some(Wrapping::Tar) => write_archived(body, file, failed).await?,
    };
    tokio::fs::rename(&draft.0, path).await.map_err(failed)?;
    draft.keep();
    progress.finish();
    Ok(size)
}

/// Writes a body as it is.
async fn write(
    body: impl Stream<Item = Result<Bytes>>,
    to: File,
    failed: impl Fn(io::Error) -> Error,
) -> Result<u64> {
    let mut body = std::pin::pin!(body);
    let mut file = BufWriter::new(to);
    let mut size = 0;
    while let Some(piece) = body.try_next().await? {
        file.write_all(&piece).await.map_err(&failed)?;
        size += piece.len() as u64;
    }
    file.flush().await.map_err(&failed)?;
    file.get_ref().sync_all().await.map_err(&failed)?;
    Ok(size)
}

/// Writes the file of an archive that has one.
async fn write_archived(
    body: impl Stream<Item = Result<Bytes>>,
    to: File,
    failed: impl Fn(io::Error) -> Error,
) -> Result<u64> {
    let mut body = std::pin::pin!(body);
    let to = to.into_std().await;
    let (mut archive, inner) = tokio::io::duplex(READ);
    // Ends when `archive` is dropped, whatever becomes of this call.
    let unpacking = spawn_blocking(move || unpack(SyncIoBridge::new(inner), to));
    while let Some(piece) = body.try_next().await? {
        // Behind the file there is only the archive's end, which nobody reads.
        if archive.write_all(&piece).await.is_err() {
            break;
        }
    }
    drop(archive);
    done(unpacking).await.map_err(failed)
}

fn unpack(archive: impl Read, mut to: std::fs::File) -> io::Result<u64> {
    let room = Rc::new(Cell::new(MAX_HEADS));
    let mut archive = tar::Archive::new(Bounded { inner: archive, room: Rc::clone(&room) });
    let mut entries = archive.entries()?;
    let mut file = entries.next().ok_or_else(|| io::Error::other("the archive is empty"))??;
    let kind = file.header().entry_type();
    if !kind.is_file() {
        return Err(io::Error::other(format!("it is no file: the archive has a {kind:?}")));
    }
    room.set(usize::MAX);
    let size = file.size();
    if io::copy(&mut file, &mut to)? != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    to.sync_all()?;
    Ok(size)
}

/// Reads no more than there is room for, which may change meanwhile.
struct Bounded<R> {
    inner: R,
    room: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room.get();
        if room == 0 {
            return Err(io::Error::other(format!("the archive's heads are longer than {MAX_HEADS} bytes")));
        }
        let length = buffer.len().min(room);
        let read = self.inner.read(&mut buffer[..length])?;
        self.room.set(room - read);
        Ok(read)
    }
}

/// Sends a file as a request's body; progress is the body's.
pub(crate) async fn from_file(
    engine: &Engine,
    request: Request,
    path: &Path,
    progress: impl FnMut(u64) + Send + Sync + 'static,
) -> Result<Answer> {
    let line = request.line();
    let failed = |error: io::Error| Error::host(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).await.map_err(failed)?;
    let attributes = file.metadata().await.map_err(failed)?;
    if !attributes.is_file() {
        return Err(Error::host(format!("{} is no file", path.display())));
    }
    let progress = Progress::new(progress);
    match request.file {
        None => {
            let body = body(ReaderStream::with_capacity(file, READ), progress);
            whole(&line, engine.send(request.with_body(body)?).await?).await
        }
        Some(Wrapping::Tar) => {
            let name = path.file_name().unwrap_or_default().to_owned();
            let (archive, packing) = archive_of(file.into_std().await, name, attributes);
            let body = body(ReaderStream::with_capacity(archive, READ), progress);
            let answer = whole(&line, engine.send(request.with_body(body)?).await?).await;
            // One who refuses does not read on; then what it says is the reason.
            if answer.as_ref().is_ok_and(|answer| answer.head.status >= 400) {
                return answer;
            }
            match done(packing).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
                _ => answer,
            }
        }
        Some(Wrapping::Frames) => Err(Error::host(format!("{line} takes no frames"))),
    }
}

fn body(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
    mut progress: Progress<impl FnMut(u64) + Send + Sync + 'static>,
) -> Body {
    StreamBody::new(pieces.inspect_ok(move |piece| progress.add(piece.len())).map_ok(Frame::data)).boxed()
}

/// An archive of one file, made while it is read; who stops reading ends it.
fn archive_of(
    file: std::fs::File,
    name: OsString,
    attributes: Metadata,
) -> (DuplexStream, JoinHandle<io::Result<()>>) {
    let (archive, inner) = tokio::io::duplex(READ);
    let packing = spawn_blocking(move || {
        let mut header = tar::Header::new_gnu();
        header.set_size(attributes.len());
        header.set_mode(attributes.mode() & 0o7777);
        header.set_mtime(u64::try_from(attributes.mtime()).unwrap_or(0));
        // As with `docker cp`, it belongs to root there.
        header.set_uid(0);
        header.set_gid(0);
        let mut archive = tar::Builder::new(SyncIoBridge::new(inner));
        let mut content = file.take(attributes.len());
        archive.append_data(&mut header, name, &mut content)?;
        if content.limit() > 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        archive.finish()
    });
    (archive, packing)
}

/// Waits for work on a thread.
async fn done<T>(work: JoinHandle<io::Result<T>>) -> io::Result<T> {
    work.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A file that goes away unless it is kept: of a call that failed or was taken back nothing stays.
struct Draft(PathBuf);

impl Draft {
    fn beside(path: &Path) -> io::Result<Draft> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut draft = std::ffi::OsString::from(".");
        draft.push(name);
        draft.push(".part");
        Ok(Draft(path.with_file_name(draft)))
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It may not exist yet.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Tells how many bytes there were, now and then.
struct Progress<Tell> {
    tell: Tell,
    bytes: u64,
    told: Instant,
}

impl<Tell: FnMut(u64)> Progress<Tell> {
    fn new(tell: Tell) -> Self {
        Progress { tell, bytes: 0, told: Instant::now() }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            (self.tell)(self.bytes);
        }
    }

    fn finish(mut self) {
        (self.tell)(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        engine::testing::{FakeEngine, respond},
        error::Kind,
    };

    #[tokio::test]
    async fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let body = vec![7; 20 << 20];
        let sent = body.clone();
        let fake = FakeEngine::start(move |_, mut stream| {
            let sent = sent.clone();
            async move { respond(&mut stream, "200 OK", &sent).await }
        });
        let mut told = 0;
        let size = to_file(&fake.engine(), Request::get("/images/x/get"), &path, |n| told = n).await.unwrap();
        assert_eq!((size, told), (20 << 20, 20 << 20));
        assert!(std::fs::read(&path).unwrap() == body);

        std::fs::write(&path, "old").unwrap();
        let cut_off = FakeEngine::start(|_, mut stream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
        });
        let error = to_file(&cut_off.engine(), Request::get("/x"), &path, |_| {}).await.unwrap_err();
        assert_eq!(error.kind, Kind::EngineUnreachable);
        let refusing = FakeEngine::start(|_, mut stream| async move {
            respond(&mut stream, "404 Not Found", b"{\"message\":\"No such image: x\"}").await;
        });
        let error = to_file(&refusing.engine(), Request::get("/x"), &path, |_| {}).await.unwrap_err();
        assert_eq!(error.message, "No such image: x");
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"old".to_vec(), 1));
        let nowhere = folder.path().join("absent/x.tar");
        let error = to_file(&fake.engine(), Request::get("/x"), &nowhere, |_| {}).await.unwrap_err();
        assert!(error.message.contains("absent/x.tar"), "{error}");
    }

    fn request(method: &str, path: &str, wrapping: &str) -> Request {
        Request::from_json(json!({"method": method, "path": path, "file": wrapping}))
    }

    /// An engine that answers with an archive of one member.
    fn archiving(header: tar::Header, content: &'static [u8]) -> FakeEngine {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = header;
        archive.append_data(&mut header, "etc/".repeat(60) + "hosts", content).unwrap();
        let archive = archive.into_inner().unwrap();
        FakeEngine::start(move |_, mut stream| {
            let archive = archive.clone();
            async move { respond(&mut stream, "200 OK", &archive).await }
        })
    }

    #[tokio::test]
    async fn what_a_body_carries_is_unwrapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved");
        let mut header = tar::Header::new_gnu();
        header.set_size(9);
        let fake = archiving(header.clone(), b"127.0.0.1");
        let get = || request("GET", "/containers/x/archive?path=/etc/hosts", "tar");
        assert_eq!(to_file(&fake.engine(), get(), &path, |_| {}).await, Ok(9));
        assert_eq!(std::fs::read(&path).unwrap(), b"127.0.0.1");

        let fake = FakeEngine::start(|_, mut stream| async move {
            respond(&mut stream, "200 OK", b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x04 err").await;
        });
        let logs = request("GET", "/containers/x/logs", "frames");
        assert_eq!(to_file(&fake.engine(), logs, &path, |_| {}).await, Ok(7));
        assert_eq!(std::fs::read(&path).unwrap(), b"out err");

        // A link, a file that ends early, no archive, and heads without an end.
        let mut link = header.clone();
        link.set_entry_type(tar::EntryType::Symlink);
        let mut long = header.clone();
        long.set_size(1 << 20);
        let mut endless = tar::Header::new_gnu();
        endless.set_entry_type(tar::EntryType::GNULongName);
        endless.set_size(1 << 40);
        endless.set_cksum();
        let endless = [endless.as_bytes(), &[b'x'; 3 << 20][..]].concat();
        let no_archive = FakeEngine::start(|_, mut stream| async move {
            respond(&mut stream, "200 OK", &[b'x'; 2000]).await;
        });
        let endless = FakeEngine::start(move |_, mut stream| {
            let endless = endless.clone();
            async move { respond(&mut stream, "200 OK", &endless).await }
        });
        for (fake, words) in [
            (archiving(link, b"127.0.0.1"), "it is no file"),
            (archiving(long, b"127.0.0.1"), "unexpected end of file"),
            (no_archive, "cannot write"),
            (endless, "heads are longer than 1048576 bytes"),
        ] {
            let error = to_file(&fake.engine(), get(), &path, |_| {}).await.unwrap_err();
            assert!(error.message.contains(words), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), b"out err", "what was there stays");
        }
    }

    #[tokio::test]
    async fn a_file_is_sent_in_an_archive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n".repeat(200));
        std::fs::write(&path, vec![b'c'; 700_000]).unwrap();
        let fake = FakeEngine::start(|request, mut stream| async move {
            let content = request.body.iter().filter(|byte| **byte == b'c').count();
            // Names and chunk heads have some more.
            assert!((700_000..701_000).contains(&content), "{content} bytes of content came");
            assert!(request.body.windows(200).any(|window| window == [b'n'; 200]));
            respond(&mut stream, "200 OK", b"").await;
        });
        let put = || request("PUT", "/containers/x/archive?path=/", "tar");
        from_file(&fake.engine(), put(), &path, |_| {}).await.unwrap();
        // What refuses without reading has its say.
        let refusing = FakeEngine::start_unread(|mut stream| async move {
            respond(&mut stream, "404 Not Found", b"{\"message\":\"No such container: x\"}").await;
        });
        let answer = from_file(&refusing.engine(), put(), &path, |_| {}).await.unwrap();
        assert_eq!(answer.refusal().message, "No such container: x");
    }

    #[tokio::test]
    async fn a_file_is_sent_as_a_body() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        std::fs::write(&path, "content of the file").unwrap();
        let fake = FakeEngine::start(|request, mut stream| async move {
            assert!(request.has("content-type: application/x-tar"), "{}", request.head);
            assert!(request.body.windows(19).any(|window| window == b"content of the file"));
            respond(&mut stream, "200 OK", b"loaded").await;
        });
        let load = || Request::from_json(json!({"method": "POST", "path": "/images/load"}));
        let answer = from_file(&fake.engine(), load(), &path, |_| {}).await.unwrap();
        assert_eq!(&*answer.body, b"loaded");
        for path in [folder.path().to_owned(), folder.path().join("absent")] {
            let error = from_file(&fake.engine(), load(), &path, |_| {}).await.unwrap_err();
            assert_eq!(error.kind, Kind::Host);
        }
    }
}
