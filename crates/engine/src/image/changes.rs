//! Changes to a configuration in the words of a Dockerfile, as `import` and `commit` take them.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

use wire::docker::container::{ContainerConfig, Empty, Healthcheck};

use crate::error::{Error, Result};

/// Applies `changes` in order. Each may have several lines.
///
/// # Errors
/// What is no change, in Docker's words.
pub(super) fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    let mut has_command = false;
    for change in changes {
        for line in joined_lines(change) {
            apply_one(config, &line, &mut has_command)?;
        }
    }
    Ok(())
}

/// The lines of a change without comments, those that end with a backslash joined with the next.
fn joined_lines(change: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in change.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => open.push_str(part),
            None => {
                open.push_str(line);
                lines.push(std::mem::take(&mut open));
            }
        }
    }
    if !open.is_empty() {
        lines.push(open);
    }
    lines
}

/// `has_command` tells whether a change before this one has set the command.
fn apply_one(config: &mut ContainerConfig, line: &str, has_command: &mut bool) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (name, rest) = (word.to_ascii_uppercase(), rest.trim());
    let needed = |what: &str| Error::invalid(format!("{name} requires {what}"));
    let one = || match rest {
        "" => Err(needed("exactly one argument")),
        rest => Ok(rest.to_owned()),
    };
    let variables = config.env.clone().unwrap_or_default();
    let word_of = |text: &str| unquote(text, &variables);
    match name.as_str() {
        "CMD" => {
            config.cmd = Some(command(rest));
            config.args_escaped = false;
            *has_command = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest)).filter(|words| !words.is_empty());
            // The command of before was the arguments of another program.
            if !*has_command {
                config.cmd = None;
            }
        }
        "ENV" => {
            for (key, value) in pairs(&name, rest, &variables)? {
                set_variable(config.env.get_or_insert_default(), &key, &value);
            }
        }
        "LABEL" => {
            config.labels.get_or_insert_default().extend(pairs(&name, rest, &variables)?);
        }
        "EXPOSE" => {
            let ports = words(rest);
            if ports.is_empty() {
                return Err(needed("at least one argument"));
            }
            for port in ports {
                config.exposed_ports.extend(exposed(&word_of(&port))?);
            }
        }
        "USER" => config.user = word_of(&one()?),
        "WORKDIR" => config.working_dir = join_path(&config.working_dir, &word_of(&one()?)),
        "STOPSIGNAL" => config.stop_signal = word_of(&one()?),
        "VOLUME" => {
            let volumes = list_or_words(rest);
            if volumes.is_empty() {
                return Err(needed("at least one argument"));
            }
            for volume in volumes {
                let volume = word_of(volume.trim());
                if volume.is_empty() {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                config.volumes.get_or_insert_default().insert(volume, Empty {});
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        "ONBUILD" => {
            let trigger = one()?;
            let first = trigger.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match first.as_str() {
                "ONBUILD" => {
                    return Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
                }
                "MAINTAINER" | "FROM" => {
                    return Err(Error::invalid(format!("{first} isn't allowed as an ONBUILD trigger")));
                }
                _ => config.on_build.get_or_insert_default().push(trigger),
            }
        }
        _ => return Err(Error::invalid(format!("{word} is not a valid change command"))),
    }
    Ok(())
}

/// The JSON form is taken as it is; the other goes to a shell.
fn command(text: &str) -> Vec<String> {
    match json_list(text) {
        Some(words) => words,
        None if text.is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
    }
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok())?
}

fn list_or_words(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| words(text))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `key=value key2="v 2"`, or, with one pair alone, `key value`.
fn pairs(name: &str, text: &str, variables: &[String]) -> Result<Vec<(String, String)>> {
    let unquote = |text: &str| unquote(text, variables);
    let items = quoted_words(text);
    let Some(first) = items.first() else {
        return Err(Error::invalid(format!("{name} requires at least one argument")));
    };
    if !first.contains('=') {
        let Some((key, value)) = text.split_once(char::is_whitespace) else {
            return Err(Error::invalid(format!("{name} must have two arguments")));
        };
        return Ok(vec![(key.to_owned(), unquote(value.trim_start()))]);
    }
    items
        .iter()
        .map(|item| match item.split_once('=') {
            Some(("", _)) => Err(Error::invalid(format!("{name} names can not be blank"))),
            Some((key, value)) => Ok((unquote(key), unquote(value))),
            None => Err(Error::invalid(format!(
                "Syntax error - can't find = in {item:?}. Must be of the form: name=value"
            ))),
        })
        .collect()
}

