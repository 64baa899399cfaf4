//! Changes of a folder, by inotify(7).

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// A folder, and that something appears in it.
pub(crate) struct FolderWatch(AsyncFd<OwnedFd>);

impl FolderWatch {
    /// Watches a folder or, if it is not there, the nearest one above it that is.
    pub(crate) fn nearest(path: &Path) -> io::Result<FolderWatch> {
        let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let mut result = Err(io::ErrorKind::NotFound.into());
        for folder in path.ancestors() {
            result = inotify::add_watch(&instance, folder, flags).map_err(io::Error::from);
            match &result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        result?;
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and the watch owns it.
        let registered = unsafe { AsyncFd::register_with_interest(instance, Interest::READABLE) };
        Ok(FolderWatch(registered.map_err(|error| error.into_parts().1)?))
    }

    /// Waits until something has appeared since this was made or last asked.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let read = ready.try_io(|instance| {
                Reader::new(instance.get_ref(), &mut buffer).next().map(drop).map_err(io::Error::from)
            });
            // Several events may be there; whoever looks at the folder sees them all.
            if let Ok(read) = read {
                return read;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_and_what_appears_in_it_are_seen() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b");
        let mut above = FolderWatch::nearest(&folder).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        above.changed().await.unwrap();
        let mut watch = FolderWatch::nearest(&folder).unwrap();
        std::fs::write(folder.join("x"), "").unwrap();
        watch.changed().await.unwrap();
    }
}
