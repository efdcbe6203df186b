//! Pods by way of the API, as people start them: created, bound to the node, seen running by a watcher.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use mainstay_base::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::site::world::{IMAGE, NODE};

/// Creates under way at once.
const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);

/// Pods of the default namespace.
pub struct Pods(Api<Pod>);

/// A pod of one container on the node.
pub fn pod(name: &str, command: &[&str], resources: Value) -> Result<Pod> {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "a", "image": IMAGE, "command": command, "resources": resources}],
        },
    });
    Ok(serde_json::from_value(pod)?)
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    phase == Some("Running")
}

impl Pods {
    /// Pods as the administrator sees them.
    pub fn new(client: Client) -> Pods {
        Pods(Api::default_namespaced(client))
    }

    /// The API that they are in.
    pub fn api(&self) -> &Api<Pod> {
        &self.0
    }

    /// Creates pods and waits until a watcher has seen all of them run; seconds.
    pub async fn start(&self, pods: Vec<Pod>) -> Result<f64> {
        let mut left: BTreeSet<String> = pods.iter().filter_map(|p| p.metadata.name.clone()).collect();
        let listed = self.0.list(&ListParams::default().limit(1)).await?;
        let version = listed.metadata.resource_version.context("a list has a version")?;
        let mut events = self.0.watch(&WatchParams::default(), &version).await?.boxed();
        let clock = SystemClock::new();
        let create = futures::stream::iter(pods)
            .map(|pod| async move { self.0.create(&PostParams::default(), &pod).await })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) });
        let seen = async {
            while !left.is_empty() {
                match events.try_next().await?.context("the watch ended")? {
                    WatchEvent::Modified(pod) if is_running(&pod) => {
                        left.remove(pod.metadata.name.as_deref().unwrap_or_default());
                    }
                    WatchEvent::Error(error) => bail!("{error}"),
                    _ => {}
                }
            }
            Ok(())
        };
        let create = async { anyhow::Ok(create.await?) };
        let both = async { tokio::try_join!(create, seen) };
        let ended = tokio::time::timeout(LIMIT, both).await;
        ended.with_context(|| format!("pods do not run within {LIMIT:?}"))??;
        Ok(clock.monotonic().as_secs_f64())
    }

    /// Starts one pod and removes it; milliseconds of its start.
    pub async fn single(&self, number: usize) -> Result<f64> {
        let name = format!("single-{number}");
        let took = self
            .start(vec![pod(&name, &["sleep", "100000"], json!({}))?])
            .await?;
        self.remove(&name).await?;
        Ok(took * 1000.0)
    }

    /// Starts so many pods; seconds.
    pub async fn start_many(&self, count: usize) -> Result<f64> {
        let pods = (0..count).map(|n| pod(&format!("many-{n}"), &["sleep", "100000"], json!({})));
        self.start(pods.collect::<Result<Vec<Pod>>>()?).await
    }

    /// Removes the pods of [`Pods::start_many`].
    pub async fn remove_many(&self, count: usize) -> Result<()> {
        futures::stream::iter(0..count)
            .map(|number| async move { self.remove(&format!("many-{number}")).await })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let soon = DeleteParams::default().grace_period(1);
        self.0.delete(name, &soon).await?;
        self.until_gone(name).await
    }

    async fn until_gone(&self, name: &str) -> Result<()> {
        let clock = SystemClock::new();
        while self.0.get_opt(name).await?.is_some() {
            if clock.monotonic() > LIMIT {
                bail!("pod {name} does not go");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}
