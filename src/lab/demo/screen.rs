//! What a person sees: lines that stay, and below them a block that moves. Without a terminal the
//! block becomes one line a second.

use std::io::{IsTerminal, Write};

/// Standard output.
pub(super) struct Screen {
    terminal: bool,
    colour: bool,
    /// Lines of the moving block that are on the screen now.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let plain = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        Screen {
            terminal,
            colour: terminal && !plain("NO_COLOR"),
            drawn: 0,
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: &str) {
        self.write(&format!("{}{line}\n", self.erase()));
        self.drawn = 0;
    }

    /// Replaces the moving block.
    pub(super) fn show(&mut self, block: &[String]) {
        if self.terminal {
            let text: String = block.iter().map(|line| format!("{line}\n")).collect();
            self.write(&format!("{}\x1b[?25l{text}", self.erase()));
            self.drawn = block.len();
        }
    }

    /// Removes the moving block and gives the cursor back.
    pub(super) fn close(&mut self) {
        if self.terminal {
            self.write(&format!("{}\x1b[?25h", self.erase()));
            self.drawn = 0;
        }
    }

    fn erase(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// A reader that went away (`| head`) is no reason to stop half way: everything is cleaned up
    /// by the caller in any case.
    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(super) fn notable(&self, text: &str) -> String {
        self.paint("1;33", text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}

/// Values as a row of bars, each between an eighth and a full one of `highest`; 0 is a gap.
pub(super) fn bars(values: impl IntoIterator<Item = u64>, highest: u64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |value: u64| match value {
        0 => '·',
        value => BARS[(value * 8 / highest.max(1)).clamp(1, 8) as usize - 1],
    };
    values.into_iter().map(bar).collect()
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A time as people say it.
pub(super) fn millis(time: std::time::Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{:.1} ms", micros as f64 / 1000.0),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(millis(Duration::from_micros(1_240)), "1.2 ms");
        assert_eq!(millis(Duration::from_millis(43)), "43 ms");
        assert_eq!(millis(Duration::from_millis(1_530)), "1.53 s");
    }

    #[test]
    fn a_pause_is_a_gap_in_the_bars() {
        assert_eq!(bars([8, 4, 0, 1, 80], 8), "█▄·▁█");
    }
}
