//! Names of images: `[domain/]path[:tag][@digest]`, and the short forms that Docker's users write
//! (`busybox` is `docker.io/library/busybox:latest`). The grammar and the wording of its errors are those
//! of distribution's `reference` package, which every Docker client knows.

use std::fmt;

use crate::{
    error::{Error, Result},
    snapshot::{Digest, DigestError},
};

const DEFAULT_DOMAIN: &str = "docker.io";
/// What Docker Hub was called first; some still write it.
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
pub(crate) const DEFAULT_TAG: &str = "latest";
/// Longest `domain/path`, in bytes.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// What a user may mean by a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    Reference(Reference),
    /// A whole image ID, with or without `sha256:`.
    Id(Digest),
}

impl Named {
    /// Reads a name or a whole ID.
    ///
    /// # Errors
    /// Neither, in Docker's words.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Ok(digest) = Digest::from_hex(text) {
            return Ok(Self::Id(digest));
        }
        match text.parse() {
            Ok(digest) => Ok(Self::Id(digest)),
            Err(_) => Reference::parse(text).map(Self::Reference),
        }
    }
}

impl Reference {
    /// Reads a name as users write it.
    ///
    /// # Errors
    /// What is none, in Docker's words.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if Digest::from_hex(text).is_ok() {
            return Err(invalid(&format!(
                ": invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, rest) = split_domain(text);
        let rest = match domain == DEFAULT_DOMAIN && !rest.contains('/') {
            true => format!("{OFFICIAL}{rest}"),
            false => rest.to_owned(),
        };
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest.to_owned(), Some(parse_digest(digest)?)),
            None => (rest, None),
        };
        // No path component has a colon.
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest.as_str(), None),
        };
        if path.chars().any(char::is_uppercase) {
            return Err(invalid(&format!(": repository name ({path}) must be lowercase")));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
            return Err(invalid(""));
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(invalid(&format!(": repository name must not be more than {MAX_NAME} characters")));
        }
        Ok(Self { domain: domain.to_owned(), path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }

    /// A name and, apart from it, a tag or a digest, as `fromImage=…&tag=…` has them.
    ///
    /// # Errors
    /// A name or tag that is none.
    pub(crate) fn parse_with_tag(name: &str, tag: &str) -> Result<Self> {
        let reference = Self::parse(name)?;
        if tag.is_empty() {
            return Ok(reference);
        }
        match tag.parse::<Digest>() {
            Ok(digest) => Ok(Self { tag: None, digest: Some(digest), ..reference }),
            Err(_) => reference.with_tag(tag),
        }
    }

    /// The same repository with another tag.
    ///
    /// # Errors
    /// What is no tag.
    pub(crate) fn with_tag(self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::invalid("invalid tag format"));
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self })
    }

    /// The same repository by digest alone.
    pub(crate) fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// With the tag `latest`, if it has neither tag nor digest.
    pub(crate) fn or_latest(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    pub(crate) fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub(crate) fn digest(&self) -> Option<Digest> {
        self.digest
    }

    pub(crate) fn is_docker_hub(&self) -> bool {
        self.domain == DEFAULT_DOMAIN
    }

    /// Whether both are of one repository.
    pub(crate) fn same_repository(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }

    /// The repository as users write it.
    pub(crate) fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole as users write it.
    pub(crate) fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push_str(&format!("@{digest}"));
        }
    }
}

/// The canonical form.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.domain, self.path);
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

fn invalid(why: &str) -> Error {
    Error::invalid(format!("invalid reference format{why}"))
}

/// The first component is a domain if it looks like one; else the name is one of Docker Hub.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn parse_digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|error| match error {
        DigestError::Algorithm if text.starts_with("sha512:") || text.starts_with("sha384:") => {
            Error::invalid(error.to_string())
        }
        _ => invalid(""),
    })
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        }
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }),
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
    is_host && port.is_none_or(is_port)
}

/// Lowercase letters and digits, with single `.`, one or two `_`, or any number of `-` between them.
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    bytes.split(|byte| is_word(*byte)).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|byte| *byte == b'-'),
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= MAX_TAG
        && bytes.first().copied().is_some_and(is_word)
        && bytes.iter().all(|byte| is_word(*byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_and_shown_short() {
        for (written, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("library/busybox", "docker.io/library/busybox", "busybox"),
            ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
            ("index.docker.io/library/a", "docker.io/library/a", "a"),
            ("user/a_b.c--d__e:T_1.x-y", "docker.io/user/a_b.c--d__e:T_1.x-y", "user/a_b.c--d__e:T_1.x-y"),
            ("localhost/a", "localhost/a", "localhost/a"),
            ("127.0.0.1:5000/library/a:1", "127.0.0.1:5000/library/a:1", "127.0.0.1:5000/library/a:1"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("Registry/a", "Registry/a", "Registry/a"),
            ("ghcr.io/a/b/c", "ghcr.io/a/b/c", "ghcr.io/a/b/c"),
        ] {
            let reference = Reference::parse(written).unwrap();
            assert_eq!(reference.to_string(), canonical, "{written}");
            assert_eq!(reference.familiar(), familiar, "{written}");
        }
        let with_digest = format!("a:1@sha256:{HEX}");
        let reference = Reference::parse(&with_digest).unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.familiar(), with_digest);
    }

    #[test]
    fn what_is_no_name_is_refused_in_dockers_words() {
        for text in [
            "",
            ":",
            "a:",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a/",
            "/a",
            "a//b",
            "a b",
            "a:b:c",
            "a@",
            "a@b",
            "a:.x",
            "ä",
            "a.b:x/c",
            "-x.y/a",
            "../a",
            "a@sha256:zz",
            "a:t@sha256:00",
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert_eq!(error, "invalid reference format", "{text}");
        }
        let message = |text: &str| Reference::parse(text).unwrap_err().to_string();
        assert_eq!(
            message("Busybox"),
            "invalid reference format: repository name (library/Busybox) must be lowercase"
        );
        assert!(
            message(&"a/".repeat(130).replace("//", "/a").trim_end_matches('/').replace("/a", "/aa"))
                .ends_with("must not be more than 255 characters")
        );
        assert!(message(HEX).ends_with("cannot specify 64-byte hexadecimal strings"));
        let long = format!("a:{}", "t".repeat(129));
        assert_eq!(message(&long), "invalid reference format");
    }

    #[test]
    fn a_separate_tag_is_a_tag_or_a_digest() {
        let digest = format!("sha256:{HEX}");
        let reference = Reference::parse_with_tag("a:ignored", &digest).unwrap();
        assert_eq!(reference.familiar(), format!("a@{digest}"));
        assert_eq!(Reference::parse_with_tag("a", "1").unwrap().familiar(), "a:1");
        assert_eq!(Reference::parse_with_tag("a", "").unwrap().or_latest().familiar(), "a:latest");
        let error = Reference::parse_with_tag("a", "b:c").unwrap_err();
        assert_eq!(error.to_string(), "invalid tag format");
    }

    #[test]
    fn whole_ids_are_told_from_names() {
        let id = HEX.parse::<String>().unwrap();
        assert!(matches!(Named::parse(&id), Ok(Named::Id(_))));
        assert!(matches!(Named::parse(&format!("sha256:{id}")), Ok(Named::Id(_))));
        assert!(matches!(Named::parse("sha256:dead"), Ok(Named::Reference(_))));
        assert!(matches!(Named::parse("deadbeef"), Ok(Named::Reference(_))));
    }
}
