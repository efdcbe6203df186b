//! Metrics in Prometheus' text form: the agent's own, resource usage, the series of cgroups, probes and health checks.

mod cadvisor;
mod own;
mod probes;
mod resource;

use http::StatusCode;
use mainstay_base::metrics::{self, CONTENT_TYPE, Family};

use super::{Answer, answer};

pub use cadvisor::cadvisor;
pub use own::own;
pub use probes::{HEALTH_CHECK, health, probes};
pub use resource::resource;

fn join(families: impl IntoIterator<Item = Family>) -> Answer {
    answer(StatusCode::OK, CONTENT_TYPE, metrics::text(families).into_bytes())
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
