//! Times of log entries: RFC 3339 in UTC, and nanoseconds since the Unix epoch.

use time::OffsetDateTime;

/// Nanoseconds since the Unix epoch.
pub(crate) type Nanos = i64;

/// This moment.
pub(crate) fn now() -> Nanos {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// A time as entries have it; the fraction has as many digits as it needs.
pub(super) fn text(nanos: Nanos) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(nanos.into())
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

/// Reads `YYYY-MM-DDTHH:MM:SS[.fraction]Z`.
pub(super) fn parse(text: &[u8]) -> Option<Nanos> {
    let (date, fraction) = text.strip_suffix(b"Z")?.split_at_checked(19)?;
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        date[range]
            .iter()
            .try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| date[*at] != *byte) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let seconds = (number(11..13)? * 60 + number(14..16)?) * 60 + number(17..19)?;
    let mut nanos = 0;
    if let Some(digits) = fraction.strip_prefix(b".") {
        let mut unit = 100_000_000;
        for digit in digits.iter().take(9) {
            nanos += i64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?) * unit;
            unit /= 10;
        }
    } else if !fraction.is_empty() {
        return None;
    }
    let days = days_since_epoch(year, month, day);
    (days * 86_400 + seconds).checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Howard Hinnant's `days_from_civil`: years begin in March, so that the leap day is the last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Appends an entry's time with all nine digits of its fraction, so that columns align.
pub(super) fn write_fixed(out: &mut Vec<u8>, text: &[u8]) {
    let text = text.strip_suffix(b"Z").unwrap_or(text);
    out.extend_from_slice(text);
    let digits = text.get(20..).map_or(0, <[u8]>::len);
    if text.len() <= 19 {
        out.push(b'.');
    }
    out.extend(std::iter::repeat_n(b'0', 9_usize.saturating_sub(digits)));
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_times_are_read_as_the_time_crate_does() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59.5Z",
            "2026-11-21T10:00:00.123456789Z",
            "2100-03-01T00:00:00.000000001Z",
        ] {
            let expected = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
                .unwrap()
                .unix_timestamp_nanos();
            assert_eq!(parse(text.as_bytes()).map(i128::from), Some(expected), "{text}");
        }
        for text in
            ["", "2026-11-21", "2026-11-21T10:00:00", "2026-11-21T10:00:00.xZ", "2026-1121T10:00:00+Z"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn fixed_times_have_nine_digits() {
        for (text, fixed) in [
            ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00.000000000Z"),
            ("2026-11-21T10:00:00.12Z", "2026-11-21T10:00:00.120000000Z"),
        ] {
            let mut out = Vec::new();
            write_fixed(&mut out, text.as_bytes());
            assert_eq!(out, fixed.as_bytes());
        }
    }
}
