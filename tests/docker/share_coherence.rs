//! The host and a container change the same files in turn: what one has done, the other sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::case::Outcome;
use tests::follower::{self, CHANGES, Change};
use tests::process::Running;
use tests::target::Target;
use tests::{cases, ensure_eq, programs, roles};

cases! {
    the_host_changes_files.seconds(240),
    a_container_changes_files.seconds(240),
}

const ROUNDS: usize = 420;
const NAME: &str = "file";

/// What a machine goes by without asking again: 10 ms, which its kernel counts in ticks of as much, and begins with any part of
/// one. See docs/decisions/0010.
const VALID: Duration = Duration::from_millis(20);

/// What was counted, told at the end of the run.
static TALLIES: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(crate) fn summary() -> Vec<String> {
    TALLIES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The program in the container, and the folder.
struct Follower {
    running: Running,
    folder: PathBuf,
    answered: usize,
}

impl Follower {
    fn start(t: &Target) -> Result<Follower> {
        let (folder, own) = (t.folder().join("shared"), t.folder().join("programs"));
        fs::create_dir(&folder)?;
        programs::copy(programs::OWN, &own)?;
        let mounts =
            [format!("{}:{}:ro", own.display(), programs::FOLDER), format!("{}:/host", folder.display())];
        let script = format!("exec {} {} /host", programs::call(programs::OWN), roles::FOLLOW);
        let options = ["run", "--rm", "-i", "--network", "none", "-v", &mounts[0], "-v", &mounts[1]];
        let running =
            t.docker(options.into_iter().chain(["busybox", "sh", "-c", &script])).stdin_pipe().spawn()?;
        Ok(Follower { running, folder, answered: 0 })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// The answer to an order.
    fn order(&mut self, order: &str) -> Result<String> {
        self.running.write(format!("{order}\n"))?;
        self.answered += 1;
        let count = self.answered;
        let ends = |stdout: &[u8]| stdout.iter().filter(|byte| **byte == b'\n').count();
        let running = &self.running;
        running.wait_until(order, |stdout, stderr| ends(stdout) >= count || !stderr.is_empty())?;
        let text = running.stdout();
        let line = text.lines().nth(count - 1);
        ensure!(
            line.is_some() && ends(text.as_bytes()) >= count,
            "{order}: the container has failed: {text}"
        );
        Ok(line.unwrap_or_default().to_owned())
    }
}

/// How late the container saw what the host did.
#[derive(Default)]
struct Tally {
    looks: usize,
    stale: usize,
    latest: Duration,
}

impl Tally {
    /// Looks until `expected` is seen. Who looks when what he was told is not valid any more sees it.
    fn see(&mut self, follower: &mut Follower, order: &str, changed: Instant, expected: &str) -> Outcome {
        loop {
            let begun = changed.elapsed();
            let seen = follower.order(order)?;
            self.looks += 1;
            if seen == expected {
                return Ok(());
            }
            ensure!(begun <= VALID, "{begun:?} after the change: expected {expected}, got {seen}");
            self.stale += 1;
            self.latest = self.latest.max(begun);
        }
    }
}

fn the_host_changes_files(t: &Target) -> Outcome {
    let mut follower = Follower::start(t)?;
    let path = follower.path();
    let mut tally = Tally::default();
    let mut old = "begin.".repeat(20);
    fs::write(&path, &old)?;
    for round in 0..ROUNDS {
        let change = CHANGES[round % CHANGES.len()];
        // All that it can keep is as new as it can be when the host changes the file.
        ensure_eq!(follower.order(&format!("hold {NAME}"))?, follower::expected(Some(&old)), "round {round}");
        ensure_eq!(follower.order("held")?, follower::view(Some(&old)), "round {round}");
        let text = change.text(&old, round);
        change.apply(&path, &text)?;
        let changed = Instant::now();
        let by_name = follower::expected((change != Change::Remove).then_some(text.as_str()));
        let held = follower::view(Some(if change.is_in_place() { &text } else { &old }));
        // Which of both comes first is another way through the guest's kernel.
        let orders = [(format!("look {NAME}"), by_name), ("held".to_owned(), held)];
        let order = if (round / CHANGES.len()).is_multiple_of(2) { [0, 1] } else { [1, 0] };
        for (order, expected) in order.map(|place| &orders[place]) {
            tally
                .see(&mut follower, order, changed, expected)
                .map_err(|error| error.context(format!("round {round}, {change:?}, {order}")))?;
        }
        old = if change == Change::Remove { made_anew(&mut follower, &mut tally, round)? } else { text };
    }
    let Tally { looks, stale, latest } = tally;
    let told = format!(
        "{}: {looks} looks at files that the host had just changed {ROUNDS} times; {stale} saw what was before, the latest \
         begun {latest:?} after the change",
        t.kind()
    );
    TALLIES.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    Ok(())
}

/// A file where the container has just seen that there is none.
fn made_anew(follower: &mut Follower, tally: &mut Tally, round: usize) -> Result<String> {
    let text = Change::Anew.text("", round);
    fs::write(follower.path(), &text)?;
    let changed = Instant::now();
    tally.see(follower, &format!("look {NAME}"), changed, &follower::expected(Some(&text)))?;
    Ok(text)
}

fn a_container_changes_files(t: &Target) -> Outcome {
    let mut follower = Follower::start(t)?;
    let path = follower.path();
    let mut old = "begin.".repeat(20);
    fs::write(&path, &old)?;
    follower.order(&format!("hold {NAME}"))?;
    for round in 0..ROUNDS {
        let number = round % CHANGES.len();
        let change = CHANGES[number];
        let held = fs::File::open(&path)?;
        let text = change.text(&old, round);
        // An empty word is none.
        let word = if text.is_empty() { "-" } else { text.as_str() };
        ensure_eq!(follower.order(&format!("change {number} {NAME} {word}"))?, "changed");
        // There is nothing between the file and the host's programs: not one look sees what was.
        let by_name = (change != Change::Remove).then_some(text.as_str());
        ensure_eq!(follower::look(&path)?, follower::expected(by_name), "round {round}, {change:?}");
        let expected = if change.is_in_place() { &text } else { &old };
        ensure_eq!(&std::io::read_to_string(held)?, expected, "round {round}, {change:?}, held open");
        old = text;
        if change == Change::Remove {
            old = Change::Anew.text("", round);
            fs::write(Path::new(&path), &old)?;
            // The container sees it when it is told to change it, or has to be asked until it does.
            Tally::default().see(
                &mut follower,
                &format!("look {NAME}"),
                Instant::now(),
                &follower::expected(Some(&old)),
            )?;
        }
    }
    Ok(())
}
