//! Writes what was found to the Node object and as Events, with the node's own identity.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use mainstay_base::clock::{SharedClock, rfc3339_seconds};
use mainstay_control::{CancellationToken, EventKind, Recorder};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::status::{Condition, Severity, Status};

/// Conditions are written at most once in this time.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Unchanged conditions are written again after this time.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Wait after a failed write.
const RETRY: Duration = Duration::from_secs(10);

/// Collects statuses and writes them.
pub struct Exporter {
    node: String,
    api: Api<Node>,
    client: Client,
    clock: SharedClock,
    conditions: Mutex<BTreeMap<String, Condition>>,
    recorders: Mutex<BTreeMap<String, Recorder>>,
    changed: Notify,
}

impl Exporter {
    /// Makes an exporter for the node `node`.
    pub fn new(client: Client, node: &str, clock: SharedClock) -> Self {
        Exporter {
            node: node.into(),
            api: Api::all(client.clone()),
            client,
            clock,
            conditions: Mutex::default(),
            recorders: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Takes a status: its events go out at once, its conditions with the next write.
    pub fn take(&self, status: Status) {
        for event in &status.events {
            tracing::info!(
                source = status.source,
                reason = event.reason,
                message = event.message,
                "problem found"
            );
            let kind = match event.severity {
                Severity::Warn => EventKind::Warning,
                Severity::Info => EventKind::Normal,
            };
            self.recorder(&status.source)
                .record(self.about(), kind, &event.reason, event.message.clone());
        }
        let mut conditions = self.conditions.lock();
        let before = conditions.clone();
        conditions.extend(
            status
                .conditions
                .into_iter()
                .map(|condition| (condition.kind.clone(), condition)),
        );
        if *conditions != before {
            self.changed.notify_one();
        }
    }

    /// The conditions of all sources as they are now.
    pub fn conditions(&self) -> Vec<Condition> {
        self.conditions.lock().values().cloned().collect()
    }

    fn recorder(&self, source: &str) -> Recorder {
        let mut recorders = self.recorders.lock();
        let make = || Recorder::start(self.client.clone(), source, Some(&self.node), self.clock.clone());
        recorders.entry(source.into()).or_insert_with(make).clone()
    }

    fn about(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            // Node events carry the name as uid, as upstream's agents write them.
            uid: Some(self.node.clone()),
            ..Default::default()
        }
    }

    /// Writes conditions on change and at every heartbeat until told to stop.
    pub async fn run(&self, stop: CancellationToken) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait.max(WRITE_INTERVAL)) => {}
            }
            wait = match self.write().await {
                Ok(()) => {
                    let changed = tokio::time::timeout(HEARTBEAT, self.changed.notified());
                    tokio::select! {
                        () = stop.cancelled() => return,
                        _ = changed => WRITE_INTERVAL,
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        problem = mainstay_base::error::chain(&error),
                        "node conditions not written"
                    );
                    RETRY
                }
            };
        }
    }

    async fn write(&self) -> Result<(), kube::Error> {
        let now = rfc3339_seconds(self.clock.now());
        let conditions: Vec<Value> = self
            .conditions()
            .iter()
            .map(|condition| document(condition, &now))
            .collect();
        if conditions.is_empty() {
            return Ok(());
        }
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        self.api
            .patch_status(&self.node, &PatchParams::default(), &patch)
            .await
            .map(|_| ())
    }
}

/// A condition as the Node object holds it.
pub fn document(condition: &Condition, heartbeat: &str) -> Value {
    json!({
        "type": condition.kind, "status": condition.status.as_str(), "reason": condition.reason,
        "message": condition.message, "lastHeartbeatTime": heartbeat,
        "lastTransitionTime": rfc3339_seconds(condition.transition),
    })
}
