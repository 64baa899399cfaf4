//! Container names: which are allowed, and made-up ones.

use crate::error::{Error, Result};

const ADJECTIVES: &[&str] = &[
    "able", "agile", "airy", "amber", "ample", "azure", "balmy", "blithe", "bold", "bonny", "brave",
    "breezy", "bright", "brisk", "calm", "candid", "chipper", "civil", "clever", "coastal", "cordial",
    "cosy", "crisp", "curious", "daring", "dapper", "deft", "eager", "earnest", "easy", "fair", "fleet",
    "fluent", "fond", "frank", "free", "fresh", "gallant", "gentle", "glad", "golden", "graceful", "hale",
    "handy", "hardy", "hearty", "helpful", "honest", "humble", "ideal", "jaunty", "jolly", "keen", "kind",
    "lively", "lucid", "lunar", "mellow", "merry", "mild", "mindful", "modest", "nautical", "neat", "nimble",
    "noble", "patient", "plucky", "polite", "prompt", "proud", "quick", "quiet", "radiant", "rapid", "ready",
    "robust", "rosy", "serene", "sharp", "silver", "sincere", "smooth", "snug", "solar", "spry", "stable",
    "steady", "stellar", "sturdy", "sunny", "supple", "swift", "tidal", "tidy", "tranquil", "trusty",
    "upbeat", "verdant", "vivid", "warm", "wise", "witty", "woven", "zesty",
];

/// People who built, sailed or charted things, and some who made computers.
const SURNAMES: &[&str] = &[
    "abel",
    "agnesi",
    "albers",
    "amundsen",
    "apgar",
    "baird",
    "baret",
    "bering",
    "bird",
    "blackwell",
    "bly",
    "boole",
    "brahe",
    "brunel",
    "cabot",
    "cady",
    "cavell",
    "chisholm",
    "cook",
    "cousteau",
    "dalton",
    "davis",
    "drake",
    "earle",
    "eckert",
    "ellet",
    "erlang",
    "faggin",
    "faraday",
    "fisher",
    "forrester",
    "franklin",
    "frobisher",
    "fulton",
    "gama",
    "gibbs",
    "gilbreth",
    "glenn",
    "gray",
    "hadley",
    "halley",
    "hamming",
    "harrison",
    "heyerdahl",
    "hoover",
    "hooke",
    "howe",
    "hudson",
    "huygens",
    "ibn_battuta",
    "jacquard",
    "jansky",
    "johnson",
    "joule",
    "kay",
    "kilby",
    "kingsford",
    "knudsen",
    "kummer",
    "lamb",
    "landau",
    "leavitt",
    "linnaeus",
    "lorentz",
    "lyell",
    "magellan",
    "markham",
    "marconi",
    "mauchly",
    "maury",
    "maxwell",
    "mercator",
    "mitchell",
    "monge",
    "mott",
    "nansen",
    "napier",
    "nares",
    "newcomen",
    "noor",
    "oersted",
    "ohm",
    "papin",
    "park",
    "peary",
    "perlman",
    "piccard",
    "pupin",
    "quimby",
    "rae",
    "ride",
    "rossby",
    "sabine",
    "scoresby",
    "shackleton",
    "sinclair",
    "slocum",
    "somerville",
    "spence",
    "stark",
    "steinmetz",
    "stevin",
    "stokes",
    "tasman",
    "thales",
    "tharp",
    "torres",
    "trevithick",
    "tristan",
    "vancouver",
    "vega",
    "verne",
    "villard",
    "volta",
    "watt",
    "weber",
    "wegener",
    "wilkes",
    "wilkins",
    "worden",
    "young",
    "zheng",
    "zuse",
];

/// How many names are tried before an id serves as one.
pub(super) const ATTEMPTS: u32 = 6;

/// Makes a name up; later attempts have a digit, as the shorter names may all be taken.
pub(super) fn random(attempt: u32) -> String {
    let adjective = ADJECTIVES[rand::random_range(0..ADJECTIVES.len())];
    let surname = SURNAMES[rand::random_range(0..SURNAMES.len())];
    if attempt == 0 {
        return format!("{adjective}_{surname}");
    }
    format!("{adjective}_{surname}{}", rand::random_range(0..10))
}

/// A new id: 64 hexadecimal digits, the first twelve never all decimal, as they can be a host name.
pub(crate) fn random_id() -> String {
    loop {
        let id: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
        if !id[..12].bytes().all(|digit| digit.is_ascii_digit()) {
            return id;
        }
    }
}

/// Checks a name that a user gave; a leading slash is allowed and not part of it.
///
/// # Errors
/// Docker's words for a name that is not allowed.
pub(super) fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.len() > 0
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if first && rest {
        Ok(bare)
    } else {
        Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_names_are_dockers() {
        for name in ["ab", "a_", "0.1-x", "/web"] {
            check(name).unwrap();
        }
        for name in ["a", "", "/", "_a", "-a", ".a", "a b", "a/b", "ä1"] {
            assert!(check(name).is_err(), "{name}");
        }
        assert_eq!(check("/web").unwrap(), "web");
        assert_eq!(
            check("a b").unwrap_err().to_string(),
            "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        );
    }

    #[test]
    fn made_up_names_are_allowed_ones() {
        for adjective in ADJECTIVES {
            for surname in SURNAMES {
                check(&format!("{adjective}_{surname}")).unwrap();
            }
        }
        check(&random(1)).unwrap();
        assert_ne!(random_id(), random_id());
        assert_eq!(random_id().len(), 64);
    }
}
