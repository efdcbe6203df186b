//! One pass of the autoscaler: a synchronous function of what is seen, what is remembered and the options.

use crate::model::{Decision, Observation, Options};
use crate::scale_down::scale_down;
use crate::scale_up::{give_up_late, scale_up};
use crate::state::State;

/// Decides what grows and what goes. `seen.groups[..].target` and `state` are brought up to date.
pub fn run_once(seen: &mut Observation, state: &mut State, options: &Options) -> Decision {
    let mut decision = Decision::default();
    forget_gone(seen, state);
    give_up_late(seen, state, options, &mut decision);
    let mut cluster = seen.snapshot.clone();
    scale_up(seen, state, options, &mut cluster, &mut decision);
    scale_down(seen, state, options, cluster, &mut decision);
    decision
}

/// Drops what is remembered of nodes and groups that are no longer there.
fn forget_gone(seen: &Observation, state: &mut State) {
    let there = |name: &String, _: &mut i64| seen.snapshot.node(name).is_some();
    state.unneeded_since.retain(there);
    state.unremovable_until.retain(there);
    state.deleting_since.retain(there);
    state
        .resting
        .retain(|group, _| seen.groups.iter().any(|own| own.id == *group));
}
