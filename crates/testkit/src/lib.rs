//! In-memory control plane, fake clock, builders and fault injection for tests.

use std::sync::Arc;

pub use mainstay_access::UserInfo;
pub use mainstay_base::clock::FakeClock;
use mainstay_base::clock::{SharedClock, SystemClock};
use mainstay_controlplane::{Config, ControlPlane};
use mainstay_store::MemoryEngine;

/// Starts an in-memory control plane without background controllers: everything else is the real thing.
///
/// # Panics
/// When it does not start.
pub async fn plane() -> ControlPlane {
    plane_at(SystemClock::shared()).await
}

/// The same with a clock of the test's own.
///
/// # Panics
/// When it does not start.
pub async fn plane_at(clock: SharedClock) -> ControlPlane {
    plane_with(clock, |_| {}).await
}

/// The same with a changed configuration.
///
/// # Panics
/// When it does not start.
pub async fn plane_with(clock: SharedClock, change: impl FnOnce(&mut Config)) -> ControlPlane {
    let engine = MemoryEngine::new(clock.clone()).expect("memory can be had");
    let mut config = Config::new(Arc::new(engine), "test");
    config.seed = 7;
    config.disabled_admission = vec!["ServiceAccount".into()];
    change(&mut config);
    ControlPlane::start(config, clock)
        .await
        .expect("an in-memory plane starts")
}

/// A client of a plane as a member of system:masters.
pub fn admin(plane: &ControlPlane) -> kube::Client {
    plane.client(UserInfo::admin())
}
