//! The machine's logs, as `coracle logs --follow` has them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::ChildStdout,
    task::AbortHandle,
};

use crate::{
    error::{Error, Result},
    home::MACHINE,
    program::Program,
};

/// A longer line is handed on in parts of this size, in bytes: what logs is not trusted to end its lines.
const MAX_LINE: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Log {
    /// What the machine's process says.
    Machine,
    /// What the guest's kernel says.
    Console,
}

/// The logs that are being followed.
#[derive(Default)]
pub(crate) struct Logs {
    open: Arc<Mutex<HashMap<u32, AbortHandle>>>,
    last: AtomicU32,
}

impl Logs {
    /// Calls `line` with each line from the beginning, until it is closed or `line` returns false.
    pub(crate) fn open(
        &self,
        program: &Program,
        log: Log,
        line: impl FnMut(String) -> bool + Send + 'static,
    ) -> Result<u32> {
        let mut arguments = vec!["logs", "--follow", "--name", MACHINE];
        if matches!(log, Log::Console) {
            arguments.push("--console");
        }
        let mut child = program.lines(&arguments)?;
        let stdout = child.stdout.take().ok_or_else(|| Error::host("a command without pipes"))?;
        let id = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let open = Arc::clone(&self.open);
        // Held until the task is listed: one that ends at once must find itself.
        let mut listed = lock(&self.open);
        let task = tokio::spawn(async move {
            hand_on(stdout, line).await;
            lock(&open).remove(&id);
            // Dropped here at the latest, and so ended; with the task when that is aborted.
            drop(child);
        });
        listed.insert(id, task.abort_handle());
        Ok(id)
    }

    pub(crate) fn close(&self, id: u32) {
        if let Some(task) = lock(&self.open).remove(&id) {
            task.abort();
        }
    }

    pub(crate) fn close_all(&self) {
        for (_, task) in lock(&self.open).drain() {
            task.abort();
        }
    }
}

fn lock(open: &Mutex<HashMap<u32, AbortHandle>>) -> MutexGuard<'_, HashMap<u32, AbortHandle>> {
    // Every change is one insertion or removal.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn hand_on(stdout: ChildStdout, mut line: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&bytes);
        if !line(text.trim_end_matches(['\n', '\r']).to_owned()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::program::testing::script;

    #[tokio::test]
    async fn lines_come_until_the_log_is_closed_and_its_command_ends() {
        let script = script(
            r#"echo "$@"; printf 'a\r\n\377\n'; head -c 100000 /dev/zero | tr '\0' x; echo; echo $$; exec sleep 1000"#,
        );
        let logs = Logs::default();
        let (said, mut heard) = mpsc::unbounded_channel();
        let id = logs.open(&script.program, Log::Console, move |line| said.send(line).is_ok()).unwrap();
        assert_eq!(heard.recv().await.unwrap(), "logs --follow --name default --console");
        assert_eq!(heard.recv().await.unwrap(), "a");
        assert_eq!(heard.recv().await.unwrap(), "\u{fffd}");
        assert_eq!(heard.recv().await.unwrap().len(), 65536);
        assert_eq!(heard.recv().await.unwrap().len(), 100_000 - 65536);
        let pid: i32 = heard.recv().await.unwrap().parse().unwrap();
        logs.close(id);
        assert!(heard.recv().await.is_none());
        // A zombie until tokio has waited for it, then nothing.
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        while rustix::process::test_kill_process(pid).is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
