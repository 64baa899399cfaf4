//! Where messages go: one line each, with level and time.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;

use rustix::time::{ClockId, clock_gettime};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Our crates. Others are heard from [`Level::INFO`] on: below it, HTTP and TLS libraries print what
/// passes through them.
const OURS: [&str; 3] = ["coracle_agent", "engine", "wire"];

/// The machine's console, which the host keeps as `console.log`.
pub(crate) fn console() -> Option<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC).open("/dev/console").ok()
}

/// Sends PID 1's messages to the console, or, without one, to standard error.
pub(crate) fn to_console(level: &str) {
    let format = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_timer(SinceStart);
    let registry = tracing_subscriber::registry().with(filter(level.parse().unwrap_or(Level::INFO)));
    // Fails only if messages already have a place to go.
    let _ = match console() {
        Some(console) => registry.with(format.with_writer(console)).try_init(),
        None => registry.with(format.with_writer(std::io::stderr)).try_init(),
    };
}

/// Sends messages to standard error.
pub(crate) fn to_stderr(level: Level) {
    let format = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let _ = tracing_subscriber::registry().with(filter(level)).with(format).try_init();
}

fn filter(level: Level) -> Targets {
    let ours = OURS.iter().map(|target| (*target, level));
    Targets::new().with_default(LevelFilter::from_level(level.min(Level::INFO))).with_targets(ours)
}

/// The time since the kernel started, as the kernel's own messages show it.
struct SinceStart;

impl FormatTime for SinceStart {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = clock_gettime(ClockId::Boottime);
        write!(w, "[{:5}.{:06}] init:", now.tv_sec, now.tv_nsec / 1000)
    }
}
