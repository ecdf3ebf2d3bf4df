//! Replies as trees. A decoder of its own: what is tested must not judge itself.

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// `+ - : $ = , ( # _` and null strings: the type's byte and the text.
    Text(u8, Vec<u8>),
    /// `* ~ > % |`: the type's byte and all elements (twice as many as pairs). `None`: `*-1`.
    List(u8, Option<Vec<Value>>),
}

impl Value {
    /// The first reply of `bytes` and its length; `None` when it is not complete.
    pub fn parse(bytes: &[u8]) -> Option<(Value, usize)> {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let (kind, line) = (bytes[0], &bytes[1..end]);
        let number = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
        let at = end + 2;
        match kind {
            b'$' | b'=' => match usize::try_from(number()?) {
                Ok(len) => {
                    let text = bytes.get(at..at + len)?.to_vec();
                    bytes.get(at + len..at + len + 2)?;
                    Some((Value::Text(kind, text), at + len + 2))
                }
                Err(_) => Some((Value::Text(b'_', b"$".to_vec()), at)),
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Ok(len) = usize::try_from(number()?) else {
                    return Some((Value::List(kind, None), at));
                };
                let len = if matches!(kind, b'%' | b'|') {
                    len * 2
                } else {
                    len
                };
                let (mut items, mut at, mut left) = (Vec::new(), at, len);
                while left > 0 {
                    let (item, more) = Value::parse(&bytes[at..])?;
                    // A message within another reply is no element of it.
                    left -= usize::from(!matches!(item, Value::List(b'>', _)));
                    items.push(item);
                    at += more;
                }
                Some((Value::List(kind, Some(items)), at))
            }
            _ => Some((Value::Text(kind, line.to_vec()), at)),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Value::Text(_, text) => String::from_utf8_lossy(text).into_owned(),
            Value::List(..) => String::new(),
        }
    }

    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(_, Some(items)) => items,
            _ => &[],
        }
    }

    pub fn number(&self) -> Option<i64> {
        self.text().parse().ok()
    }

    /// The value behind a key, of a map or of an array that stands for one.
    pub fn field(&self, key: &str) -> Option<&Value> {
        self.items()
            .chunks(2)
            .find(|pair| pair[0].text() == key)
            .and_then(|pair| pair.get(1))
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(kind, text) => write!(f, "{}{}", *kind as char, text.escape_ascii()),
            Value::List(kind, None) => write!(f, "{}null", *kind as char),
            Value::List(kind, Some(items)) => {
                write!(f, "{}[", *kind as char)?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}
