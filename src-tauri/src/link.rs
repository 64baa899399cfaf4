//! Wishes from outside the window: `coracle://` links, and the tray.

use serde::Serialize;

/// `Wish` in `ui/src/backend/backend.ts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub(crate) enum Wish {
    Page { path: String },
    Start,
    Stop,
    Restart,
}

const SCHEME: &str = "coracle://";
/// Nothing in the app has a longer path.
const LONGEST: usize = 1024;

/// The page that a link leads to: `coracle://containers/web` → `/containers/web`.
///
/// Links come from web pages and from other programs, so they lead to pages alone: what does something is asked
/// for in the window.
pub(crate) fn page(link: &str) -> Option<String> {
    let path = link.strip_prefix(SCHEME)?.split(['?', '#']).next()?;
    let path = path.trim_matches('/');
    // What `encodeURIComponent` lets through, and the / between segments.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.!~*'()%:@".contains(c);
    if path.len() > LONGEST || !path.chars().all(plain) {
        tracing::warn!("not a link of the app's: {:?}", link.chars().take(80).collect::<String>());
        return None;
    }
    Some(format!("/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_a_page() {
        for (link, path) in [
            ("coracle://", "/"),
            ("coracle://containers", "/containers"),
            ("coracle://containers/web%2F1/", "/containers/web%2F1"),
            ("coracle://images?x=1#y", "/images"),
        ] {
            assert_eq!(page(link).as_deref(), Some(path), "{link}");
        }
    }

    #[test]
    fn what_is_no_link_leads_nowhere() {
        let long = format!("coracle://{}", "x".repeat(2000));
        for link in [
            "",
            "containers",
            "http://x",
            "coracle:x",
            "coracle://a b",
            "coracle://\"><script>",
            "coracle://é",
            &long,
        ] {
            assert_eq!(page(link), None, "{link}");
        }
    }

    #[test]
    fn wishes_are_told_as_the_interface_knows_them() {
        let json = |wish: &Wish| serde_json::to_string(wish).unwrap();
        assert_eq!(json(&Wish::Page { path: "/x".into() }), r#"{"to":"page","path":"/x"}"#);
        assert_eq!(json(&Wish::Restart), r#"{"to":"restart"}"#);
    }
}
