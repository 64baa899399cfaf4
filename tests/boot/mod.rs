use tests::case::Case;

mod guest;

pub(crate) fn modules() -> Vec<(&'static str, Vec<Case>)> {
    vec![("guest", guest::cases())]
}
