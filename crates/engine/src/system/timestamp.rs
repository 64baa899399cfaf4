use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Reads a time as Docker's clients send it: `seconds[.fraction]` since the Unix epoch, or RFC 3339.
/// In nanoseconds since the epoch.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return i64::try_from(time.unix_timestamp_nanos()).ok();
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// This moment as RFC 3339.
pub(crate) fn now_rfc3339() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parse_timestamp("1136073600.000000001"), Some(1_136_073_600_000_000_001));
        assert_eq!(parse_timestamp("1136073600.5"), Some(1_136_073_600_500_000_000));
        assert_eq!(parse_timestamp("2006-01-01T00:00:00Z"), Some(1_136_073_600_000_000_000));
        for text in ["", "soon", "1.x", "1.0000000001", "99999999999999999999"] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }
}
