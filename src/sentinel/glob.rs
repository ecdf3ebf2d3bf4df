//! Patterns as PSUBSCRIBE takes them: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a byte to take it as
//! it is.

/// Whether `pattern` matches the whole of `text`. Costs at most the product of both lengths.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where to go on when what follows the last star does not fit: the star takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            retry = Some((at, read));
            continue;
        }
        let Some(&byte) = text.get(read) else {
            return at >= pattern.len();
        };
        match one(pattern.get(at..).unwrap_or_default(), byte) {
            Some(len) => {
                at += len;
                read += 1;
            }
            None => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (at, read) = (*after, *from);
                }
                None => return false,
            },
        }
    }
}

/// How long the part of `pattern` is that takes `byte`; `None` when its first part does not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => class(rest, byte).map(|len| len + 1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// The inside of `[...]`, up to and with its closing bracket; without one it ends with the pattern.
fn class(inside: &[u8], byte: u8) -> Option<usize> {
    let negated = inside.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match inside.get(at..).unwrap_or_default() {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                found |= (low.min(high)..=low.max(high)).contains(&&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_those_of_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "+switch-master", true),
            ("+*", "+switch-master", true),
            ("+*", "-sdown", false),
            ("[-+]sdown", "-sdown", true),
            ("[-+]sdown", "+sdown", true),
            ("[-+]sdown", "+odown", false),
            ("[^-]sdown", "+sdown", true),
            ("[^-]sdown", "-sdown", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[\\]]", "]", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("[abc", "b", true),
            ("switch-master", "+switch-master", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
        let stars = "*a".repeat(200);
        assert!(!matches(stars.as_bytes(), "a".repeat(199).as_bytes()));
    }
}
