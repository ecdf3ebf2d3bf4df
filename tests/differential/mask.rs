//! What may differ between two servers that did the same, and nothing else.

use std::collections::BTreeMap;

use crate::side::Event;
use crate::value::Value;

/// How two replies may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mask {
    /// In the order of elements, at any depth: hash tables have a seed.
    Order,
    /// In the order of words within a text.
    Words,
    /// In numbers: times, sizes.
    Numbers,
    /// In everything but the type.
    Content,
    /// In the ids of clients.
    Identity,
    /// In lines about clients: in the fields that [`CLIENT_FIELDS`] does not name.
    Clients,
    /// The same, inside of EXEC: pointsman looks when everything in it has run.
    ClientsLater,
    /// In which channel is left first.
    Channel,
    /// Pointsman needs a right that the server does not: docs/compatibility.md.
    Right,
}

/// Commands and what may differ in their replies. One word stands for every subcommand.
#[rustfmt::skip]
const MASKS: &[(&str, Mask)] = &[
    ("keys spop smembers sinter sunion sdiff hkeys hvals hgetall command acl|cat acl|getuser acl|list acl|users \
      pubsub function|list config|get sort sort_ro latency eval evalsha fcall eval_ro evalsha_ro fcall_ro", Mask::Order),
    ("acl|list acl|getuser", Mask::Words),
    ("dump randomkey srandmember hrandfield zrandmember scan sscan hscan zscan", Mask::Content),
    ("time lastsave info lolwut acl|genpass acl|log memory|stats memory|doctor memory|malloc-stats slowlog|get \
      latency config|get function|stats", Mask::Content),
    ("ttl pttl expiretime pexpiretime object|idletime object|freq memory|usage xinfo xpending memory|stats slowlog|len \
      acl|log xautoclaim", Mask::Numbers),
    ("client|id hello client|trackinginfo client|getredir", Mask::Identity),
    ("client|list client|info", Mask::Clients),
    ("wait waitaof", Mask::Right),
    ("unsubscribe punsubscribe sunsubscribe reset", Mask::Channel),
];

/// Fields of CLIENT LIST that must be equal. The others are about buffers, time and addresses; how much is
/// queued after MULTI depends on watched keys, and the flags tell whether anything is.
const CLIENT_FIELDS: &[&str] = &[
    "name", "db", "sub", "psub", "ssub", "user", "resp", "flags", "redir", "lib-name", "lib-ver",
];

/// What may differ in the reply to a request.
pub fn of(request: &[Vec<u8>]) -> Vec<Mask> {
    let word = |at: usize| {
        let word = request.get(at).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(word).to_lowercase()
    };
    let (first, whole) = (word(0), format!("{}|{}", word(0), word(1)));
    MASKS
        .iter()
        .filter(|(names, _)| {
            names
                .split_whitespace()
                .any(|name| name == first || name == whole)
        })
        .map(|(_, mask)| *mask)
        .collect()
}

/// The ids and addresses of both sides' clients, with the same name for the same one.
pub struct Names<'a> {
    pub left: &'a BTreeMap<String, String>,
    pub right: &'a BTreeMap<String, String>,
}

/// Whether two events are equal but for what `masks` allow.
pub fn same(left: &Event, right: &Event, masks: &[Mask], names: &Names<'_>) -> bool {
    match (left, right) {
        (Event::Reply(left), Event::Reply(right)) => same_value(left, right, masks, names),
        (left, right) => left == right,
    }
}

/// A message that several patterns fit comes once for each, in the order of a hash table.
pub fn order_patterns(events: &mut [Event]) {
    fn message(event: &Event) -> Option<&[Value]> {
        match event {
            // pmessage, pattern, channel, message
            Event::Reply(value) if value.items().first()?.text() == "pmessage" => {
                Some(value.items())
            }
            _ => None,
        }
    }
    let same = |a: &Event, b: &Event| match (message(a), message(b)) {
        (Some(a), Some(b)) => a[2..] == b[2..],
        _ => false,
    };
    for run in events.chunk_by_mut(same) {
        run.sort_by(|a, b| message(a).cmp(&message(b)));
    }
}

/// Who is cut off because of what it listens to, and tracks, is told first to drop its whole cache: that
/// connection is another one.
pub fn forget_farewell(events: &mut Vec<Event>) {
    let farewell = |event: &Event| match event {
        Event::Reply(Value::List(b'>', Some(items))) => {
            items[0].text() == "invalidate" && matches!(items[1], Value::Text(b'_', _))
        }
        _ => false,
    };
    if let [.., last, Event::Closed] = events.as_slice()
        && farewell(last)
    {
        events.remove(events.len() - 2);
    }
}

