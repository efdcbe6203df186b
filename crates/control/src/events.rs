//! Records core/v1 Events: repeated ones raise the count of the first instead of making a new object.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mainstay_base::clock::{SharedClock, rfc3339_seconds};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be written; more are dropped (they are advice, not state) and counted in the log.
const PENDING_LIMIT: usize = 1024;
/// Distinct recent events that are remembered for counting.
const REMEMBERED_LIMIT: usize = 4096;
/// A repetition after this time is a new event.
const SAME_FOR: Duration = Duration::from_secs(600);

/// The two types of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Something expected happened.
    Normal,
    /// Something needs attention.
    Warning,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        }
    }
}

#[derive(Debug)]
struct Pending {
    about: ObjectReference,
    annotations: BTreeMap<String, String>,
    kind: EventKind,
    reason: String,
    message: String,
}

impl Pending {
    fn identity(&self) -> String {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        [
            part(&self.about.kind),
            part(&self.about.namespace),
            part(&self.about.name),
            part(&self.about.uid),
        ]
        .join("/")
            + self.kind.as_str()
            + &self.reason
            + "\n"
            + &self.message
    }
}

/// Writes events of one component in the background; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    send: mpsc::Sender<Pending>,
}

impl Recorder {
    /// Starts the writer. `component` becomes the event's source, `host` its node if there is one.
    pub fn start(client: Client, component: &str, host: Option<&str>, clock: SharedClock) -> Self {
        let (send, receive) = mpsc::channel(PENDING_LIMIT);
        let writer = Writer {
            client,
            component: component.into(),
            host: host.map(Into::into),
            clock,
            recent: Mutex::default(),
        };
        tokio::spawn(writer.run(receive));
        Recorder { send }
    }

    /// Records one event about an object; never blocks.
    pub fn record(&self, about: ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.record_annotated(about, BTreeMap::new(), kind, reason, message);
    }

    /// Records one event with annotations about an object; never blocks.
    pub fn record_annotated(
        &self,
        about: ObjectReference,
        annotations: BTreeMap<String, String>,
        kind: EventKind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let event = Pending {
            about,
            annotations,
            kind,
            reason: reason.into(),
            message: message.into(),
        };
        if self.send.try_send(event).is_err() {
            tracing::warn!(reason, "event dropped: too many are waiting");
        }
    }
}

#[derive(Debug, Clone)]
struct Known {
    name: String,
    count: i32,
    last: Duration,
}

struct Writer {
    client: Client,
    component: String,
    host: Option<String>,
    clock: SharedClock,
    recent: Mutex<HashMap<String, Known>>,
}

impl Writer {
    async fn run(self, mut receive: mpsc::Receiver<Pending>) {
        while let Some(event) = receive.recv().await {
            if let Err(error) = self.write(&event).await {
                let problem = mainstay_base::error::chain(&error);
                tracing::debug!(reason = event.reason, problem, "event not written");
            }
        }
    }

    async fn write(&self, event: &Pending) -> Result<(), kube::Error> {
        let namespace = event
            .about
            .namespace
            .clone()
            .filter(|ns| !ns.is_empty())
            .unwrap_or("default".into());
        let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(self.client.clone(), &namespace);
        let (identity, now) = (event.identity(), self.clock.monotonic());
        let known = self.recent.lock().get(&identity).cloned();
        if let Some(known) = known.filter(|known| now.saturating_sub(known.last) < SAME_FOR) {
            let count = known.count + 1;
            let patch = json!({"count": count, "lastTimestamp": rfc3339_seconds(self.clock.now())});
            if api
                .patch(&known.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .is_ok()
            {
                self.remember(
                    identity,
                    Known {
                        name: known.name,
                        count,
                        last: now,
                    },
                );
                return Ok(());
            }
        }
        let name = self.event_name(event);
        let object = self.object(event, &name, &namespace);
        let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &object).await?;
        self.remember(
            identity,
            Known {
                name,
                count: 1,
                last: now,
            },
        );
        Ok(())
    }

    fn remember(&self, identity: String, known: Known) {
        let mut recent = self.recent.lock();
        if recent.len() >= REMEMBERED_LIMIT {
            let horizon = known.last.saturating_sub(SAME_FOR);
            recent.retain(|_, entry| entry.last > horizon);
        }
        if recent.len() < REMEMBERED_LIMIT {
            recent.insert(identity, known);
        }
    }

    fn event_name(&self, event: &Pending) -> String {
        let nanos = self.clock.now().as_nanosecond() as u64;
        format!(
            "{}.{nanos:x}{:04x}",
            event.about.name.as_deref().unwrap_or("unknown"),
            fastrand::u16(..)
        )
    }

    fn object(&self, event: &Pending, name: &str, namespace: &str) -> serde_json::Value {
        let now = rfc3339_seconds(self.clock.now());
        let annotations = Some(&event.annotations).filter(|a| !a.is_empty());
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
            "involvedObject": event.about,
            "type": event.kind.as_str(), "reason": event.reason, "message": event.message,
            "source": {"component": self.component, "host": self.host},
            "reportingComponent": self.component,
            "reportingInstance": self.host.clone().unwrap_or_default(),
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        })
    }
}

/// Makes the reference an event needs from any kube resource.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}