/// Splits at blanks outside of quotes; quotes and backslashes stay.
fn quoted_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut escaped) = (Vec::new(), String::new(), None, false);
    for character in text.chars() {
        if escaped {
            escaped = false;
        } else if character == '\\' && quote != Some('\'') {
            escaped = true;
        } else if quote == Some(character) {
            quote = None;
        } else if quote.is_none() && matches!(character, '"' | '\'') {
            quote = Some(character);
        } else if quote.is_none() && character.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Takes quotes and backslashes away and puts in what `variables` (`NAME=value`) say, as a shell would.
fn unquote(text: &str, variables: &[String]) -> String {
    let (mut plain, mut quote) = (String::with_capacity(text.len()), None);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quote != Some('\'') => match characters.peek() {
                // Inside double quotes a backslash only means something before these.
                Some(next) if quote.is_none() || matches!(next, '"' | '\\' | '$') => {
                    plain.extend(characters.next());
                }
                _ => plain.push('\\'),
            },
            '$' if quote != Some('\'') => match variable(&mut characters, variables) {
                Some(value) => plain.push_str(&value),
                None => plain.push('$'),
            },
            '"' | '\'' if quote == Some(character) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(character),
            _ => plain.push(character),
        }
    }
    plain
}

/// What stands for `NAME`, `{NAME}`, `{NAME:-otherwise}` or `{NAME:+instead}` after a dollar sign, which is
/// taken from `text`; `None` for a dollar sign that means itself.
fn variable(text: &mut Peekable<Chars<'_>>, variables: &[String]) -> Option<String> {
    let is_name = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
    let value = |name: &str| {
        let of_name = |line: &String| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        variables.iter().find_map(of_name).unwrap_or_default()
    };
    if text.peek() != Some(&'{') {
        let name: String = std::iter::from_fn(|| text.next_if(is_name)).collect();
        return (!name.is_empty()).then(|| value(&name));
    }
    // Without an end it means itself, too.
    let inner: String = text.clone().skip(1).take_while(|character| *character != '}').collect();
    let length = inner.chars().count();
    text.clone().nth(length + 1)?;
    text.nth(length + 1);
    let end = inner.find(|character| !is_name(&character)).unwrap_or(inner.len());
    let (name, rest) = inner.split_at(end);
    let value = value(name);
    Some(match (rest.strip_prefix(":-"), rest.strip_prefix(":+")) {
        (Some(otherwise), _) if value.is_empty() => unquote(otherwise, variables),
        (_, Some(_)) if value.is_empty() => String::new(),
        (_, Some(instead)) => unquote(instead, variables),
        _ => value,
    })
}

fn set_variable(env: &mut Vec<String>, key: &str, value: &str) {
    let line = format!("{key}={value}");
    let same = |line: &&mut String| line.split('=').next() == Some(key);
    match env.iter_mut().find(same) {
        Some(before) => *before = line,
        None => env.push(line),
    }
}

/// `port[-port][/protocol]`, with `[address:][host port:]` before it, which a configuration leaves out.
fn exposed(text: &str) -> Result<BTreeMap<String, Empty>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let invalid = || Error::invalid(format!("Invalid containerPort: {ports}"));
    if ports.is_empty() {
        return Err(Error::invalid(format!("No port specified: {text}<empty>")));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("Invalid proto: {protocol}")));
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| (format!("{port}/{protocol}"), Empty {})).collect())
}

fn join_path(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    let mut components: Vec<&str> = Vec::new();
    for component in whole.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    format!("/{}", components.join("/"))
}

fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        let duration = || {
            let nanos = parse_duration(value)
                .ok_or_else(|| Error::invalid(format!("time: invalid duration {value:?}")))?;
            match nanos {
                0 | 1_000_000.. => Ok(nanos),
                _ => Err(Error::invalid(format!("Interval {name:?} cannot be less than 1ms"))),
            }
        };
        match name {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            "retries" => {
                check.retries = value.parse().ok().filter(|count| *count >= 0).ok_or_else(|| {
                    Error::invalid(format!("--retries must be a number of at least 0, not {value:?}"))
                })?;
            }
            _ => return Err(Error::invalid(format!("Unknown flag: {name}"))),
        }
    }
    let (kind, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let arguments = arguments.trim();
    check.test = Some(match kind.to_ascii_uppercase().as_str() {
        "" => return Err(Error::invalid("HEALTHCHECK requires at least one argument")),
        "NONE" if !arguments.is_empty() => {
            return Err(Error::invalid("HEALTHCHECK NONE takes no arguments"));
        }
        "NONE" => vec!["NONE".to_owned()],
        "CMD" => match json_list(arguments) {
            _ if arguments.is_empty() => {
                return Err(Error::invalid("Missing command after HEALTHCHECK CMD"));
            }
            Some(words) => ["CMD".to_owned()].into_iter().chain(words).collect(),
            None => vec!["CMD-SHELL".to_owned(), arguments.to_owned()],
        },
        _ => {
            return Err(Error::invalid(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)")));
        }
    });
    Ok(check)
}

/// A duration as Go writes it (`1h30m`, `1.5s`, `100ms`), in nanoseconds.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .map_or(rest.len(), |end| digits + end);
        let unit = match &rest[digits..unit_end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[unit_end..];
    }
    let total = if negative { -total } else { total };
    // 2^63 as a float is exact; what is below it fits.
    if total.abs() >= 9_223_372_036_854_775_808.0 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    Some(total.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::default();
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply(&mut config, &changes)?;
        Ok(config)
    }

    #[test]
    fn every_change_has_its_field() {
        let config = changed(&[
            "CMD [\"a\",\"b\"]",
            "entrypoint x y",
            "ENV A=b C=\"d e\" D='f g' E=h\\ i",
            "ENV A one two",
            "EXPOSE 80/tcp 81 82-83/udp",
            "USER u:g",
            "VOLUME /a /b",
            "WORKDIR /w",
            "WORKDIR z/../y",
            "STOPSIGNAL SIGINT",
            "LABEL x=y \"z z\"=1",
            "HEALTHCHECK --interval=5s --retries=3 CMD x y",
            "ONBUILD RUN x",
        ])
        .unwrap();
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(config.cmd, list(&["a", "b"]));
        assert_eq!(config.entrypoint, list(&["/bin/sh", "-c", "x y"]));
        assert_eq!(config.env, list(&["A=one two", "C=d e", "D=f g", "E=h i"]));
        let ports: Vec<&String> = config.exposed_ports.keys().collect();
        assert_eq!(ports, ["80/tcp", "81/tcp", "82/udp", "83/udp"]);
        assert_eq!(config.user, "u:g");
        assert_eq!(config.volumes.unwrap().into_keys().collect::<Vec<_>>(), ["/a", "/b"]);
        assert_eq!(config.working_dir, "/w/y");
        assert_eq!(config.stop_signal, "SIGINT");
        assert_eq!(config.labels.unwrap().get("z z").map(String::as_str), Some("1"));
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (5_000_000_000, 3));
        assert_eq!(check.test, list(&["CMD-SHELL", "x y"]));
        assert_eq!(config.on_build, list(&["RUN x"]));
    }

    #[test]
    fn variables_stand_for_their_values() {
        let config = changed(&[
            "ENV PATH=/bin",
            "ENV PATH=/opt/bin:$PATH QUOTED=\"a $PATH\" PLAIN='$PATH' ESCAPED=\\$PATH NONE=x${NO}y $=$",
            "ENV A=${PATH:-b} B=${NO:-c} C=${PATH:+d} D=${NO:+e} OPEN=${PATH",
            "LABEL where=$PATH",
            "USER $B",
            "WORKDIR /${B}/x",
        ])
        .unwrap();
        assert_eq!(
            config.env.unwrap(),
            [
                "PATH=/opt/bin:/bin",
                "QUOTED=a /bin",
                "PLAIN=$PATH",
                "ESCAPED=$PATH",
                "NONE=xy",
                "$=$",
                "A=/opt/bin:/bin",
                "B=c",
                "C=d",
                "D=",
                "OPEN=${PATH",
            ]
        );
        assert_eq!(config.labels.unwrap()["where"], "/opt/bin:/bin");
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("c", "/c/x"));
    }

    #[test]
    fn an_entrypoint_takes_the_command_of_before_away() {
        let command = |changes: &[&str]| {
            let mut config = ContainerConfig { cmd: Some(vec!["sh".into()]), ..ContainerConfig::default() };
            let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
            apply(&mut config, &changes).unwrap();
            config.cmd
        };
        assert_eq!(command(&["ENTRYPOINT [\"/app\"]"]), None);
        let both = ["CMD [\"x\"]", "ENTRYPOINT [\"/app\"]"];
        assert_eq!(command(&both), Some(vec!["x".to_owned()]));
    }

    #[test]
    fn what_is_no_change_is_refused_in_dockers_words() {
        let message = |change: &str| changed(&[change]).unwrap_err().to_string();
        assert_eq!(message("RUN x"), "RUN is not a valid change command");
        assert_eq!(message("FOO x"), "FOO is not a valid change command");
        assert_eq!(message("ENV"), "ENV requires at least one argument");
        assert_eq!(message("ENV A"), "ENV must have two arguments");
        assert_eq!(message("EXPOSE abc"), "Invalid containerPort: abc");
        assert_eq!(message("EXPOSE 70000"), "Invalid containerPort: 70000");
        assert_eq!(message("USER"), "USER requires exactly one argument");
        assert!(message("HEALTHCHECK --interval=x CMD a").starts_with("time: invalid duration"));
        assert!(message("ONBUILD FROM x").contains("isn't allowed"));
    }

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let config = changed(&["# a comment\nENV A=1 \\\n B=2\nCMD sh"]).unwrap();
        assert_eq!(config.env, Some(vec!["A=1".to_owned(), "B=2".to_owned()]));
        assert_eq!(config.cmd.unwrap().last().map(String::as_str), Some("sh"));
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(parse_duration("1.5s"), Some(1_500_000_000));
        assert_eq!(parse_duration("-2ms"), Some(-2_000_000));
        assert_eq!(parse_duration("0"), Some(0));
        for text in ["", "5", "s", "1x", "1..2s", "9999999999h", "2020-01-01"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
