//! Hearing of changes, whoever makes them: the app, a terminal, a crash.
//!
//! A machine's process tells its watchers. While there is none, the machine's folder is watched for the
//! socket that the next one makes.

use std::{path::Path, time::Duration};

use tokio::time::sleep;
use wire::app::{Request, Response, State, Status};

use super::status::Answers;
use crate::{home::Home, platform::FolderWatch};

/// Between two attempts, where the folder cannot be watched or the process is of an older version.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Calls `changed` with each state that the machine comes to, for as long as the app runs: a status while
/// there is a process, `None` when it is gone.
pub(crate) async fn changes(home: Home, mut changed: impl FnMut(Option<&Status>)) {
    loop {
        let folder = FolderWatch::nearest(&home.machine());
        let mut heard = false;
        match Answers::open(&home, &Request::Watch).await {
            Ok(Some(mut answers)) => {
                while let Ok(Some(Response::Status(status))) = answers.next().await {
                    heard = true;
                    if status.state != State::Stopped {
                        changed(Some(&status));
                    }
                }
                changed(None);
            }
            Ok(None) => changed(None),
            Err(error) => tracing::warn!("{error}"),
        }
        if heard {
            // It may have been started again already.
            continue;
        }
        match folder {
            Ok(mut folder) if !home.control_socket().exists() => wait(&mut folder, &home.machine()).await,
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

/// Until something appeared in the folder, or the folder itself did.
async fn wait(folder: &mut FolderWatch, machine: &Path) {
    if let Err(error) = folder.changed().await {
        tracing::warn!("cannot watch {}: {error}", machine.display());
        sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::UnixListener, sync::mpsc};

    use super::*;

    #[tokio::test]
    async fn a_machine_is_heard_of_from_its_first_start_to_its_end_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(&folder.path().join("home"));
        let (said, mut heard) = mpsc::unbounded_channel();
        let watching = tokio::spawn(changes(home.clone(), move |status| {
            said.send(status.map(|status| status.state)).unwrap();
        }));
        assert_eq!(heard.recv().await.unwrap(), None);
        std::fs::create_dir_all(home.machine()).unwrap();
        for _ in 0..2 {
            let listener = UnixListener::bind(home.control_socket()).unwrap();
            let mut stream = loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // An earlier look may have come to nothing.
                if stream.write_all(b"").await.is_ok() {
                    break stream;
                }
            };
            for state in ["starting", "running"] {
                let status = format!(
                    r#"{{"answer":"status","name":"default","state":"{state}","docker_socket":"/s","cpus":3,"memory_mib":0,"disk_bytes":0,"disk_used_bytes":0,"accelerator":"","accelerator_reason":"","pid":0,"emulator_pid":null,"started_at_ms":0,"ready_after_ms":null,"guest":null}}"#
                );
                stream.write_all(format!("{status}\n").as_bytes()).await.unwrap();
            }
            let mut states = Vec::new();
            while states.last() != Some(&Some(State::Running)) {
                states.push(heard.recv().await.unwrap());
            }
            assert_eq!(states.iter().flatten().collect::<Vec<_>>(), [&State::Starting, &State::Running]);
            // As a process that ends: its socket first.
            std::fs::remove_file(home.control_socket()).unwrap();
            drop((stream, listener));
            assert_eq!(heard.recv().await.unwrap(), None);
        }
        watching.abort();
    }
}
