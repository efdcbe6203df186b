//! Reaches the management cluster and reads objects for the commands.

use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mainstay_base::error::chain;
use mainstay_control::Projection;

use crate::manager::state::{Layout, Running};
use crate::outcome::Failure;

/// A client of the management cluster as its administrator.
///
/// # Errors
/// When nothing runs on the data directory, or its kubeconfig cannot be used.
pub async fn admin(layout: &Layout) -> Result<Client, Failure> {
    if Running::read(layout).is_none() {
        let problem = format!("nothing runs on {}", layout.root.display());
        return Err(Failure::new("MS-RUN-0001", problem));
    }
    let path = layout.kubeconfig();
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::new("MS-RUN-0001", format!("{}: {error}", path.display())))?;
    client(&text).await
}

/// A client by the text of a kubeconfig.
///
/// # Errors
/// When it cannot be used.
pub async fn client(kubeconfig: &str) -> Result<Client, Failure> {
    let wrong = |problem: String| Failure::new("MS-API-0001", problem);
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|error| wrong(chain(&error)))?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|error| wrong(chain(&error)))?;
    Client::try_from(config).map_err(|error| wrong(chain(&error)))
}

/// Lists a kind in all namespaces, ordered by name.
///
/// # Errors
/// When the API refuses or cannot be reached.
pub async fn list<K: Projection>(client: &Client) -> Result<Vec<K>, Failure> {
    let api: Api<K> = Api::all(client.clone());
    let listed = api.list(&ListParams::default()).await.map_err(refused)?;
    let mut items = listed.items;
    items.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
    Ok(items)
}

/// Turns an API error into a failure.
pub fn refused(error: kube::Error) -> Failure {
    let id = if matches!(error, kube::Error::Api(_)) {
        "MS-API-0002"
    } else {
        "MS-API-0001"
    };
    Failure::new(id, chain(&error))
}
