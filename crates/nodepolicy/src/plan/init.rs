//! Init containers and sidecars of one pod: which to start, restart or kill, and whether app containers may start.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{
    Actions, Cause, ContainerView, ProbeVerdict, State, definition_changed, is_sidecar, policy, starts_again,
    unknown_message,
};

/// What the walk over the init containers, from the last one backwards, has found.
struct Walk<'a> {
    spec: &'a PodSpec,
    inits: &'a [Container],
    /// App containers may start.
    initialized: bool,
    /// A later init container or an app container has been reached, so this one is over unless it is a sidecar.
    passed: bool,
    /// Indexes to start, the last one first.
    starts: Vec<usize>,
}

/// The pod can never become initialized.
struct Hopeless;

/// Plans init containers and sidecars; returns whether app containers may start. `here` finds the newest container of
/// a name in the current sandbox, `begun` tells that an app container is there.
pub(super) fn plan<'v>(
    spec: &PodSpec,
    here: &impl Fn(&str) -> Option<&'v ContainerView>,
    begun: bool,
    verdict: &impl Fn(&ContainerView) -> ProbeVerdict,
    actions: &mut Actions,
) -> bool {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    if inits.is_empty() {
        return true;
    }
    let mut walk = Walk {
        spec,
        inits,
        initialized: begun,
        passed: begun,
        starts: Vec::new(),
    };
    for index in (0..inits.len()).rev() {
        if walk
            .visit(index, here(&inits[index].name), verdict, actions)
            .is_err()
        {
            actions.kill_pod = true;
            return false;
        }
    }
    if !walk.passed {
        walk.starts.push(0);
    }
    walk.starts.reverse();
    actions.init_to_start = walk.starts;
    walk.initialized
}

impl Walk<'_> {
    fn visit(
        &mut self,
        index: usize,
        seen: Option<&ContainerView>,
        verdict: &impl Fn(&ContainerView) -> ProbeVerdict,
        actions: &mut Actions,
    ) -> Result<(), Hopeless> {
        let sidecar = is_sidecar(&self.inits[index]);
        let Some(seen) = seen else {
            // A sidecar that was there and has been removed comes back.
            if self.passed && sidecar {
                self.starts.push(index);
            }
            return Ok(());
        };
        if self.passed && !sidecar {
            return Ok(());
        }
        match seen.state {
            // The runtime could not start it.
            State::Created => self.starts.push(index),
            State::Running if sidecar => self.running_sidecar(index, seen, verdict(seen), actions),
            State::Running => {}
            State::Exited if sidecar => self.starts.push(index),
            State::Exited => self.ended(index, seen)?,
            State::Unknown => self.lost(index, seen, actions)?,
        }
        self.passed = true;
        Ok(())
    }

    /// This container is done, or far enough, for what comes after it.
    fn done(&mut self, index: usize) {
        if index + 1 == self.inits.len() {
            self.initialized = true;
        } else if !self.passed {
            self.starts.push(index + 1);
        }
    }

    fn ended(&mut self, index: usize, seen: &ContainerView) -> Result<(), Hopeless> {
        let failed = seen.exit_code != 0 || seen.reason == "OOMKilled";
        if !failed {
            self.done(index);
        } else if starts_again(self.spec, &self.inits[index], seen.exit_code) {
            self.starts.push(index);
        } else {
            return Err(Hopeless);
        }
        Ok(())
    }

    fn lost(&mut self, index: usize, seen: &ContainerView, actions: &mut Actions) -> Result<(), Hopeless> {
        if policy(self.spec, &self.inits[index]) == "Never" {
            return Err(Hopeless);
        }
        actions.kill(seen, Cause::Unknown, unknown_message("Init container"));
        self.starts.push(index);
        Ok(())
    }

    fn running_sidecar(
        &mut self,
        index: usize,
        seen: &ContainerView,
        verdict: ProbeVerdict,
        actions: &mut Actions,
    ) {
        let container = &self.inits[index];
        let name = &container.name;
        let mut restart = |starts: &mut Vec<usize>, cause, what: &str| {
            actions.kill(seen, cause, format!("Init container {name} {what}"));
            starts.push(index);
        };
        if container.startup_probe.is_some() && !verdict.started {
            if verdict.startup_failed {
                restart(&mut self.starts, Cause::Startup, "failed startup probe");
            }
            return;
        }
        self.done(index);
        if definition_changed(container, seen) {
            restart(&mut self.starts, Cause::Definition, "definition changed");
        } else if container.liveness_probe.is_some() && verdict.liveness_failed {
            restart(&mut self.starts, Cause::Liveness, "failed liveness probe");
        }
    }
}
