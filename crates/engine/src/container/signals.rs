//! Signals by name and number, as users give them.

use crate::error::{Error, Result};

pub(crate) const SIGTERM: i32 = libc::SIGTERM;
pub(crate) const SIGKILL: i32 = libc::SIGKILL;

/// Linux' signals below the real-time ones. Their numbers are those of x86 and ARM.
const NAMES: &[(&str, i32)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// The first and last real-time signals that the C library leaves to programs.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Reads `9`, `KILL`, `sigkill`, `RTMIN+3`.
///
/// # Errors
/// Docker's words for what is none of them.
pub(crate) fn parse(text: &str) -> Result<i32> {
    let invalid = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        // Zero only asks whether a process exists.
        return if number == 0 { Err(invalid()) } else { Ok(number) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i32>().ok() };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => offset(rest).filter(|offset| *offset >= 0).map(|offset| RTMIN + offset),
        (_, Some(rest)) => offset(rest).filter(|offset| *offset <= 0).map(|offset| RTMAX + offset),
        _ => None,
    };
    real_time.filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(invalid)
}

/// Whether a process can be sent it.
///
/// # Errors
/// Docker's words for a number that no signal has.
pub(crate) fn check_sendable(number: i32) -> Result<()> {
    let known = NAMES.iter().any(|(_, known)| *known == number) || (RTMIN..=RTMAX).contains(&number);
    if known {
        Ok(())
    } else {
        Err(Error::invalid(format!("the linux daemon does not support signal {number}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "SIGFOO", "RTMIN+99", "RTMAX+1", "1.5"] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("invalid signal: {text}"));
        }
        check_sendable(64).unwrap();
        assert_eq!(
            check_sendable(65).unwrap_err().to_string(),
            "the linux daemon does not support signal 65"
        );
    }
}
