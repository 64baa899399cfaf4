//! What the tools print: plain lines, and stages of work that show how long they have been going on.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

/// How often a stage that is still going on says so when its output goes to a file.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Prints one line. A reader who has gone away is no reason to stop building.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(stdout().lock(), "{line}");
}

/// Prints one line for a human who has to act.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(stderr().lock(), "{line}");
}

/// Prints a command as a user would type it.
pub(crate) fn say_command(line: impl Display) {
    say(format_args!("$ {line}"));
}

/// A piece of work that takes noticeable time. On a terminal it is one line that changes in place; in a file it is a
/// line when it starts, one every [`REPORT_EVERY`], and one when it ends.
pub(crate) struct Stage {
    title: String,
    began: Instant,
    reported: Instant,
    in_place: bool,
    finished: bool,
}

impl Stage {
    pub(crate) fn begin(title: impl Into<String>) -> Self {
        let now = Instant::now();
        let stage = Self {
            title: title.into(),
            began: now,
            reported: now,
            in_place: stdout().is_terminal(),
            finished: false,
        };
        if stage.in_place {
            stage.show("");
        } else {
            say(format_args!("  {} …", stage.title));
        }
        stage
    }

    /// Says how far the work has come; cheap enough to be called for every line a compiler prints.
    pub(crate) fn update(&mut self, detail: impl Display) {
        let pause = if self.in_place { Duration::from_millis(200) } else { REPORT_EVERY };
        if self.reported.elapsed() < pause {
            return;
        }
        self.reported = Instant::now();
        if self.in_place {
            self.show(&detail.to_string());
        } else {
            say(format_args!("  {} … {detail} ({})", self.title, duration(self.began.elapsed())));
        }
    }

    /// Ends the stage well.
    pub(crate) fn done(mut self, detail: impl Display) {
        self.finished = true;
        if self.in_place {
            let _ = write!(stdout().lock(), "\r\x1b[K");
        }
        say(format_args!("  {}: {detail} ({})", self.title, duration(self.began.elapsed())));
    }

    fn show(&self, detail: &str) {
        let mut out = stdout().lock();
        let _ = write!(out, "\r\x1b[K  {} … {detail} ({})", self.title, duration(self.began.elapsed()));
        let _ = out.flush();
    }
}

impl Drop for Stage {
    /// A stage that ends early failed: leaves its line as it is and starts a new one for the error.
    fn drop(&mut self) {
        if !self.finished && self.in_place {
            say("");
        }
    }
}

/// `7.3 s`, `45 s` or `2 min 05 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// `734 B`, `12.3 kB`, `20.1 MB`: decimal units, as Docker prints them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut whole = bytes;
    let mut unit = 0;
    while whole >= 1_000_000 && unit + 1 < UNITS.len() {
        whole /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", whole / 1000, whole % 1000 / 100, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally() {
        assert_eq!(duration(Duration::from_millis(1260)), "1.3 s");
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
    }

    #[test]
    fn sizes_use_decimal_units() {
        assert_eq!(size(734), "734 B");
        assert_eq!(size(12_345), "12.3 kB");
        assert_eq!(size(20_150_000), "20.1 MB");
        assert_eq!(size(3_000_000_000), "3.0 GB");
    }
}
