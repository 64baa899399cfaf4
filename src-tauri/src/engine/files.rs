//! Bodies from and to files of the host: layers, volumes, what is copied out of a container.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
    time::Instant,
};
use tokio_util::io::ReaderStream;

use super::exchange::{Answer, Engine, Request, broken_off, whole};
use crate::error::{Error, Result};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);
/// What is read at once from a file.
const READ: usize = 256 << 10;

/// Writes an answer's body to a file, which appears when it is whole. Returns its size.
pub(crate) async fn to_file(
    engine: &Engine,
    request: Request,
    path: &Path,
    progress: impl FnMut(u64),
) -> Result<u64> {
    let line = request.line();
    let response = engine.send(request.with_own_body()?).await?;
    if response.status().as_u16() >= 400 {
        return Err(whole(&line, response).await?.refusal());
    }
    let failed = |error: io::Error| Error::host(format!("cannot write {}: {error}", path.display()));
    let draft = Draft::beside(path).map_err(failed)?;
    let mut file = BufWriter::new(File::create(&draft.0).await.map_err(failed)?);
    let mut progress = Progress::new(progress);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken_off(&line, &error))?;
        let Ok(data) = frame.into_data() else { continue };
        file.write_all(&data).await.map_err(failed)?;
        progress.add(data.len());
    }
    file.flush().await.map_err(failed)?;
    file.get_ref().sync_all().await.map_err(failed)?;
    tokio::fs::rename(&draft.0, path).await.map_err(failed)?;
    draft.keep();
    Ok(progress.finish())
}

/// Sends a file as a request's body.
pub(crate) async fn from_file(
    engine: &Engine,
    request: Request,
    path: &Path,
    progress: impl FnMut(u64) + Send + Sync + 'static,
) -> Result<Answer> {
    let line = request.line();
    let failed = |error: io::Error| Error::host(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).await.map_err(failed)?;
    if file.metadata().await.map_err(failed)?.is_dir() {
        return Err(Error::host(format!("{} is a folder, not a file", path.display())));
    }
    let mut progress = Progress::new(progress);
    let pieces = ReaderStream::with_capacity(file, READ)
        .inspect_ok(move |piece| progress.add(piece.len()))
        .map_ok(Frame::data);
    let body = StreamBody::new(pieces).boxed();
    whole(&line, engine.send(request.with_body(body)?).await?).await
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

    fn finish(mut self) -> u64 {
        (self.tell)(self.bytes);
        self.bytes
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
