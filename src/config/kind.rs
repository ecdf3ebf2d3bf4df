//! The table behind `source`, `authority` or a publisher: which kind it is.

use super::problem::did_you_mean;
use super::section::{Item, Section};

/// The table behind `source`, `authority` or a publisher, and its `kind`.
pub(super) fn with_kind<'d>(
    item: &Item<'d>,
    what: &str,
    kinds: &[&str],
    later: &[&str],
) -> Option<(Section<'d>, &'d str)> {
    if let Some(kind) = item.value.get_ref().as_str() {
        item.fail(
            format!("{} must be a table, not a string", item.name()),
            format!("write {{ kind = \"{kind}\" }}"),
        );
        return None;
    }
    let section = item.section(item.name())?;
    let hint = format!("one of: {}", kinds.join(", "));
    let kind_item = section.require("kind", &hint)?;
    let kind = kind_item.string()?;
    if kinds.contains(&kind) {
        return Some((section, kind));
    }
    if later.contains(&kind) {
        kind_item.fail(
            format!("the {what} `{kind}` is not in this version of pointsman"),
            hint,
        );
    } else {
        kind_item.fail(
            format!("there is no {what} `{kind}`"),
            did_you_mean(kind, kinds.iter().copied()).unwrap_or(hint),
        );
    }
    None
}
