//! `update`: the limits and the restart policy of a container that exists.

use wire::docker::{
    container::{UpdateRequest, UpdateResponse},
    host_config::Resources,
};

use super::{Containers, restart_policy};
use crate::{
    error::{Error, Result},
    runtime::spec,
};

impl Containers {
    /// Changes what the request names.
    ///
    /// # Errors
    /// Changes that make no sense, or that the kernel refuses, in Docker's words.
    pub(crate) async fn update(&self, name: &str, request: UpdateRequest) -> Result<UpdateResponse> {
        restart_policy::validate(&request.restart_policy)?;
        let UpdateRequest { mut resources, restart_policy } = request;
        let warnings = spec::check_update(&mut resources, &self.0.machine)?;
        let container = self.get(name)?;
        let _changing = container.changing.lock().await;
        let cannot = |error: Error| {
            Error::new(error.kind(), format!("Cannot update container {}", container.id)).because(error)
        };
        let state = container.state();
        if state.is_leaving() {
            return Err(cannot(Error::conflict("container is marked for removal and cannot be \"update\"")));
        }
        let mut record = (*container.record()).clone();
        let limits_before = record.host_config.resources.clone();
        apply(&mut record.host_config.resources, &resources).map_err(cannot)?;
        let new_policy = !restart_policy.name.is_empty();
        if new_policy {
            if record.host_config.auto_remove && !restart_policy::is_none(&restart_policy) {
                return Err(cannot(Error::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                )));
            }
            record.host_config.restart_policy = restart_policy;
        }
        let limits = record.host_config.resources.clone();
        let runs = state.pid().is_some() && limits != limits_before;
        let change = |from: Resources, to: Resources| self.0.runtime.update(&container.id, from, to);
        if runs {
            change(limits_before.clone(), limits.clone()).await.map_err(cannot)?;
        }
        let target = container.clone();
        let kept = crate::blocking(move || {
            target.set_record(record)?;
            if new_policy {
                // The new policy may ask for a state on the disk that was not needed there until now.
                target.change(|_| ());
            }
            Ok(())
        });
        let kept = kept.await;
        if let Err(error) = kept {
            if runs && let Err(error) = change(limits, limits_before).await {
                tracing::error!(container = container.id, "{error}");
            }
            return Err(cannot(error));
        }
        self.emit(&container, "update", &[]);
        Ok(UpdateResponse { warnings: (!warnings.is_empty()).then_some(warnings) })
    }
}

/// Puts what `request` names into `own`.
fn apply(own: &mut Resources, request: &Resources) -> Result<()> {
    let conflict = |text: &str| Err(Error::conflict(text));
    if request.nano_cpus > 0 && own.cpu_period > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        );
    }
    if request.nano_cpus > 0 && own.cpu_quota > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        );
    }
    if request.cpu_period > 0 && own.nano_cpus > 0 {
        return conflict(
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        );
    }
    if request.cpu_quota > 0 && own.nano_cpus > 0 {
        return conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    if request.memory != 0 && request.memory > own.memory_swap && request.memory_swap == 0 {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at \
             the same time",
        );
    }
    for (own, request) in [
        (&mut own.cpu_shares, request.cpu_shares),
        (&mut own.nano_cpus, request.nano_cpus),
        (&mut own.cpu_period, request.cpu_period),
        (&mut own.cpu_quota, request.cpu_quota),
        (&mut own.cpu_realtime_period, request.cpu_realtime_period),
        (&mut own.cpu_realtime_runtime, request.cpu_realtime_runtime),
        (&mut own.memory, request.memory),
        (&mut own.memory_swap, request.memory_swap),
        (&mut own.memory_reservation, request.memory_reservation),
    ] {
        if request != 0 {
            *own = request;
        }
    }
    if request.blkio_weight != 0 {
        own.blkio_weight = request.blkio_weight;
    }
    for (own, request) in
        [(&mut own.cpuset_cpus, &request.cpuset_cpus), (&mut own.cpuset_mems, &request.cpuset_mems)]
    {
        if !request.is_empty() {
            own.clone_from(request);
        }
    }
    if let Some(limit) = request.pids_limit {
        // Anything below one means "no limit".
        own.pids_limit = Some(limit.max(0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let mut own =
            Resources { memory: 64 << 20, memory_swap: 128 << 20, cpu_shares: 512, ..Resources::default() };
        let request = Resources { memory: 32 << 20, pids_limit: Some(-1), ..Resources::default() };
        apply(&mut own, &request).unwrap();
        assert_eq!(
            (own.memory, own.memory_swap, own.cpu_shares, own.pids_limit),
            (32 << 20, 128 << 20, 512, Some(0))
        );
        let error = apply(&mut own, &Resources { memory: 1 << 30, ..Resources::default() }).unwrap_err();
        assert!(error.to_string().starts_with("Memory limit should be smaller than"));
    }
}