fn same_value(left: &Value, right: &Value, masks: &[Mask], names: &Names<'_>) -> bool {
    if left == right
        || echo(left, names.left).is_some_and(|left| Some(left) == echo(right, names.right))
        || masks.iter().any(|mask| mask.hides(left, right, names))
    {
        return true;
    }
    match (left, right) {
        (Value::List(a, Some(left)), Value::List(b, Some(right))) => {
            let mut masks = masks.to_vec();
            if masks.contains(&Mask::Clients) {
                masks.push(Mask::ClientsLater);
            }
            a == b
                && left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(l, r)| same_value(l, r, &masks, names))
        }
        _ => false,
    }
}

/// An error with the names of clients whose ids and addresses it repeats.
fn echo(value: &Value, names: &BTreeMap<String, String>) -> Option<String> {
    let Value::Text(b'-', text) = value else {
        return None;
    };
    let text = String::from_utf8_lossy(text);
    let words = text
        .split('\'')
        .map(|word| names.get(word).map_or(word, String::as_str));
    Some(words.collect::<Vec<_>>().join("'"))
}

impl Mask {
    fn hides(self, left: &Value, right: &Value, names: &Names<'_>) -> bool {
        match self {
            Mask::Order => sorted(left) == sorted(right),
            Mask::Words => match (left, right) {
                (Value::Text(a, left), Value::Text(b, right)) => {
                    a == b && words(left) == words(right)
                }
                _ => false,
            },
            Mask::Numbers => without_numbers(left) == without_numbers(right),
            Mask::Content => match (left, right) {
                (Value::Text(a, _), Value::Text(b, _)) => a == b && *a != b'-',
                (Value::List(a, l), Value::List(b, r)) => a == b && l.is_some() == r.is_some(),
                _ => false,
            },
            Mask::Identity => match (left, right) {
                (Value::Text(b':', _), Value::Text(b':', _)) => {
                    let left = names.left.get(&left.text());
                    left.is_some() && left == names.right.get(&right.text())
                }
                _ => false,
            },
            Mask::Clients => match (left, right) {
                (Value::Text(a, left), Value::Text(b, right)) => {
                    a == b
                        && *a != b'-'
                        && clients(left, names.left, &[]) == clients(right, names.right, &[])
                }
                _ => false,
            },
            Mask::ClientsLater => match (left, right) {
                (Value::Text(a, left), Value::Text(b, right)) => {
                    let of = |text, names| clients(text, names, &["flags"]);
                    a == b && *a != b'-' && of(left, names.left) == of(right, names.right)
                }
                _ => false,
            },
            Mask::Right => right.text().contains("pointsman:wait"),
            Mask::Channel => match (left.items(), right.items()) {
                ([word, _, count], [other_word, _, other_count]) => {
                    word == other_word
                        && count == other_count
                        && word.text().ends_with("unsubscribe")
                }
                _ => false,
            },
        }
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::List(kind, Some(items)) => {
            let mut items: Vec<Value> = items.iter().map(sorted).collect();
            items.sort();
            Value::List(*kind, Some(items))
        }
        other => other.clone(),
    }
}

fn words(text: &[u8]) -> Vec<&[u8]> {
    let mut words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    words.sort_unstable();
    words
}

fn without_numbers(value: &Value) -> Value {
    match value {
        Value::List(kind, Some(items)) => {
            Value::List(*kind, Some(items.iter().map(without_numbers).collect()))
        }
        Value::Text(kind, text) if *kind != b'-' => {
            let text = String::from_utf8_lossy(text);
            match text.parse::<f64>() {
                Ok(number) => Value::Text(
                    *kind,
                    if number < 0.0 {
                        b"-".to_vec()
                    } else {
                        b"0".to_vec()
                    },
                ),
                Err(_) => value.clone(),
            }
        }
        other => other.clone(),
    }
}

/// Of each known client: its name, the names of all fields, and those fields that must be equal.
fn clients(
    text: &[u8],
    names: &BTreeMap<String, String>,
    but: &[&str],
) -> Vec<(String, Vec<String>)> {
    let text = String::from_utf8_lossy(text);
    text.trim_start_matches("txt:")
        .lines()
        .filter_map(|line| {
            let fields: Vec<(&str, &str)> =
                line.split(' ').filter_map(|f| f.split_once('=')).collect();
            let id = fields.iter().find(|(name, _)| *name == "id")?.1;
            let shown = fields
                .iter()
                .map(
                    |(name, value)| match CLIENT_FIELDS.contains(name) && !but.contains(name) {
                        true => format!("{name}={}", compared(name, value)),
                        false => (*name).to_owned(),
                    },
                )
                .collect();
            Some((names.get(id)?.clone(), shown))
        })
        .collect()
}

/// Of a field that must be equal, the part that must.
fn compared(name: &str, value: &str) -> String {
    match name {
        // Which watched key was changed, and who was served in this very moment, only the server knows. Before 7.2, RESET left NO-EVICT on; READONLY shows in Valkey, and is of no matter at a primary.
        "flags" => value.replace(['d', 'e', 'r', 'u', 'N'], ""),
        _ => value.to_owned(),
    }
}
