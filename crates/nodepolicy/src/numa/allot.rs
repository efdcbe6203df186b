//! Gives a pod processors and devices, near each other where the policy wants that.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Hint, Hints, Manager, Mask, Policy, Scope};
use crate::admission::Refusal;
use crate::plan;

/// A container that is to get something.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// It ends before the app containers start and leaves them what it had.
    pub passes: bool,
}

/// One who gives something out. What it gives counts only once the whole pod has got its share.
pub trait Giver {
    /// From which nodes a container's request can be served.
    fn hints(&self, asking: &Asking<'_>) -> Hints;
    /// From which nodes a whole pod's requests can be served.
    fn pod_hints(&self, pod: &Pod) -> Hints;
    /// Gives a container what it asks for, from these nodes first.
    ///
    /// # Errors
    /// The refusal of the pod.
    fn give(&mut self, asking: &Asking<'_>, near: Option<Mask>) -> Result<(), Refusal>;
}

/// One who has nothing to give and no wish.
#[derive(Debug)]
pub struct Nothing;

impl Giver for Nothing {
    fn hints(&self, _: &Asking<'_>) -> Hints {
        Hints::new()
    }

    fn pod_hints(&self, _: &Pod) -> Hints {
        Hints::new()
    }

    fn give(&mut self, _: &Asking<'_>, _: Option<Mask>) -> Result<(), Refusal> {
        Ok(())
    }
}

/// The containers that may ask, in the order in which they start.
pub fn asking(pod: &Pod) -> impl Iterator<Item = Asking<'_>> {
    let spec = pod.spec.as_ref();
    let inits = spec
        .and_then(|s| s.init_containers.as_ref())
        .into_iter()
        .flatten();
    let inits = inits.map(|c| (c, !plan::is_sidecar(c)));
    let apps = spec.into_iter().flat_map(|s| &s.containers).map(|c| (c, false));
    inits.chain(apps).map(move |(container, passes)| Asking {
        pod,
        container,
        passes,
    })
}

/// What a pod needs at once when its containers ask for `of`: app containers and sidecars together, or an init
/// container beside the sidecars before it.
pub fn at_once(pod: &Pod, of: impl Fn(&Container) -> usize) -> usize {
    let (mut sidecars, mut first) = (0, 0);
    let spec = pod.spec.as_ref();
    for container in spec
        .and_then(|s| s.init_containers.as_ref())
        .into_iter()
        .flatten()
    {
        match plan::is_sidecar(container) {
            true => sidecars += of(container),
            false => first = first.max(sidecars + of(container)),
        }
    }
    let apps: usize = spec.into_iter().flat_map(|s| &s.containers).map(of).sum();
    first.max(sidecars + apps)
}

fn not_near() -> Refusal {
    Refusal {
        reason: "TopologyAffinityError".to_owned(),
        message: "Resources cannot be allocated with Topology locality".to_owned(),
    }
}

impl Manager {
    fn best(&self, hints: &[Hints]) -> Result<Option<Mask>, Refusal> {
        match self.merge(hints) {
            (Hint { nodes, .. }, true) => Ok(nodes),
            (_, false) => Err(not_near()),
        }
    }

    /// Gives the containers of a pod what they ask for. After an error what was given is worth nothing.
    ///
    /// # Errors
    /// The refusal of the pod.
    pub fn allot(&self, pod: &Pod, givers: &mut [&mut dyn Giver]) -> Result<(), Refusal> {
        let by_pod = match (self.policy, self.scope) {
            (Policy::None, _) | (_, Scope::Container) => None,
            (_, Scope::Pod) => {
                let hints: Vec<Hints> = givers.iter().map(|g| g.pod_hints(pod)).collect();
                Some(self.best(&hints)?)
            }
        };
        for asking in asking(pod) {
            let near = match by_pod {
                Some(near) => near,
                None if self.policy == Policy::None => None,
                None => {
                    let hints: Vec<Hints> = givers.iter().map(|g| g.hints(&asking)).collect();
                    self.best(&hints)?
                }
            };
            for giver in givers.iter_mut() {
                giver.give(&asking, near)?;
            }
        }
        Ok(())
    }
}
