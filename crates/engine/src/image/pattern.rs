//! Shell patterns as Go's `path.Match` reads them: `*` and `?` do not match a slash.

/// A pattern that ends in the middle of something.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("syntax error in pattern")]
pub(crate) struct BadPattern;

/// Whether the whole of `text` fits `pattern`.
///
/// # Errors
/// A pattern that is none, whether or not it would have mattered.
pub(crate) fn matches(pattern: &str, text: &str) -> Result<bool, BadPattern> {
    let items = parse(pattern)?;
    let text: Vec<char> = text.chars().collect();
    // Where to go on when it does not fit: the latest star takes one character more.
    let (mut item, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match items.get(item) {
            Some(Item::Star) => {
                retry = Some((item, at));
                item += 1;
                continue;
            }
            Some(one) if text.get(at).is_some_and(|character| one.fits(*character)) => {
                item += 1;
                at += 1;
                continue;
            }
            None if at == text.len() => return Ok(true),
            _ => {}
        }
        match retry {
            Some((star, from)) if text.get(from).is_some_and(|character| *character != '/') => {
                retry = Some((star, from + 1));
                item = star + 1;
                at = from + 1;
            }
            _ => return Ok(false),
        }
    }
}

enum Item {
    Star,
    Any,
    One(char),
    /// Ranges, and whether they are those *not* to match.
    Set(Vec<(char, char)>, bool),
}

impl Item {
    fn fits(&self, character: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => character != '/',
            Self::One(one) => *one == character,
            Self::Set(ranges, not) => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *not
            }
        }
    }
}

fn parse(pattern: &str) -> Result<Vec<Item>, BadPattern> {
    let mut items = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(character) = rest.next() {
        items.push(match character {
            '*' => Item::Star,
            '?' => Item::Any,
            '\\' => Item::One(rest.next().ok_or(BadPattern)?),
            '[' => {
                let not = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
                        break;
                    }
                    let mut bound = || match rest.next() {
                        Some('\\') => rest.next().ok_or(BadPattern),
                        None | Some('-' | ']') => Err(BadPattern),
                        Some(character) => Ok(character),
                    };
                    let low = bound()?;
                    let high = if rest.next_if_eq(&'-').is_some() {
                        match rest.next() {
                            Some('\\') => rest.next().ok_or(BadPattern)?,
                            None | Some('-' | ']') => return Err(BadPattern),
                            Some(character) => character,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Item::Set(ranges, not)
            }
            one => Item::One(one),
        });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, expected) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("busy*:latest", "busybox:latest", true),
            ("*", "user/a", false),
            ("*/*", "user/a", true),
            ("*/*", "a/b/c", false),
            ("b?sybox", "busybox", true),
            ("[a-c]usy", "busy", true),
            ("[^a-c]usy", "busy", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b", "xaxxbxb", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), Ok(expected), "{pattern} {text}");
        }
    }

    #[test]
    fn half_a_pattern_is_an_error() {
        for pattern in ["[[", "[", "[]", "[a-]", "a\\"] {
            assert_eq!(matches(pattern, "x"), Err(BadPattern), "{pattern}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = "*a".repeat(200);
        let text = "a".repeat(3000) + "b";
        assert_eq!(matches(&pattern, &text), Ok(false));
    }
}
