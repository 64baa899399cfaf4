use tests::case::Case;

mod guest;
mod network;

pub(crate) fn modules() -> Vec<(&'static str, Vec<Case>)> {
    vec![("guest", guest::cases()), ("network", network::cases())]
}
