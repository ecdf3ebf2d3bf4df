//! Reads one table of the file: typed values, unknown keys, and every error with its place.

use std::cell::RefCell;
use std::ops::Range;

use humantime_serde::re::humantime;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, did_you_mean};

/// Keys that the design names and this version does not have: refused with a clear word.
const LATER_KEYS: &[&str] = &[
    "durability",
    "exactly_once",
    "read_from",
    "reload",
    "tls",
    "tunables",
];

/// The smallest and greatest value of a whole number.
pub(super) type Bound = (&'static str, u64, u64);

/// One table and the keys that were asked for.
pub(super) struct Section<'d> {
    problems: &'d Problems<'d>,
    /// As people write it, for example `[backend.main]`.
    title: String,
    /// Where it begins.
    pub(super) span: Range<usize>,
    table: &'d DeTable<'d>,
    known: RefCell<Vec<String>>,
}

/// One value and where it stands.
pub(super) struct Item<'d> {
    problems: &'d Problems<'d>,
    pub(super) key: String,
    section: String,
    pub(super) value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Section<'d> {
    pub(super) fn new(
        problems: &'d Problems<'d>,
        title: impl Into<String>,
        span: Range<usize>,
        table: &'d DeTable<'d>,
    ) -> Self {
        Section {
            problems,
            title: title.into(),
            span,
            table,
            known: RefCell::default(),
        }
    }

    /// The value of `key`, if it is there; `key` counts as known from now on.
    pub(super) fn get(&self, key: &str) -> Option<Item<'d>> {
        self.known.borrow_mut().push(key.to_owned());
        self.table.get(key).map(|value| Item {
            problems: self.problems,
            key: key.to_owned(),
            section: self.title.clone(),
            value,
        })
    }

    /// The value of `key`; an error when it is missing. Where it is only misspelt, the unknown key
    /// is the error: keys that are like this one have to be asked for before.
    pub(super) fn require(&self, key: &str, hint: &str) -> Option<Item<'d>> {
        let item = self.get(key);
        let known = self.known.borrow();
        let others = self.table.keys().map(|k| -> &str { k.get_ref() });
        let mut others = others.filter(|other| !known.iter().any(|k| k == other));
        if item.is_none() && others.all(|other| did_you_mean(other, [key]).is_none()) {
            self.fail(format!("`{key}` is missing in {}", self.title), hint);
        }
        item
    }

    /// As people write it.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Every key with its value, in the order of the file; all count as known.
    pub(super) fn all(&self) -> Vec<Item<'d>> {
        let mut keys: Vec<_> = self.table.keys().collect();
        keys.sort_by_key(|k| k.span().start);
        keys.iter().filter_map(|k| self.get(k.get_ref())).collect()
    }

    /// An error about the table as a whole.
    pub(super) fn fail(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.error(&self.span, message, Some(hint.into()));
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter() {
            let word: &str = key.get_ref();
            if !known.iter().any(|k| k == word) {
                self.unknown(key, known.iter().map(String::as_str));
            }
        }
    }

    fn unknown<'k>(
        &self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        let word: &str = key.get_ref();
        if LATER_KEYS.contains(&word) {
            return self.problems.error(
                &key.span(),
                format!("`{word}` is not in this version of pointsman"),
                Some(format!("remove it from {}", self.title)),
            );
        }
        let hint = did_you_mean(word, known.clone()).unwrap_or_else(|| {
            let mut keys: Vec<_> = known.collect();
            keys.sort_unstable();
            format!("the keys here are: {}", keys.join(", "))
        });
        self.problems.error(
            &key.span(),
            format!("unknown key `{word}` in {}", self.title),
            Some(hint),
        );
    }

    /// Reads the whole table as settings with defaults. Every key is tried by itself, so that each
    /// wrong one is reported at its own place. Times of zero and numbers out of bounds are refused.
    pub(super) fn settings<T>(self, bounds: &[Bound]) -> T
    where
        T: Default + Serialize + DeserializeOwned,
    {
        let defaults = toml::Table::try_from(T::default()).unwrap_or_default();
        let mut good = Vec::new();
        for (key, default) in &defaults {
            let Some(item) = self.get(key) else { continue };
            if item.setting::<T>(default, bounds) {
                good.push((key.clone(), item.value.clone()));
            }
        }
        self.finish();
        T::deserialize(MapDeserializer::<_, toml::de::Error>::new(good.into_iter()))
            .unwrap_or_default()
    }
}

