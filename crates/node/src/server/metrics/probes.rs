//! `/metrics/probes`: results of containers' probes; `/metrics/slis`: results of the node's own health checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_base::metrics::Counters;

use super::{Answer, Family, join};
use crate::pods::manager::Manager;
use crate::probes::Probed;

/// Answers `/metrics/probes`.
pub fn probes(manager: &Arc<Manager>) -> Answer {
    join([family(manager.shared().probed.all())])
}

fn family(all: Vec<Arc<Probed>>) -> Family {
    let mut family = Family::counter(
        "prober_probe_total",
        "Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    // A container's next run may be probed before the task of the one before has gone.
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for probed in &all {
        for (result, count) in probed.counts() {
            *counts.entry((&probed.of, result)).or_default() += count;
        }
    }
    for ((of, result), count) in counts {
        let labels = [
            ("container", of.container.as_str()),
            ("namespace", &of.namespace),
            ("pod", &of.pod),
            ("pod_uid", &of.pod_uid),
            ("probe_type", of.kind),
            ("result", result),
        ];
        family.add(&labels, count);
    }
    family
}

/// Answers `/metrics/slis`: how the health check stands, and how those that were asked for ended.
pub fn health(good: bool, asked: &Counters<3>) -> Answer {
    let now = Family::gauge(
        "kubernetes_healthcheck",
        "This metric records the result of a single healthcheck.",
    );
    let labels = [("name", HEALTH_CHECK), ("type", "healthz")];
    join([now.with(&labels, u8::from(good)), asked.family()])
}

/// What the node's health check is about: its container runtime.
pub const HEALTH_CHECK: &str = "runtime";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{Of, ProbeResult};
    use mainstay_base::metrics::text;

    #[test]
    fn runs_of_a_container_are_counted_together() {
        let probed = |result: ProbeResult| {
            let probed = Probed::new(Of {
                container: "a".into(),
                namespace: "n".into(),
                pod: "p".into(),
                pod_uid: "u".into(),
                kind: "Liveness",
            });
            probed.count(result);
            probed
        };
        let all = [ProbeResult::Failed, ProbeResult::Successful, ProbeResult::Failed];
        let text = text([family(all.map(probed).into())]);
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let start = "prober_probe_total{container=\"a\",namespace=\"n\",pod=\"p\",pod_uid=\"u\",probe_type=\"Liveness\"";
        let expected = [
            format!("{start},result=\"failed\"}} 2"),
            format!("{start},result=\"successful\"}} 1"),
        ];
        assert_eq!(series, expected);
    }
}
