//! Bytes of a guest that nobody has thought of; for tests of what reads them.
//!
//! A target takes any bytes and must not panic, stand still, or break what it promises. As a test it is given a few thousand
//! inputs, the same each time. `cargo xtask fuzz` builds it with coverage counters and gives it inputs for as long as one
//! likes: those that reach new code become samples themselves. An input that fails is written to a file, to be repeated.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

mod coverage;
mod random;

pub use random::Random;

/// Seconds that a target runs; without it, it is a short test.
const SECONDS: &str = "CORACLE_FUZZ_SECONDS";
/// The number that a run's inputs follow from.
const SEED: &str = "CORACLE_FUZZ_SEED";
/// A file with the only input of a run.
const INPUT: &str = "CORACLE_FUZZ_INPUT";
/// Where inputs that fail are written.
const FOLDER: &str = "CORACLE_FUZZ_FOLDER";

/// How long one input may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest input.
const MOST_BYTES: usize = 8192;
/// Samples that are kept.
const MOST_SAMPLES: usize = 20_000;

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}: no number")))
}

/// Gives `target` inputs: `samples`, of which there is one at least, and what becomes of them. As a test, so many `rounds`.
///
/// # Panics
/// If `target` does, or an environment variable is not understood.
pub fn fuzz(name: &'static str, samples: Vec<Vec<u8>>, rounds: u64, mut target: impl FnMut(&[u8])) {
    if let Some(path) = env::var_os(INPUT) {
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", Path::new(&path).display()));
        return target(&input);
    }
    let seconds = number(SECONDS).map(Duration::from_secs);
    let seed = number(SEED).unwrap_or(0xc0de);
    let watchdog = Watchdog::new(name);
    let mut random = Random::new(seed);
    let mut corpus = samples;
    let (begun, mut told, mut count) = (Instant::now(), Instant::now(), 0_u64);
    while seconds.map_or(count < rounds, |seconds| begun.elapsed() < seconds) {
        let first = usize::try_from(count).unwrap_or(usize::MAX);
        let input = match corpus.get(first) {
            // Each sample as it is, once.
            Some(sample) => sample.clone(),
            None => mutated(&mut random, &corpus),
        };
        count += 1;
        watchdog.begins(&input);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            tell(&format!("{name}: failed with seed {seed}: {}", keep(name, &input)));
            resume_unwind(panic);
        }
        watchdog.ends();
        if coverage::is_new() && corpus.len() < MOST_SAMPLES {
            corpus.push(input);
        }
        if seconds.is_some() && told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let covered = coverage::covered();
            tell(&format!("{name}: {count} inputs, {} samples, {covered} places reached", corpus.len()));
        }
    }
    if seconds.is_some() {
        let covered = coverage::covered();
        tell(&format!(
            "{name}: {count} inputs, {} samples, {covered} places reached, seed {seed}",
            corpus.len()
        ));
    }
}

/// An input made of others.
fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(3) {
        let other = &corpus[random.below(corpus.len())];
        let at = random.below(input.len() + 1);
        match random.below(6) {
            // A piece of another one, put in or over.
            0 => {
                let (begin, end) = (random.below(other.len() + 1), random.below(other.len() + 1));
                let piece = other[begin.min(end)..begin.max(end)].to_vec();
                let until = if random.below(2) == 0 { at } else { input.len().min(at + piece.len()) };
                input.splice(at..until, piece);
            }
            // A piece taken out.
            1 => drop(input.drain(at..input.len().min(at + random.below(40)))),
            // A number at its limits.
            2 => {
                let number = [0_u16, 1, 0x7f, 0xff, 0x7fff, 0x8000, 0xffff][random.below(7)].to_be_bytes();
                for (to, from) in input[at..].iter_mut().zip(number) {
                    *to = from;
                }
            }
            _ => input = random.damaged(&input),
        }
    }
    input.truncate(MOST_BYTES);
    input
}

/// Writes an input to a file and says which.
fn keep(name: &str, input: &[u8]) -> String {
    let folder = env::var_os(FOLDER).map_or_else(env::temp_dir, PathBuf::from);
    let path = folder.join(format!("{name}-{:016x}", digest(input)));
    match fs::create_dir_all(&folder).and_then(|()| fs::write(&path, input)) {
        Ok(()) => format!("repeat it with `cargo xtask fuzz {name} --input {}`", Path::display(&path)),
        Err(error) => format!("{}: {error}; the input is {input:02x?}", path.display()),
    }
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn tell(line: &str) {
    use io::Write as _;
    // Nobody is there to hear if it fails.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Ends the process when an input takes too long.
struct Watchdog(Arc<Current>);

/// The input that is tried, and since when.
type Current = Mutex<Option<(Instant, Vec<u8>)>>;

impl Watchdog {
    fn new(name: &'static str) -> Self {
        let current = Arc::new(Current::new(None));
        let watched = Arc::downgrade(&current);
        thread::spawn(move || {
            while let Some(current) = watched.upgrade() {
                if let Some((begun, input)) = &*lock(&current)
                    && begun.elapsed() > PATIENCE
                {
                    tell(&format!("{name}: stands still: {}", keep(name, input)));
                    std::process::abort();
                }
                drop(current);
                thread::park_timeout(Duration::from_secs(1));
            }
        });
        Watchdog(current)
    }

    fn begins(&self, input: &[u8]) {
        *lock(&self.0) = Some((Instant::now(), input.to_vec()));
    }

    fn ends(&self) {
        *lock(&self.0) = None;
    }
}

fn lock(current: &Current) -> MutexGuard<'_, Option<(Instant, Vec<u8>)>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}
