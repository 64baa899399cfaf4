use tests::case::Case;

mod attach;
mod binds;
mod changes;
mod commit;
mod containers;
mod copy;
mod docker_py;
mod events;
mod exec;
mod file_events;
mod gateway_modes;
mod image_mounts;
mod images;
mod lifecycle;
mod load;
mod logs;
mod macvlan;
mod names;
mod networks;
mod networks_at_start;
mod ports;
mod proxy;
mod pull;
mod restart;
mod share_coherence;
mod share_semantics;
mod shares;
mod stats;
mod system;
mod under_load;
mod userns;
mod volumes;
mod websocket;

pub(crate) fn modules() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("attach", attach::cases()),
        ("binds", binds::cases()),
        ("changes", changes::cases()),
        ("commit", commit::cases()),
        ("containers", containers::cases()),
        ("copy", copy::cases()),
        ("docker_py", docker_py::cases()),
        ("events", events::cases()),
        ("exec", exec::cases()),
        ("file_events", file_events::cases()),
        ("gateway_modes", gateway_modes::cases()),
        ("image_mounts", image_mounts::cases()),
        ("images", images::cases()),
        ("lifecycle", lifecycle::cases()),
        ("load", load::cases()),
        ("logs", logs::cases()),
        ("macvlan", macvlan::cases()),
        ("names", names::cases()),
        ("networks", networks::cases()),
        ("networks_at_start", networks_at_start::cases()),
        ("ports", ports::cases()),
        ("proxy", proxy::cases()),
        ("pull", pull::cases()),
        ("restart", restart::cases()),
        ("share_coherence", share_coherence::cases()),
        ("share_semantics", share_semantics::cases()),
        ("shares", shares::cases()),
        ("stats", stats::cases()),
        ("system", system::cases()),
        ("under_load", under_load::cases()),
        ("userns", userns::cases()),
        ("volumes", volumes::cases()),
        ("websocket", websocket::cases()),
    ]
}

/// What cases have to say beyond whether they passed.
pub(crate) fn summaries() -> Vec<String> {
    docker_py::summary().into_iter().chain(share_coherence::summary()).collect()
}
