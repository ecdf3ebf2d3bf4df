//! Numbers and times as people say them, and columns that line up.

use std::time::Duration;

/// A length of time with two figures that matter: `18 ms`, `1.5 s`, `4 min`, `3 h 20 min`.
pub(super) fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.as_millis() == 0 && !time.is_zero() => format!("{} us", time.as_micros()),
        0 => format!("{} ms", time.as_millis()),
        1..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long ago something was.
pub(super) fn ago(time: Duration) -> String {
    match time.as_millis() {
        0..1000 => "just now".to_owned(),
        _ => format!("{} ago", length(time)),
    }
}

/// A number of bytes: `0 B`, `512 B`, `1.5 kB`, `16 MB`. Powers of 1000.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        v if v < 9.95 => format!("{v:.1} {}", UNITS[unit]),
        v => format!("{v:.0} {}", UNITS[unit]),
    }
}

/// `1 listener`, `2 listeners`
pub(super) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// Wall-clock time of a report: `2026-11-23 05:10:11 UTC`.
pub(super) fn wall_time(unix_millis: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(unix_millis);
    let text = humantime_serde::re::humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// Rows of cells, the first one the headings, as columns two blanks apart, each line after
/// `indent`. Empty columns are left out.
pub(super) fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        let filled = rows.iter().skip(1).any(|row| !row[column].is_empty());
        if filled { cells.max() } else { None }
    };
    let widths: Vec<Option<usize>> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            if let Some(width) = width {
                line.push_str(&format!("{cell:<width$}  "));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_figures_that_matter() {
        for (millis, words) in [
            (0, "0 ms"),
            (18, "18 ms"),
            (1_499, "1.5 s"),
            (75_000, "75 s"),
            (600_000, "10 min"),
            (12_000_000, "3 h 20 min"),
            (1_000_000_000, "11 days"),
        ] {
            assert_eq!(length(Duration::from_millis(millis)), words);
        }
        assert_eq!(length(Duration::from_micros(120)), "120 us");
        assert_eq!(ago(Duration::from_millis(900)), "just now");
        assert_eq!(ago(Duration::from_secs(3)), "3.0 s ago");
    }

    #[test]
    fn bytes_have_two_figures() {
        for (count, words) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_500, "1.5 kB"),
            (16_777_216, "17 MB"),
            (999_900, "1.0 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(count), words);
        }
    }

    #[test]
    fn wall_time_is_readable() {
        assert_eq!(wall_time(1_795_410_611_123), "2026-11-23 05:10:11 UTC");
    }

    #[test]
    fn columns_line_up_and_empty_ones_vanish() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(
            "  ",
            &[
                row(["NODE", "NOTE", "ROLE"]),
                row(["a:1", "", "primary"]),
                row(["bbbb:2", "", "replica"]),
            ],
        );
        assert_eq!(
            text,
            "  NODE    ROLE\n  a:1     primary\n  bbbb:2  replica\n"
        );
    }
}
