//! `mainstay kubeconfig`: how to reach the management cluster or one of its clusters.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use mainstay_control::error::found;

use super::api;
use crate::args::KubeconfigArgs;
use crate::manager::state::Layout;
use crate::outcome::{Code, Failure, Outcome};

/// Prints the kubeconfig on stdout, as it is.
pub fn run(args: &KubeconfigArgs) -> Outcome {
    let layout = Layout::new(&args.data.data_dir);
    let text = super::block_on(async {
        let client = api::admin(&layout).await?;
        match &args.cluster {
            None => std::fs::read_to_string(layout.kubeconfig())
                .map_err(|error| Failure::new("MS-RUN-0001", error.to_string())),
            Some(cluster) => {
                of_cluster(Api::namespaced(client, &args.namespace), cluster, &args.namespace).await
            }
        }
    })?;
    print!("{text}");
    Ok(Code::Ok)
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
