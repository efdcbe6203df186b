//! How the node reaches its cluster: by a join file, or by the kubeconfigs that a kubelet is given.

use std::path::Path;

use kube::config::Kubeconfig;
use mainstay_base::error::chain;
use mainstay_node::api::Credentials;
use mainstay_node::config::flags::labels;
use mainstay_node::{Access, NodeConfig};
use serde_json::Value;

use super::failed;
use crate::args::NodeArgs;
use crate::outcome::Failure;

/// Where a new machine finds its join file.
const JOIN: &str = "/etc/mainstay/node.json";

/// The join file, or what takes its place, and the credentials beside it.
///
/// # Errors
/// When a file cannot be used; names it.
pub fn access(args: &NodeArgs) -> Result<(NodeConfig, Access), Failure> {
    let kubeconfigs = args.kubeconfig.is_some() || args.bootstrap_kubeconfig.is_some();
    let (mut join, access) = match (&args.join, kubeconfigs) {
        (None, true) => by_kubeconfig(args)?,
        (join, _) => {
            let file = join.as_deref().unwrap_or(Path::new(JOIN));
            (NodeConfig::load(file).map_err(failed)?, Access::default())
        }
    };
    if let Some(name) = &args.hostname_override {
        join.node_name.clone_from(name);
    }
    for text in &args.node_labels {
        join.labels.extend(labels(text).map_err(failed)?);
    }
    Ok((join, access))
}

fn by_kubeconfig(args: &NodeArgs) -> Result<(NodeConfig, Access), Failure> {
    let mut join = NodeConfig {
        node_name: host_name()?,
        ..NodeConfig::default()
    };
    let mut access = Access {
        kubeconfig: args.kubeconfig.clone(),
        ..Access::default()
    };
    let own = args.kubeconfig.as_deref().filter(|file| file.exists());
    // Once the node has its own file, the one that it joined by may be gone.
    let first = args.bootstrap_kubeconfig.as_deref();
    let first = first.filter(|file| own.is_none() || file.exists());
    if let Some(file) = first {
        let read = read(file)?;
        access.first = Some(credentials(&read.user).map_err(|why| wrong(file, &why))?);
        (join.api_servers, join.ca_bundle) = (vec![read.server], read.authority);
    }
    if let Some(file) = own {
        let read = read(file)?;
        access.given = match credentials(&read.user) {
            // Its certificate may be lost while the other file can get a new one.
            Err(_) if first.is_some() => None,
            found => Some(found.map_err(|why| wrong(file, &why))?),
        };
        (join.api_servers, join.ca_bundle) = (vec![read.server], read.authority);
    }
    match (first, own, &args.kubeconfig) {
        (None, None, Some(file)) => Err(wrong(
            file,
            "it is not there, and there is no --bootstrap-kubeconfig",
        )),
        _ => Ok((join, access)),
    }
}

/// The host's name as the kernel has it, as nodes are named.
fn host_name() -> Result<String, Failure> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(failed)?;
    Ok(name.trim().to_lowercase())
}

/// What a node needs of a kubeconfig.
struct Read {
    server: String,
    authority: String,
    user: Value,
}

fn wrong(file: &Path, why: &str) -> Failure {
    Failure::new("MS-NODE-0001", format!("{}: {why}", file.display()))
}

/// Reads the current context; paths in it are relative to the file.
fn read(file: &Path) -> Result<Read, Failure> {
    let whole = Kubeconfig::read_from(file).map_err(|error| wrong(file, &chain(&error)))?;
    let name = whole.current_context.unwrap_or_default();
    let context = whole.contexts.into_iter().find(|one| one.name == name);
    let context = context.and_then(|one| one.context);
    let context =
        context.ok_or_else(|| wrong(file, &format!("current-context: no context is named {name:?}")))?;
    let named = whole.clusters.into_iter().find(|one| one.name == context.cluster);
    let missing = || wrong(file, &format!("no cluster is named {:?}", context.cluster));
    let cluster = named.and_then(|one| one.cluster).ok_or_else(missing)?;
    let user = context.user.unwrap_or_default();
    let named = whole.auth_infos.into_iter().find(|one| one.name == user);
    let missing = || wrong(file, &format!("no user is named {user:?}"));
    let info = named.and_then(|one| one.auth_info).ok_or_else(missing)?;
    let authority = text_of(
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
    );
    let authority = authority.map_err(|why| wrong(file, &format!("certificate-authority: {why}")))?;
    Ok(Read {
        server: cluster
            .server
            .ok_or_else(|| wrong(file, "the cluster has no server"))?,
        authority: authority.unwrap_or_default(),
        // As text: the library hides secrets from programs.
        user: serde_json::to_value(info).map_err(|error| wrong(file, &error.to_string()))?,
    })
}

