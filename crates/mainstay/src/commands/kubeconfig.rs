//! `mainstay kubeconfig`: how to reach the management cluster or one of its clusters.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use mainstay_control::error::found;
use serde_json::json;

use super::api;
use crate::args::{KubeconfigArgs, Target};
use crate::manager::state::Layout;
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// Prints the kubeconfig on stdout, as it is; as one text in a document with `-o json`.
pub fn run(args: &KubeconfigArgs, output: &Output) -> Outcome {
    let text = super::block_on(async {
        let client = api::chosen(&args.target).await?;
        match &args.cluster {
            None => own(&args.target),
            Some(cluster) => {
                of_cluster(Api::namespaced(client, &args.namespace), cluster, &args.namespace).await
            }
        }
    })?;
    output.answer("Kubeconfig", json!({"kubeconfig": text}), || text.clone());
    Ok(Code::Ok)
}

/// The management cluster's own, as it is.
fn own(target: &Target) -> Result<String, Failure> {
    let layout = Layout::new(&target.data.data_dir);
    let file = target.kubeconfig.clone().unwrap_or_else(|| layout.kubeconfig());
    std::fs::read_to_string(&file)
        .map_err(|error| Failure::new("MS-API-0004", format!("{}: {error}", file.display())))
}

/// Cluster API keeps it in Secret `<cluster>-kubeconfig`, key `value`.
async fn of_cluster(secrets: Api<Secret>, cluster: &str, namespace: &str) -> Result<String, Failure> {
    let missing = || {
        Failure::new(
            "MS-API-0003",
            format!("no kubeconfig of cluster {namespace}/{cluster}"),
        )
    };
    let secret = found(secrets.get(&format!("{cluster}-kubeconfig")).await)
        .map_err(api::refused)?
        .ok_or_else(missing)?;
    let value = secret
        .data
        .and_then(|mut data| data.remove("value"))
        .ok_or_else(missing)?;
    String::from_utf8(value.0).map_err(|error| Failure::new("MS-API-0002", error.to_string()))
}
