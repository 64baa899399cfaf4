//! What the user sees: results on standard output, progress and errors on standard error.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use wire::app::Response;

/// Who reads what a command that takes seconds says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Person,
    /// Lines of [`Response`] on standard output, and nothing else.
    Program,
}

impl Reader {
    pub(crate) fn of(json: bool) -> Reader {
        if json { Reader::Program } else { Reader::Person }
    }

    /// A line for a person alone.
    pub(crate) fn say(self, line: impl Display) {
        if self == Reader::Person {
            say(line);
        }
    }

    /// Something that should be known, and fails nothing.
    pub(crate) fn note(self, note: impl Display) {
        match self {
            Reader::Person => tell(format_args!("coracle: {note}")),
            Reader::Program => answer(&Response::Notice { message: note.to_string() }),
        }
    }

    /// Tells a program how the command ended. A person is told of an error where every command's errors are.
    pub(crate) fn conclude(self, result: Result<ExitCode>) -> Result<ExitCode> {
        match (self, result) {
            (Reader::Program, Ok(code)) => {
                answer(&Response::Done);
                Ok(code)
            }
            (Reader::Program, Err(error)) => {
                answer(&Response::Failed { message: format!("{error:#}") });
                Ok(exit_code(&error))
            }
            (Reader::Person, result) => result,
        }
    }
}

/// Ctrl-C, before the command was done; what that left behind.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Interrupted(pub(crate) &'static str);

impl Interrupted {
    /// As a shell reports a command that Ctrl-C ended.
    pub(crate) const CODE: u8 = 130;
}

/// What a command that failed exits with.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Interrupted>() { ExitCode::from(Interrupted::CODE) } else { ExitCode::FAILURE }
}

fn answer(response: &Response) {
    // A reader that went away has seen what it wanted.
    let _ = wire::line::write(io::stdout().lock(), response);
}

/// Writes a line to standard output. A reader that went away has seen what it wanted.
pub(crate) fn say(line: impl Display) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Writes a line to standard error, in one piece: others may write there too.
pub(crate) fn tell(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// How often a line of progress is drawn anew.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// How long a step takes before it is worth a line that stays.
const NOTEWORTHY: Duration = Duration::from_millis(500);

/// Progress of something that takes seconds: one line that changes on a terminal, else a line for
/// each step that takes its time.
#[derive(Debug)]
pub(crate) struct Progress {
    begin: Instant,
    step: String,
    /// When the step began, until it has its line, where lines stay.
    unsaid: Option<Instant>,
    reader: Reader,
    terminal: bool,
}

impl Progress {
    pub(crate) fn begin(reader: Reader) -> Progress {
        // A terminal that cannot move its cursor gets lines.
        let capable = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Progress {
            begin: Instant::now(),
            step: String::new(),
            unsaid: None,
            reader,
            terminal: reader == Reader::Person && capable && io::stderr().is_terminal(),
        }
    }

    /// Shows what is being done now.
    pub(crate) fn step(&mut self, step: &str) {
        step.clone_into(&mut self.step);
        if self.reader == Reader::Program {
            answer(&Response::Progress { message: step.to_owned() });
        } else if self.terminal {
            self.draw();
        } else {
            self.unsaid = Some(Instant::now());
        }
    }

    /// Shows that time goes by.
    pub(crate) fn tick(&mut self) {
        if self.terminal {
            if !self.step.is_empty() {
                self.draw();
            }
        } else if let Some(begun) = self.unsaid.take_if(|begun| begun.elapsed() >= NOTEWORTHY) {
            let at = begun.duration_since(self.begin).as_secs_f64();
            tell(format_args!("{at:5.1} s  {}", self.step));
        }
    }

    /// A line that stays, above the one that changes.
    pub(crate) fn note(&mut self, note: &str) {
        self.clear();
        self.reader.note(note);
        self.tick();
    }

    /// Removes the line that changes; what follows is the result.
    pub(crate) fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// Seconds since the beginning.
    pub(crate) fn elapsed(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    fn draw(&self) {
        let size = rustix::termios::tcgetwinsize(io::stderr());
        // A terminal that does not know its size says 0.
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        let columns = if columns == 0 { 80 } else { columns };
        let line = format!("{:5.1} s  {} …", self.elapsed(), self.step);
        // A line that wraps could not be taken back.
        let shown: String = line.chars().take(columns.saturating_sub(1)).collect();
        let _ = io::stderr().write_all(format!("\r\x1b[K{shown}").as_bytes());
    }
}

/// `1 CPU`, `2 CPUs`.
pub(crate) fn cpus(count: u8) -> String {
    if count == 1 { "1 CPU".to_owned() } else { format!("{count} CPUs") }
}

/// Rows of text under each other, each column as wide as its widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn row<const N: usize>(&mut self, cells: [impl Into<String>; N]) {
        self.0.push(cells.into_iter().map(Into::into).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.0
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.0.iter().enumerate() {
            let padded: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{}{end}", padded.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let mut table = Table::default();
        table.row(["NAME", "STATE"]);
        table.row(["web-server", "running"]);
        table.row(["é", "stopped"]);
        assert_eq!(table.to_string(), "NAME        STATE\nweb-server  running\né           stopped");
    }
}
