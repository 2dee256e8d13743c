//! Formats numbers and times for the pages.

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// Formats a Unix timestamp for people: `2026-11-25 04:46:10`.
pub fn date_time(seconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    timestamp(seconds, format)
}

/// Formats a Unix timestamp as ISO 8601: `2026-11-25T04:46:10Z`.
pub fn iso_8601(seconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    timestamp(seconds, format)
}

/// Formats the time of day of a Unix timestamp: `04:46`.
pub fn clock(seconds: i64) -> String {
    timestamp(seconds, format_description!("[hour]:[minute]"))
}

/// Formats the day of a Unix timestamp: `25 Nov`.
pub fn day(seconds: i64) -> String {
    timestamp(
        seconds,
        format_description!("[day padding:none] [month repr:short]"),
    )
}

fn timestamp(seconds: i64, format: &[BorrowedFormatItem<'_>]) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| "never".to_owned())
}

/// Formats a duration in its largest unit: `3 min`.
pub fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Formats milliseconds with two decimals.
pub fn milliseconds(value: f64) -> String {
    format!("{value:.2}")
}

/// Formats a number with thousands separators: `1,234,567`.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of sessions: `1 session`, `2 sessions`.
pub fn sessions(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} session{plural}", number(count))
}

/// Formats a size in bytes or KiB.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        _ => format!("{} KiB", bytes.div_ceil(1_024)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_formatted_for_people() {
        let time = 1_795_582_770;
        assert_eq!(date_time(time), "2026-11-25 04:59:30");
        assert_eq!(iso_8601(time), "2026-11-25T04:59:30Z");
        assert_eq!(
            (clock(time), day(time)),
            ("04:59".to_owned(), "25 Nov".to_owned())
        );
        assert_eq!(date_time(i64::MAX), "never");
        let lengths = [-5, 59, 60, 7_300, 172_800].map(duration);
        assert_eq!(lengths, ["0 s", "59 s", "1 min", "2 h", "2 days"]);
        let numbers = [0, 999, 1_000, 1_234_567].map(number);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 1_200].map(sessions), ["1 session", "1,200 sessions"]);
        assert_eq!([1_023, 1_025].map(size), ["1023 B", "2 KiB"]);
    }
}
