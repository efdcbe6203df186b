//! Reads the kubeconfig that names a webhook, as upstream's `--authentication-token-webhook-config-file` has it.

use std::path::Path;

use mainstay_access::outbound::{Endpoint, Identity, OutboundError};
use serde::Deserialize;

/// Why a webhook's kubeconfig is refused.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The file cannot be read.
    #[error("failed to read the file")]
    File(#[from] std::io::Error),
    /// It is no kubeconfig.
    #[error("failed to read the file as a kubeconfig")]
    Format(#[from] serde_yaml_ng::Error),
    /// The context names nothing.
    #[error("the current context names no cluster")]
    NoCluster,
    /// What the file names cannot be used.
    #[error("{0} cannot be read")]
    Part(&'static str),
    /// The address or the credentials cannot be used.
    #[error(transparent)]
    Endpoint(#[from] OutboundError),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
}

impl std::fmt::Debug for NamedUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the credentials.
        f.debug_struct("NamedUser").field("name", &self.name).finish()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

/// Makes the endpoint of a kubeconfig's current context, or of its first cluster and user when it has none.
///
/// # Errors
/// When the file names no cluster or something that cannot be used.
pub fn endpoint(path: &Path) -> Result<Endpoint, WebhookError> {
    let file: File = serde_yaml_ng::from_str(&std::fs::read_to_string(path)?)?;
    let (cluster, user) = chosen(&file).ok_or(WebhookError::NoCluster)?;
    // Relative paths start at the file, as in kubectl.
    let folder = path.parent().unwrap_or(Path::new(""));
    let ca = part(
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
        folder,
        "the cluster's certificate-authority",
    )?;
    let identity = user.map(|user| identity(user, folder)).transpose()?;
    let (ca, identity) = (ca.unwrap_or_default(), identity.unwrap_or_default());
    Ok(Endpoint::with_identity(&cluster.server, &ca, &identity)?)
}

fn chosen(file: &File) -> Option<(&Cluster, Option<&User>)> {
    let context = file.contexts.iter().find(|one| one.name == file.current_context);
    let Some(NamedContext { context, .. }) = context else {
        let user = file.users.first().map(|user| &user.user);
        return Some((&file.clusters.first()?.cluster, user));
    };
    let cluster = file.clusters.iter().find(|one| one.name == context.cluster)?;
    let user = file.users.iter().find(|one| one.name == context.user);
    Some((&cluster.cluster, user.map(|user| &user.user)))
}

fn identity(user: &User, folder: &Path) -> Result<Identity, WebhookError> {
    let certificate = part(
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
        folder,
        "the user's client-certificate",
    )?;
    let key = part(
        user.client_key_data.as_deref(),
        user.client_key.as_deref(),
        folder,
        "the user's client-key",
    )?;
    let token = match (&user.token, &user.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(folder.join(file));
            let text = text.map_err(|_| WebhookError::Part("the user's tokenFile"))?;
            Some(text.trim().to_owned())
        }
        (None, None) => None,
    };
    Ok(Identity {
        certificate: certificate.zip(key),
        token,
    })
}

/// Inline data (base64) or a file's content.
fn part(
    data: Option<&str>,
    file: Option<&str>,
    folder: &Path,
    what: &'static str,
) -> Result<Option<Vec<u8>>, WebhookError> {
    match (data, file) {
        (Some(data), _) => match Endpoint::decode_bundle(data) {
            empty if empty.is_empty() => Err(WebhookError::Part(what)),
            bytes => Ok(Some(bytes)),
        },
        (None, Some(file)) => std::fs::read(folder.join(file))
            .map(Some)
            .map_err(|_| WebhookError::Part(what)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Endpoint, WebhookError> {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("webhook.yaml");
        std::fs::write(&path, text).expect("the test's folder is writable");
        endpoint(&path)
    }

    #[test]
    fn the_current_context_names_the_webhook() {
        let config = "
clusters:
- {name: other, cluster: {server: 'ftp://nowhere'}}
- {name: hook, cluster: {server: 'http://127.0.0.1:9/authenticate'}}
users:
- {name: api, user: {token: secret}}
contexts:
- {name: c, context: {cluster: hook, user: api}}
current-context: c
";
        assert!(read(config).is_ok());
        assert!(matches!(
            read(&config.replace("current-context: c", "current-context: d")),
            Err(WebhookError::Endpoint(_))
        ));
        assert!(matches!(read("clusters: []"), Err(WebhookError::NoCluster)));
        let keys = config.replace("token: secret", "client-certificate: none.pem");
        assert!(matches!(read(&keys), Err(WebhookError::Part(_))));
    }
}
