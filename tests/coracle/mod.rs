use tests::case::Case;

mod commands;
mod crash;
mod disk;
mod for_programs;
mod life;
mod refusals;
mod unprivileged;
mod volume;

pub(crate) fn modules() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("commands", commands::cases()),
        ("crash", crash::cases()),
        ("disk", disk::cases()),
        ("for_programs", for_programs::cases()),
        ("life", life::cases()),
        ("refusals", refusals::cases()),
        ("unprivileged", unprivileged::cases()),
        ("volume", volume::cases()),
    ]
}
