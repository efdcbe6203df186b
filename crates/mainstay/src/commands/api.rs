//! Reaches the management cluster and reads objects for the commands.

use std::path::Path;

use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mainstay_base::error::chain;
use mainstay_control::Projection;

use crate::args::Target;
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
    client_of(&layout.kubeconfig()).await
}

/// A client of the management cluster that the arguments mean: by a kubeconfig, else by the data directory.
///
/// # Errors
/// As [`admin`].
pub async fn chosen(target: &Target) -> Result<Client, Failure> {
    match &target.kubeconfig {
        Some(file) => client_of(file).await,
        None => admin(&Layout::new(&target.data.data_dir)).await,
    }
}

/// A client by a kubeconfig file.
///
/// # Errors
/// When it cannot be used; names the file.
pub async fn client_of(file: &Path) -> Result<Client, Failure> {
    let wrong = |problem: String| Failure::new("MS-API-0004", format!("{}: {problem}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let config = config(&text).await.map_err(|failure| wrong(failure.message))?;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| wrong(chain(&error)))?;
    // Asked once here, so that the message can name the file and the server.
    match client.apiserver_version().await {
        Ok(_) | Err(kube::Error::Api(_)) => Ok(client),
        Err(error) => {
            let problem = format!("{}: {server} does not answer: {}", file.display(), chain(&error));
            Err(Failure::new("MS-API-0001", problem))
        }
    }
}

/// A client by the text of a kubeconfig.
///
/// # Errors
/// When it cannot be used.
pub async fn client(kubeconfig: &str) -> Result<Client, Failure> {
    let config = config(kubeconfig).await?;
    Client::try_from(config).map_err(|error| Failure::new("MS-API-0004", chain(&error)))
}

async fn config(kubeconfig: &str) -> Result<Config, Failure> {
    let wrong = |problem: String| Failure::new("MS-API-0004", problem);
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|error| wrong(chain(&error)))?;
    Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|error| wrong(chain(&error)))
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
