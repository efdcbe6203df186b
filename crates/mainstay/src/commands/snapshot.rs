//! `mainstay backup` and `mainstay restore`: one control plane's objects to a file and back, for either kind of store.

use std::sync::Arc;

use mainstay_base::clock::SystemClock;
use mainstay_base::error::chain;
use mainstay_controlplane::server;
use mainstay_store::{Engine, Store};
use serde_json::json;

use super::server::storage;
use crate::args::SnapshotArgs;
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// Writes the snapshot; what runs on the store goes on.
pub fn backup(args: &SnapshotArgs, output: &Output) -> Outcome {
    let revision = super::block_on(async {
        let engine = server::reader(&storage(&args.storage), SystemClock::shared()).await;
        let engine = engine.map_err(|error| Failure::new("MS-BAK-0001", chain(&error)))?;
        let present = engine.keyspaces().await.map_err(failed)?;
        if !present.contains(&args.plane) {
            let problem = format!(
                "the store has no control plane {}; it has: {}",
                args.plane,
                present.join(" ")
            );
            return Err(Failure::new("MS-BAK-0001", problem));
        }
        plane(&engine, args)?.snapshot(&args.file).await.map_err(failed)
    })?;
    answer(args, output, revision, "written")
}

/// Replaces the plane's content by the snapshot's.
pub fn restore(args: &SnapshotArgs, output: &Output) -> Outcome {
    let revision = super::block_on(async {
        let engine = open(args).await?;
        plane(&engine, args)?.restore(&args.file).await.map_err(failed)
    })?;
    answer(args, output, revision, "restored")
}

async fn open(args: &SnapshotArgs) -> Result<Arc<dyn Engine>, Failure> {
    server::engine(&storage(&args.storage), SystemClock::shared())
        .await
        .map_err(|error| Failure::new("MS-BAK-0001", chain(&error)))
}

fn plane(engine: &Arc<dyn Engine>, args: &SnapshotArgs) -> Result<Arc<dyn Store>, Failure> {
    engine.keyspace(&args.plane).map_err(failed)
}

fn failed(error: mainstay_store::Error) -> Failure {
    Failure::new("MS-BAK-0001", chain(&error))
}

fn answer(args: &SnapshotArgs, output: &Output, revision: u64, done: &str) -> Outcome {
    let document = json!({"plane": args.plane, "file": args.file, "revision": revision});
    output.answer("Snapshot", document, || {
        format!(
            "{} {done}: {} at revision {revision}",
            args.file.display(),
            args.plane
        )
    });
    Ok(Code::Ok)
}
