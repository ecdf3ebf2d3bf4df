//! What is wrong with a configuration, where, and what to do about it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong, or (as a warning) doubtful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: PathBuf,
    /// Line and column, both from 1; `None` when the file could not be read at all.
    pub position: Option<(usize, usize)>,
    /// What is wrong. Never holds a secret.
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

/// Everything that is wrong, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.0 {
            writeln!(f, "{error}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 error in the configuration"),
            n => write!(f, "{n} errors in the configuration"),
        }
    }
}

impl std::error::Error for ConfigError {}
impl std::error::Error for ConfigErrors {}

/// Collects errors and warnings while one text is read, so that all are reported at once.
pub(super) struct Problems<'t> {
    file: &'t Path,
    text: &'t str,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        Problems {
            file,
            text,
            errors: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub(super) fn error(
        &self,
        at: &Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let problem = self.problem(at, message.into(), hint);
        self.errors.borrow_mut().push(problem);
    }

    pub(super) fn warning(
        &self,
        at: &Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let problem = self.problem(at, message.into(), hint);
        self.warnings.borrow_mut().push(problem);
    }

    /// The warnings, or every error; both in the order of the file.
    pub(super) fn into_result(self) -> Result<Vec<ConfigError>, ConfigErrors> {
        let mut errors = self.errors.into_inner();
        let mut warnings = self.warnings.into_inner();
        errors.sort_by_key(|e| e.position);
        warnings.sort_by_key(|e| e.position);
        if errors.is_empty() {
            Ok(warnings)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    fn problem(&self, at: &Range<usize>, message: String, hint: Option<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            position: Some(position(self.text, at.start)),
            message,
            hint,
        }
    }
}

/// Line and column, from 1, of a byte offset; the column counts characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// The known word that was probably meant.
pub(super) fn did_you_mean<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<String> {
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(word, k), k))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| format!("did you mean `{k}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "a = 1\nbü = 2\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 6), (2, 1));
        assert_eq!(position(text, text.find('2').expect("it is there")), (2, 6));
        assert_eq!(position(text, 999), (3, 1));
    }

    #[test]
    fn a_typing_error_is_recognised_and_a_foreign_word_is_not() {
        let known = ["hold_timeout", "connect_timeout"];
        assert_eq!(
            did_you_mean("hold_timout", known).as_deref(),
            Some("did you mean `hold_timeout`?")
        );
        assert_eq!(did_you_mean("zebra", known), None);
    }
}
