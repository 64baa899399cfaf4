//! Tells the guest what the user has chosen, whenever it asks ([`wire::settings`]).

use wire::{line, settings, vsock::SETTINGS_PORT};

use super::ssh_agent;
use crate::machine::{config::Settings, proxy, vm::Vm};

/// Answers the guest from now on.
pub(crate) fn serve(vm: &dyn Vm, chosen: &Settings) {
    let settings = settings::Settings {
        proxies: proxy::for_guest(&chosen.proxies),
        container_proxy: chosen.container_proxy,
        shares: chosen.shares.as_slice().to_vec(),
        ssh_agent: ssh_agent::socket().is_some(),
    };
    vm.listen(
        SETTINGS_PORT,
        Box::new(move |stream| {
            // One line fits into the socket's buffer, so this does not wait for the guest.
            if let Err(error) = line::write(&stream, &settings) {
                tracing::warn!("cannot tell the guest its settings: {error}");
            }
        }),
    );
}
