//! How much room a pod takes in memory: a full node has a hundred of them.

use super::*;

/// Bytes of what a function returns, which need not be made for that.
fn bytes_of<'a, A: 'a, T>(_: impl FnOnce(&'a mut A, &'a Order) -> T) -> usize {
    size_of::<T>()
}

#[test]
fn a_pod_that_starts_keeps_no_room_for_calls_that_it_does_not_make() {
    let step = bytes_of(|worker: &mut Worker, order| worker.step(order));
    println!("a step: {step} bytes");
    assert!(step < 20_000, "{step}");
}

#[test]
fn a_pod_at_rest_is_a_small_task() {
    let run = bytes_of(|worker: &mut Option<Box<Worker>>, _| worker.take().map(|w| w.run(Vec::new())));
    println!("a task: {run} bytes");
    assert!(run < 2_000, "{run}");
}
