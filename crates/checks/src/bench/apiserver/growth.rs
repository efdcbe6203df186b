//! What must not depend on how full the store is: the cost of a write, of a list and of a delivered event for one kind,
//! sampled with few and with many objects of other kinds in store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hyper::Method;
use serde_json::json;

use super::child::Server;
use super::client::Client;
use super::load::{REQUESTERS, Watchers, measured, requests};
use crate::bench::Figure;

/// Where the sampled objects are; nothing else is.
const COLLECTION: &str = "/api/v1/namespaces/kube-node-lease/secrets";
const OBJECTS: usize = 2_000;
const LISTS: usize = 100;
const WATCHERS: usize = 200;
const EVENTS: usize = 50;
/// How much dearer anything may become.
const TOLERANCE: f64 = 1.2;

/// Server CPU in milliseconds: per create, per list, per delivered event.
pub struct Sample([f64; 3]);

/// Takes a sample and leaves nothing behind.
pub async fn sample(server: &Server, client: &Arc<Client>) -> Result<Sample> {
    let made = client.clone();
    let create = move |number: usize| {
        let client = made.clone();
        async move {
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("growth-{number}")},
                "data": {"key": "eHh4".repeat(100)},
            });
            client.create(COLLECTION, secret.to_string()).await.map(drop)
        }
    };
    let created = measured(server, requests(REQUESTERS, OBJECTS, create)).await?;
    let asked = client.clone();
    let list = move |_| {
        let client = asked.clone();
        async move { client.measure(COLLECTION).await.map(drop) }
    };
    let listed = measured(server, requests(1, LISTS, list)).await?;
    let mut watchers = Watchers::open(client, WATCHERS, COLLECTION).await?;
    let one = format!("{COLLECTION}/growth-0");
    let pause = Duration::from_millis(20);
    let watched = measured(server, watchers.deliver(client, &one, EVENTS, pause)).await?;
    drop(watchers);
    client
        .send(Method::DELETE, COLLECTION, "application/json", "")
        .await?;
    Ok(Sample([created.cpu_ms, listed.cpu_ms, watched.cpu_ms]))
}

/// What became dearer, as ratios.
pub fn figures(few: &Sample, many: &Sample, objects: usize) -> Vec<Figure> {
    let names = ["create", "list of 2,000", "delivered event"];
    let pairs = few.0.iter().zip(many.0);
    names
        .iter()
        .zip(pairs)
        .map(|(name, (few, many))| Figure {
            name: format!("growth: CPU per {name}, full store / empty store"),
            value: many / few,
            unit: "x",
            target: Some(TOLERANCE),
            note: format!("{few:.4} ms, then {many:.4} ms with {objects} objects of other kinds"),
        })
        .collect()
}
