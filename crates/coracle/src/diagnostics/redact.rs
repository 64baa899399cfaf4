//! Taking secrets out of text that is to be shown to others.
//!
//! By two ways: what is known to be secret (passwords of proxies) wherever it stands, and what looks like a
//! secret by its name or form. The second errs on the side of removing too much.

use regex::{Captures, Regex};
use url::Url;

/// Stands where a secret was.
const REMOVED: &str = "[removed]";
/// A known secret that is shorter would tear words apart.
const SHORTEST: usize = 4;

/// Forms of secrets: a pattern, and what takes its place. In order: what is whole comes before its parts.
const FORMS: &[(&str, &str)] = &[
    // Keys and certificates.
    (r"-----BEGIN [A-Z0-9 ]+-----[\s\S]*?(-----END [A-Z0-9 ]+-----|\z)", "[removed]"),
    // User and password of a URL. A password with an @ in it is not encoded, and is none of ours to mend.
    (r#"(?i)\b([a-z][a-z0-9+.-]*://)[^\s"'/<>]*@"#, "${1}[removed]@"),
    // The same of a proxy that is named without a scheme.
    (r#"(?i)(proxy[^\n]*?[\s"'=:(])([^\s"'/:@=(]+:[^\s"'/]*)@"#, "${1}[removed]@"),
    // HTTP fields that carry logins: all of the line.
    (
        r"(?i)\b((?:proxy-)?authorization|x-registry-(?:auth|config)|(?:set-)?cookie)(\W{1,4})[^\r\n]+",
        "${1}${2}[removed]",
    ),
    (r"(?i)\b(bearer|basic)\s+[a-z0-9+/=._~-]{8,}", "${1} [removed]"),
    // Tokens by their issuers' form.
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", "[removed]"),
    (r"\b(?:gh[pousr]_|github_pat_|glpat-|dckr_[a-z]+_|xox[abeprs]-|AKIA)[A-Za-z0-9_-]{8,}", "[removed]"),
    // Environments: as JSON has them, and as a shell has them.
    (r#""([A-Za-z_][A-Za-z0-9_.-]*)=(?:\\.|[^"\\])*""#, "\"${1}=[removed]\""),
    (r#"\b([A-Z][A-Z0-9_]+)=(?:"[^"\n]*"|'[^'\n]*'|[^\s"',;\])}]+)"#, "${1}=[removed]"),
    // Anything whose name says that it is secret.
    (
        r#"(?i)([\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential)[\w.-]*)(["']?\s*[:=]\s*)(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[^\s"',;&\])}]+)"#,
        "${1}${2}[removed]",
    ),
];

pub(super) struct Redactor {
    known: Vec<String>,
    forms: Vec<(Regex, &'static str)>,
}

impl Redactor {
    /// One that knows the users and passwords of these proxies.
    pub(super) fn new(proxies: &[String]) -> Redactor {
        let mut known: Vec<String> = proxies.iter().flat_map(|proxy| login(proxy)).collect();
        known.retain(|secret| secret.len() >= SHORTEST);
        // A secret that contains another goes first.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        // Each is tested below: none is wrong.
        let forms = FORMS.iter().filter_map(|(form, by)| Some((Regex::new(form).ok()?, *by))).collect();
        Redactor { known, forms }
    }

    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            text = text.replace(secret.as_str(), REMOVED);
        }
        for (form, by) in &self.forms {
            text = form
                .replace_all(&text, |found: &Captures<'_>| {
                    let mut new = String::new();
                    found.expand(by, &mut new);
                    new
                })
                .into_owned();
        }
        text
    }
}

/// The user, the password, and the password as a person knows it: without the encoding of URLs.
fn login(proxy: &str) -> Vec<String> {
    let text = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    let Ok(url) = Url::parse(&text) else { return Vec::new() };
    let mut found = Vec::new();
    // As it was written, before the parser encoded it.
    if let Some(written) = text.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')) {
        found.extend(written.0.split_once(':').map(|(_, password)| password.to_owned()));
    }
    if let Some(password) = url.password() {
        found.push(password.to_owned());
        found.push(decoded(password));
    }
    found
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_a_pattern() {
        assert_eq!(Redactor::new(&[]).forms.len(), FORMS.len());
    }

    #[test]
    fn secrets_go_and_what_is_around_them_stays() {
        let redactor = Redactor::new(&[]);
        for (text, expected) in [
            ("via http://me:p@ss@p.test:3128/x", "via http://[removed]@p.test:3128/x"),
            ("http-proxy = \"me:hunter2@p.test:3128\"", "http-proxy = \"[removed]@p.test:3128\""),
            ("HTTP proxy me:hunter2@p.test", "HTTP proxy [removed]@p.test"),
            ("Authorization: Basic bWU6aHVudGVyMg==", "Authorization: [removed]"),
            ("{\"X-Registry-Auth\": \"abc def\"}", "{\"X-Registry-Auth\": \"[removed]"),
            ("sent Bearer abcdefgh12345678.", "sent Bearer [removed]"),
            ("{\"identitytoken\":\"abc def\",\"a\":1}", "{\"identitytoken\":[removed],\"a\":1}"),
            ("db_password = 'a b', next", "db_password = [removed], next"),
            ("GET /x?token=abc&y=1", "GET /x?token=[removed]&y=1"),
            (
                "{\"Env\":[\"A=b c\",\"lower=\\\"x\\\" y\"]}",
                "{\"Env\":[\"A=[removed]\",\"lower=[removed]\"]}",
            ),
            ("env PATH_X=/usr/bin TERM=\"a b\" run", "env PATH_X=[removed] TERM=[removed] run"),
            ("key eyJhbGciOiJub25lIn0.eyJhIjoxfQ.abc end", "key [removed] end"),
            ("ghp_0123456789abcdef", "[removed]"),
            ("a\n-----BEGIN RSA PRIVATE KEY-----\nxx\n-----END RSA PRIVATE KEY-----\nb", "a\n[removed]\nb"),
            ("a\n-----BEGIN RSA PRIVATE KEY-----\ncut off", "a\n[removed]"),
        ] {
            assert_eq!(redactor.redact(text), expected);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let redactor = Redactor::new(&[]);
        for text in [
            "pulled registry.test/a/b:1@sha256:0123",
            "console=ttyS0 root=/dev/vda panic=-1",
            "[    0.1] Linux version 6.12 (gcc 12.2)",
            "INFO coracle::machine: machine 'default' starts version=\"0.1.0\" pid=12",
            "no-proxy = \"localhost,10.0.0.0/8\"",
            "mail me@example.test",
        ] {
            assert_eq!(redactor.redact(text), text);
        }
    }

    #[test]
    fn a_known_password_goes_wherever_it_stands_in_either_spelling() {
        let redactor =
            Redactor::new(&["http://me:p%40ssword@p.test:1".to_owned(), "you:other1@q".to_owned()]);
        assert_eq!(
            redactor.redact("x p@ssword y p%40ssword z other1"),
            "x [removed] y [removed] z [removed]"
        );
        // Too short to be looked for by itself.
        assert_eq!(Redactor::new(&["http://a:b@p".to_owned()]).redact("abba"), "abba");
    }
}
