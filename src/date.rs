//! Points in time as people read them.

use std::time::SystemTime;

/// `2026-03-01 12:00:00 UTC`.
pub(crate) fn date(time: SystemTime) -> String {
    // The formatter of humantime fails on what no calendar has; dates in certificates are others' words.
    let in_range =
        time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() < 253_402_300_800);
    if !in_range {
        return "a date out of range".into();
    }
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_readable_and_never_panic() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(date(at(86_400)), "1970-01-02 00:00:00 UTC");
        assert_eq!(date(at(253_402_300_799)), "9999-12-31 23:59:59 UTC");
        assert_eq!(date(at(253_402_300_800)), "a date out of range");
        assert_eq!(date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "a date out of range");
    }
}