impl<'d> Item<'d> {
    /// An error about this value.
    pub(super) fn fail(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.problems
            .error(&self.value.span(), message, Some(hint.into()));
    }

    /// A warning about this value.
    pub(super) fn warn(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.problems
            .warning(&self.value.span(), message, Some(hint.into()));
    }

    /// As `key` in its section, for messages.
    pub(super) fn name(&self) -> String {
        format!("`{}` in {}", self.key, self.section)
    }

    /// A string.
    pub(super) fn string(&self) -> Option<&'d str> {
        let found = self.value.get_ref().as_str();
        if found.is_none() {
            self.wrong_type("a string");
        }
        found
    }

    /// true or false.
    pub(super) fn boolean(&self) -> Option<bool> {
        let found = self.value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type("true or false");
        }
        found
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, least: i64, most: i64) -> Option<i64> {
        let number = self.value.get_ref().as_integer();
        let number = number.and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
        let fits = number.filter(|n| (least..=most).contains(n));
        if fits.is_none() {
            self.fail(
                format!("{} must be a number from {least} to {most}", self.name()),
                format!("for example {} = {least}", self.key),
            );
        }
        fits
    }

    /// A time such as "10s", longer than zero.
    pub(super) fn duration(&self) -> Option<std::time::Duration> {
        let text = self.string()?;
        match humantime::parse_duration(text) {
            Ok(time) if !time.is_zero() => return Some(time),
            Ok(_) => self.fail(
                format!("{} must be longer than zero", self.name()),
                "for example \"500ms\"",
            ),
            Err(error) => self.fail(
                format!("{} is not a time: {error}", self.name()),
                "a number and a unit, for example \"500ms\" or \"10s\"",
            ),
        }
        None
    }

    /// A table, inline or with a header.
    pub(super) fn section(&self, title: impl Into<String>) -> Option<Section<'d>> {
        match self.value.get_ref().as_table() {
            Some(table) => Some(Section::new(self.problems, title, self.value.span(), table)),
            None => {
                self.wrong_type("a table");
                None
            }
        }
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Option<Vec<Item<'d>>> {
        let Some(array) = self.value.get_ref().as_array() else {
            self.wrong_type("a list");
            return None;
        };
        Some(
            array
                .iter()
                .map(|value| Item {
                    problems: self.problems,
                    key: self.key.clone(),
                    section: self.section.clone(),
                    value,
                })
                .collect(),
        )
    }

    fn wrong_type(&self, wanted: &str) {
        self.problems.error(
            &self.value.span(),
            format!(
                "{} must be {wanted}, not {}",
                self.name(),
                with_article(self.value.get_ref().type_str())
            ),
            None,
        );
    }

    /// Checks this value as one key of `T`; false when it was reported.
    fn setting<T: DeserializeOwned>(&self, default: &toml::Value, bounds: &[Bound]) -> bool {
        let single = std::iter::once((self.key.as_str(), self.value.clone()));
        let hint = format!("the default is {} = {default}", self.key);
        if let Err(error) = T::deserialize(MapDeserializer::<_, toml::de::Error>::new(single)) {
            let message = error.message();
            let hint = variant_meant(message).unwrap_or(hint);
            self.fail(format!("{}: {message}", self.name()), hint);
            return false;
        }
        if is_time(default)
            && self
                .value
                .get_ref()
                .as_str()
                .and_then(|t| humantime::parse_duration(t).ok())
                .is_some_and(|t| t.is_zero())
        {
            self.fail(format!("{} must be longer than zero", self.name()), hint);
            return false;
        }
        let number = self
            .value
            .get_ref()
            .as_integer()
            .and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
        let bound = bounds.iter().find(|(key, ..)| *key == self.key);
        if let (Some(number), Some((_, min, max))) = (number, bound)
            && !(*min..=*max).contains(&number)
        {
            self.fail(
                format!("{} must be from {min} to {max}, not {number}", self.name()),
                hint,
            );
            return false;
        }
        true
    }
}

fn is_time(default: &toml::Value) -> bool {
    default
        .as_str()
        .is_some_and(|text| humantime::parse_duration(text).is_ok())
}

/// serde names the wrong variant first and the valid ones after it, each in backquotes.
fn variant_meant(message: &str) -> Option<String> {
    if !message.starts_with("unknown variant") {
        return None;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let wrong = words.next()?;
    did_you_mean(wrong, words)
}

fn with_article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}
