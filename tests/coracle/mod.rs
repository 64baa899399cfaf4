use tests::case::Case;

mod commands;
mod crash;
mod life;
mod refusals;
mod unprivileged;

pub(crate) fn modules() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("commands", commands::cases()),
        ("crash", crash::cases()),
        ("life", life::cases()),
        ("refusals", refusals::cases()),
        ("unprivileged", unprivileged::cases()),
    ]
}
