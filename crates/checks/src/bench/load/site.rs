//! Who there is: nodes, teams with a namespace each, and the tenant with a quota.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::fleet::NODES;
use super::teams::TEAMS;
use crate::bench::apiserver::child::Server;
use crate::bench::apiserver::client::Client;

/// The tenant's user, which is its token too, and its namespace.
pub const TENANT: &str = "mallory";
pub const NOISY: &str = "noisy";
/// ConfigMaps that the tenant may have.
pub const QUOTA: usize = 200;

/// The user of a team, which is its token too.
pub fn team(number: usize) -> String {
    format!("team-{number}")
}

/// The namespace of a team.
pub fn space(number: usize) -> String {
    format!("work-{number}")
}

/// The name of a node, which is its token too.
pub fn node(number: usize) -> String {
    format!("node-{number}")
}

/// The server's flags: everybody has a static token.
pub fn flags(folder: &Path) -> Result<[String; 1]> {
    let mut tokens = String::new();
    for number in 0..NODES {
        let name = node(number);
        writeln!(tokens, "{name},system:node:{name},{name},system:nodes")?;
    }
    for name in (0..TEAMS).map(team).chain([TENANT.to_owned()]) {
        writeln!(tokens, "{name},{name},{name}")?;
    }
    let file = folder.join("tokens.csv");
    std::fs::write(&file, tokens)?;
    Ok([format!("--token-auth-file={}", file.display())])
}

/// Makes namespaces, rights and the quota.
pub async fn prepare(server: &Server) -> Result<()> {
    let client = server.client(1).await?;
    for number in 0..TEAMS {
        home(&client, &space(number), &team(number), "edit").await?;
    }
    home(&client, NOISY, TENANT, "admin").await?;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": QUOTA.to_string()}}});
    create(
        &client,
        &format!("/api/v1/namespaces/{NOISY}/resourcequotas"),
        &quota,
    )
    .await
}

/// A namespace in which one user has a role.
async fn home(client: &Client, space: &str, user: &str, role: &str) -> Result<()> {
    create(
        client,
        "/api/v1/namespaces",
        &json!({"metadata": {"name": space}}),
    )
    .await?;
    let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user});
    let role = json!({"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": role});
    let binding = json!({"metadata": {"name": "home"}, "roleRef": role, "subjects": [subject]});
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{space}/rolebindings");
    create(client, &path, &binding).await
}

async fn create(client: &Client, path: &str, object: &Value) -> Result<()> {
    client.create(path, object.to_string()).await.map(drop)
}
