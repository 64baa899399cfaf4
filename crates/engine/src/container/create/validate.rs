//! What a request may ask for, in Docker's words; the part that the runtime does not check.

use wire::docker::{
    container::{ContainerConfig, Healthcheck},
    host_config::HostConfig,
};

use crate::{
    container::{etc_files, restart_policy, signals},
    error::{Error, Result},
    runtime::spec::{self, Machine},
};

/// The shortest duration of a health check, in nanoseconds.
const MIN_HEALTH_DURATION: i64 = 1_000_000;

/// Checks a request, and returns warnings.
pub(super) fn validate(
    config: &mut ContainerConfig,
    host_config: &HostConfig,
    machine: &Machine,
) -> Result<Vec<String>> {
    network_mode(config, host_config)?;
    if host_config.resources.io_maximum_bandwidth != 0 {
        return Err(Error::invalid(
            "invalid option: QoS maximum bandwidth configuration is not supported on linux",
        ));
    }
    if host_config.resources.io_maximum_iops != 0 {
        return Err(Error::invalid(
            "invalid option: QoS maximum IOPs configuration is not supported on linux",
        ));
    }
    if host_config.resources.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host_config.resources.cpu_shares
        )));
    }
    container(config)?;
    let warnings = host(host_config)?;
    spec::check(config, host_config, machine)?;
    Ok(warnings)
}

fn network_mode(config: &ContainerConfig, host_config: &HostConfig) -> Result<()> {
    let conflict = |what: &str| Err(Error::invalid(format!("conflicting options: {what}")));
    let links = host_config.links.as_ref().is_some_and(|links| !links.is_empty());
    if host_config.network_mode.starts_with("container:") {
        if !config.hostname.is_empty() {
            return conflict("hostname and the network mode");
        }
        if links {
            return conflict(
                "container type network can't be used with links. This would result in undefined behavior",
            );
        }
        if !host_config.dns.is_empty() {
            return conflict("dns and the network mode");
        }
        if host_config.extra_hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()) {
            return conflict("custom host-to-IP mapping and the network mode");
        }
        if !host_config.port_bindings.is_empty() || host_config.publish_all_ports {
            return conflict("port publishing and the container type network mode");
        }
        if !config.exposed_ports.is_empty() {
            return conflict("port exposing and the container type network mode");
        }
    }
    if host_config.uts_mode == "host" && !config.hostname.is_empty() {
        return conflict("hostname and the UTS mode");
    }
    if host_config.network_mode == "host" && links {
        return conflict(
            "host type networking can't be used with links. This would result in undefined behavior",
        );
    }
    Ok(())
}

fn container(config: &mut ContainerConfig) -> Result<()> {
    if config.working_dir.starts_with('/') {
        config.working_dir = clean_path(&config.working_dir);
    }
    if !config.stop_signal.is_empty() {
        signals::parse(&config.stop_signal)?;
    }
    config.healthcheck.as_ref().map_or(Ok(()), healthcheck)
}

fn healthcheck(check: &Healthcheck) -> Result<()> {
    for (name, duration) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if duration != 0 && duration < MIN_HEALTH_DURATION {
            return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if check.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    Ok(())
}

fn host(host_config: &HostConfig) -> Result<Vec<String>> {
    let policy = &host_config.restart_policy;
    if host_config.auto_remove && !restart_policy::is_none(policy) {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    for host in host_config.extra_hosts.iter().flatten() {
        etc_files::check_extra_host(host)?;
    }
    for (port, bindings) in &host_config.port_bindings {
        check_port(port)?;
        for binding in bindings.iter().flatten() {
            check_port(&binding.host_port)?;
        }
    }
    restart_policy::validate(policy)?;
    let images = host_config.mounts.iter().flatten().filter(|mount| mount.kind == "image");
    let mut warnings: Vec<String> =
        images.map(|_| "Image mount is an experimental feature".to_owned()).collect();
    let resources = &host_config.resources;
    if resources.oom_kill_disable == Some(true) && resources.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in \
             the system running out of resources."
                .to_owned(),
        );
    }
    if resources.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
    }
    if host_config.network_mode == "host" && !host_config.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(warnings)
}

/// `80`, `80/tcp`, `80-90/udp`; empty for any.
fn check_port(text: &str) -> Result<()> {
    let range = text.split('/').next().unwrap_or_default();
    let number = |digits: &str| digits.is_empty() || digits.parse::<u16>().is_ok();
    if range.split('-').count() <= 2 && range.split('-').all(number) {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid port specification: {range:?}")))
}

/// An absolute path without `.`, `..` and doubled slashes, as Go's `path.Clean` has it.
pub(crate) fn clean_path(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(change: impl FnOnce(&mut ContainerConfig, &mut HostConfig)) -> String {
        let (mut config, mut host_config) = (ContainerConfig::default(), HostConfig::default());
        change(&mut config, &mut host_config);
        network_mode(&config, &host_config)
            .and_then(|()| container(&mut config))
            .and_then(|()| host(&host_config))
            .map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_plain_request_is_fine() {
        assert_eq!(message(|_, _| {}), "");
        assert_eq!(clean_path("/a/../b//c/."), "/b/c");
        assert_eq!(clean_path("/../.."), "/");
    }

    #[test]
    fn refusals_are_dockers() {
        assert_eq!(message(|config, _| config.stop_signal = "FOO".to_owned()), "invalid signal: FOO");
        assert_eq!(
            message(|_, host| {
                host.auto_remove = true;
                host.restart_policy.name = "always".to_owned();
            }),
            "can't create 'AutoRemove' container with restart policy"
        );
        assert_eq!(
            message(|config, host| {
                host.network_mode = "container:web".to_owned();
                config.hostname = "x".to_owned();
            }),
            "conflicting options: hostname and the network mode"
        );
        assert_eq!(
            message(|_, host| {
                host.port_bindings.insert("http/tcp".to_owned(), None);
            }),
            "invalid port specification: \"http\""
        );
        assert_eq!(
            message(|config, _| {
                config.healthcheck = Some(Healthcheck { interval: 5, ..Healthcheck::default() });
            }),
            "Interval in Healthcheck cannot be less than 1ms"
        );
    }
}