/// The text that a kubeconfig has in itself or refers to.
fn text_of(data: Option<&str>, file: Option<&str>) -> Result<Option<String>, String> {
    use base64::Engine as _;
    match (data, file) {
        (Some(data), _) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim());
            let bytes = bytes.map_err(|error| error.to_string())?;
            String::from_utf8(bytes)
                .map(Some)
                .map_err(|error| error.to_string())
        }
        (None, Some(file)) => std::fs::read_to_string(file)
            .map(Some)
            .map_err(|error| format!("{file}: {error}")),
        (None, None) => Ok(None),
    }
}

fn credentials(user: &Value) -> Result<Credentials, String> {
    let field = |name: &str| user[name].as_str();
    let certificate = text_of(field("client-certificate-data"), field("client-certificate"))?;
    let key = text_of(field("client-key-data"), field("client-key"))?;
    if let (Some(certificate), Some(key)) = (certificate, key) {
        return Ok(Credentials::Certificate { certificate, key });
    }
    let token = match field("token") {
        Some(token) => Some(token.to_owned()),
        None => text_of(None, field("tokenFile"))?.map(|text| text.trim().to_owned()),
    };
    token
        .map(Credentials::Token)
        .ok_or_else(|| "the user has neither a client certificate with its key nor a token".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    const CLUSTER: &str =
        "{name: c, cluster: {server: 'https://10.0.0.1:6443', certificate-authority: ca.crt}}";
    const CONTEXT: &str = "{name: x, context: {cluster: c, user: u}}";

    /// A folder with kubeconfigs as kubeadm leaves them.
    fn folder(own: Option<&str>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, user: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Config\nclusters: [{CLUSTER}]\ncontexts: [{CONTEXT}]\n\
                 current-context: x\nusers: [{{name: u, user: {user}}}]\n"
            );
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        std::fs::write(folder.path().join("ca.crt"), "authority").expect("written");
        write("bootstrap.conf", "{token: abc.def}");
        if let Some(user) = own {
            write("kubelet.conf", user);
        }
        folder
    }

    fn asked(folder: &Path, more: &[&str]) -> Result<(NodeConfig, Access), String> {
        let file = |name: &str| folder.join(name).display().to_string();
        let (own, first) = (file("kubelet.conf"), file("bootstrap.conf"));
        let line = ["mainstay", "node", "--kubeconfig", &own];
        let line = line.into_iter().chain(["--bootstrap-kubeconfig", &first]);
        let parsed = Args::try_parse_from(line.chain(more.iter().copied()));
        match parsed.map_err(|error| error.to_string())?.command {
            Command::Node(args) => access(&args).map_err(|failure| failure.message),
            _ => unreachable!("only node is asked for"),
        }
    }

    #[test]
    fn a_node_without_a_kubeconfig_joins_by_the_bootstrap_one() {
        let folder = folder(None);
        let (join, access) = asked(
            folder.path(),
            &["--hostname-override=n1", "--node-labels=a=1,b=2"],
        )
        .expect("readable");
        assert_eq!((join.node_name.as_str(), join.labels.len()), ("n1", 2));
        assert_eq!(
            (join.api_servers, join.ca_bundle.as_str()),
            (vec!["https://10.0.0.1:6443".to_owned()], "authority")
        );
        assert!(matches!(access.first, Some(Credentials::Token(token)) if token == "abc.def"));
        assert!(access.given.is_none());
        assert_eq!(access.kubeconfig, Some(folder.path().join("kubelet.conf")));
    }

    #[test]
    fn the_own_kubeconfig_holds_once_it_is_there_and_may_have_lost_its_certificate() {
        let folder = folder(Some("{client-certificate: gone.pem, client-key: gone.pem}"));
        let (_, access) = asked(folder.path(), &[]).expect("it can join again");
        assert!(access.given.is_none() && access.first.is_some());
        std::fs::write(folder.path().join("gone.pem"), "certificate and key").expect("written");
        let (_, access) = asked(folder.path(), &[]).expect("readable");
        assert!(matches!(access.given, Some(Credentials::Certificate { .. })));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let folder = folder(Some("{username: u, password: p}"));
        std::fs::remove_file(folder.path().join("bootstrap.conf")).expect("removed");
        let said = asked(folder.path(), &[]).expect_err("no credentials");
        assert!(
            said.contains("kubelet.conf: the user has neither a client certificate"),
            "{said}"
        );
        std::fs::remove_file(folder.path().join("kubelet.conf")).expect("removed");
        let said = asked(folder.path(), &[]).expect_err("no file");
        assert!(said.contains("bootstrap.conf"), "{said}");
    }
}
