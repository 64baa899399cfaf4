//! An image's configuration with a request's on top.

use std::collections::BTreeMap;

use wire::docker::container::{ContainerConfig, Healthcheck};

use crate::error::{Error, Result};

/// Fills in what a request leaves to the image.
///
/// # Errors
/// Nothing to run, in Docker's words.
pub(super) fn merge(request: &mut ContainerConfig, image: &ContainerConfig) -> Result<()> {
    fill_in(request, image);
    // `--entrypoint ""` takes the image's away.
    if request.entrypoint.as_ref().is_some_and(|words| words.len() == 1 && words[0].is_empty()) {
        request.entrypoint = None;
    }
    let empty = |words: &Option<Vec<String>>| words.as_ref().is_none_or(Vec::is_empty);
    if empty(&request.entrypoint) && empty(&request.cmd) {
        return Err(Error::invalid("no command specified"));
    }
    Ok(())
}

/// Fills in what one configuration leaves to another.
pub(in crate::container) fn fill_in(request: &mut ContainerConfig, image: &ContainerConfig) {
    let or_image = |own: &mut String, image: &String| {
        if own.is_empty() {
            own.clone_from(image);
        }
    };
    or_image(&mut request.user, &image.user);
    or_image(&mut request.working_dir, &image.working_dir);
    or_image(&mut request.stop_signal, &image.stop_signal);
    for (port, empty) in &image.exposed_ports {
        request.exposed_ports.entry(port.clone()).or_insert(*empty);
    }
    merge_environment(&mut request.env, image.env.as_deref().unwrap_or_default());
    let labels = request.labels.get_or_insert_default();
    for (name, value) in image.labels.iter().flatten() {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    let no_entrypoint = request.entrypoint.as_ref().is_none_or(Vec::is_empty);
    if no_entrypoint {
        if request.cmd.as_ref().is_none_or(Vec::is_empty) {
            request.cmd.clone_from(&image.cmd);
        }
        if request.entrypoint.is_none() {
            request.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if let Some(image) = &image.healthcheck {
        match &mut request.healthcheck {
            Some(request) => merge_healthcheck(request, image),
            none => *none = Some(image.clone()),
        }
    }
    if request.volumes.as_ref().is_none_or(BTreeMap::is_empty) {
        request.volumes.clone_from(&image.volumes);
    } else if let Some(volumes) = &mut request.volumes {
        volumes.extend(image.volumes.iter().flatten().map(|(path, empty)| (path.clone(), *empty)));
    }
}

/// Appends those of the other variables, the image's for one, that the request does not name.
pub(super) fn merge_environment(own: &mut Option<Vec<String>>, others: &[String]) {
    if own.as_ref().is_none_or(Vec::is_empty) {
        *own = Some(others.to_vec());
        return;
    }
    let own = own.get_or_insert_default();
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let named: std::collections::HashSet<String> = own.iter().map(|variable| name(variable)).collect();
    own.extend(others.iter().filter(|variable| !named.contains(&name(variable))).cloned());
}

fn merge_healthcheck(own: &mut Healthcheck, image: &Healthcheck) {
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test.clone_from(&image.test);
    }
    for (own, image) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *own == 0 {
            *own = image;
        }
    }
}

/// The program and the arguments that a merged configuration means.
pub(super) fn command(config: &ContainerConfig) -> (String, Vec<String>) {
    let mut words = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned();
    (words.next().unwrap_or_default(), words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn image() -> ContainerConfig {
        ContainerConfig {
            entrypoint: words(&["/entry"]),
            cmd: words(&["default"]),
            env: words(&["PATH=/bin", "LANG=C"]),
            user: "app".to_owned(),
            labels: Some([("from", "image"), ("kept", "yes")].map(|(k, v)| (k.into(), v.into())).into()),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn commands_follow_dockers_rules() {
        // (request's entrypoint, request's command) → what runs
        for (entrypoint, cmd, runs) in [
            (None, None, &["/entry", "default"][..]),
            (None, words(&["own"]), &["/entry", "own"]),
            (words(&["/other"]), None, &["/other"]),
            (words(&["/other"]), words(&["own"]), &["/other", "own"]),
            (words(&[""]), words(&["own"]), &["own"]),
        ] {
            let mut request = ContainerConfig { entrypoint, cmd, ..ContainerConfig::default() };
            merge(&mut request, &image()).unwrap();
            let (path, args) = command(&request);
            assert_eq!(path, runs[0]);
            assert_eq!(args, runs[1..]);
        }
        let mut request = ContainerConfig { entrypoint: words(&[""]), ..ContainerConfig::default() };
        assert_eq!(merge(&mut request, &image()).unwrap_err().to_string(), "no command specified");
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let mut request = ContainerConfig {
            env: words(&["LANG=de", "X=1"]),
            labels: Some([("from".to_owned(), "request".to_owned())].into()),
            healthcheck: Some(Healthcheck { retries: 7, ..Healthcheck::default() }),
            ..ContainerConfig::default()
        };
        let mut image = image();
        image.healthcheck = Some(Healthcheck {
            test: words(&["CMD", "true"]),
            retries: 3,
            interval: 5,
            ..Healthcheck::default()
        });
        merge(&mut request, &image).unwrap();
        assert_eq!(request.env, words(&["LANG=de", "X=1", "PATH=/bin"]));
        assert_eq!(request.user, "app");
        let labels = request.labels.unwrap();
        assert_eq!((labels["from"].as_str(), labels["kept"].as_str()), ("request", "yes"));
        let check = request.healthcheck.unwrap();
        assert_eq!((check.test, check.retries, check.interval), (words(&["CMD", "true"]), 7, 5));
    }
}
