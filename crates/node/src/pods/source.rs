//! Where pods come from: the API server's pods of this node, and manifests in a folder.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, Event};
use ring::digest::{SHA256, digest};

use super::manager::Manager;
use super::status_writer::StatusQueue;
use crate::podspec::{self, CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE};
use crate::repeated::Repeated;

/// Follows the API server's pods of this node for as long as the agent runs.
pub async fn follow_api(manager: Arc<Manager>) {
    let repeated = Repeated::new(manager.shared().clock.clone());
    loop {
        let client = manager.shared().api.joined().await;
        let api: Api<Pod> = Api::all(client);
        let fields = format!("spec.nodeName={}", manager.shared().settings.node_name());
        let config = watcher::Config::default().fields(&fields).any_semantic();
        let mut listed = HashSet::new();
        let mut stream = watcher::watcher(api, config).boxed();
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    // The first event of a stream says only that it will ask.
                    if !matches!(event, Event::Init) {
                        repeated.works();
                    }
                    take(&manager, event, &mut listed);
                }
                Err(error) => {
                    if let Some(failures) = repeated.fails() {
                        let error = mainstay_base::error::chain(&error);
                        tracing::warn!(error, failures, "lost sight of the API server's pods");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    // Begin anew: the client may have changed.
                    break;
                }
            }
        }
    }
}

fn take(manager: &Arc<Manager>, event: Event<Pod>, listed: &mut HashSet<String>) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(pod) => {
            listed.insert(podspec::uid(&pod).to_owned());
            update(manager, pod);
        }
        Event::InitDone => {
            let gone = manager.uids(|p| !podspec::is_static(p));
            for uid in gone.difference(listed) {
                manager.remove(uid);
            }
            manager.api_is_synced();
        }
        Event::Apply(pod) => update(manager, pod),
        Event::Delete(pod) => manager.remove(podspec::uid(&pod)),
    }
}

fn update(manager: &Arc<Manager>, mut pod: Pod) {
    // The API server's copy of a static pod is for people to see; the file decides.
    if podspec::is_mirror(&pod) {
        return;
    }
    pod.metadata.managed_fields = None;
    // A copy: what was parsed has room to grow in every list, and lies among what was needed only to parse it.
    manager.update(pod.clone());
}

/// Fills in the requests that follow from limits, as the API server does for its pods: the pod's class depends on them.
fn request_what_is_limited(spec: &mut PodSpec) {
    let inits = spec.init_containers.iter_mut().flatten();
    for resources in spec
        .containers
        .iter_mut()
        .chain(inits)
        .filter_map(|c| c.resources.as_mut())
    {
        let Some(limits) = resources.limits.clone() else {
            continue;
        };
        let requests = resources.requests.get_or_insert_default();
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

/// Turns a manifest into the pod that runs here: named after the node, its UID a digest of the manifest.
///
/// # Errors
/// When the manifest is no pod or refers to objects of the API.
pub fn static_pod(text: &str, file: &Path, node: &str) -> Result<Pod, String> {
    let mut pod: Pod = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    let spec = pod.spec.as_mut().ok_or("no spec")?;
    let wanted = crate::fetch::wanted(spec);
    if !wanted.config_maps.is_empty() || !wanted.secrets.is_empty() || !wanted.tokens.is_empty() {
        return Err("static pods may not reference ConfigMaps, Secrets or service account tokens".to_owned());
    }
    request_what_is_limited(spec);
    spec.node_name = Some(node.to_owned());
    spec.service_account_name = None;
    spec.enable_service_links = Some(false);
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Default::default()
    });
    let name = pod.metadata.name.clone().ok_or("no metadata.name")?;
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let canonical = serde_json::to_string(&pod).map_err(|e| e.to_string())?;
    let digest = digest(
        &SHA256,
        format!("{canonical}\n{node}\n{}", file.display()).as_bytes(),
    );
    let hash: String = digest
        .as_ref()
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(CONFIG_HASH.to_owned(), hash.clone());
    pod.metadata.uid = Some(hash);
    Ok(pod)
}

/// The API server's copy of a static pod.
fn mirror(pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    let hash = podspec::annotation(pod, CONFIG_HASH).unwrap_or("").to_owned();
    mirror
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(CONFIG_MIRROR.to_owned(), hash);
    mirror
}

fn read_folder(dir: &Path, node: &str) -> Vec<Pod> {
    let mut pods = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        let made = std::fs::read_to_string(&path)
            .map_err(|e| e.to_string())
            .and_then(|text| static_pod(&text, &path, node));
        match made {
            Ok(pod) => pods.push(pod),
            Err(why) => {
                tracing::error!(file = %path.display(), why, "a static pod manifest cannot be used");
            }
        }
    }
    pods
}

/// Follows the manifest folder for as long as the agent runs.
pub async fn follow_folder(manager: Arc<Manager>) {
    let settings = &manager.shared().settings;
    let dir = settings.kubelet.static_pod_path.clone();
    if dir.is_empty() {
        manager.files_are_read();
        return std::future::pending().await;
    }
    loop {
        let pods = read_folder(Path::new(&dir), settings.node_name());
        let now: HashSet<String> = pods.iter().map(|p| podspec::uid(p).to_owned()).collect();
        let known = manager.uids(podspec::is_static);
        for uid in known.difference(&now) {
            manager.remove(uid);
        }
        for pod in &pods {
            if !known.contains(podspec::uid(pod)) {
                manager.update(pod.clone());
            }
        }
        manager.files_are_read();
        if let Some(client) = manager.shared().api.client() {
            show_copies(&client, settings.node_name(), &pods, &manager.queue).await;
        }
        tokio::time::sleep(settings.kubelet.file_check_frequency).await;
    }
}

/// Makes the API server show each static pod, and no others. A node may list its own pods, but not ask for one that is
/// not there.
async fn show_copies(client: &kube::Client, node: &str, pods: &[Pod], queue: &StatusQueue) {
    let api: Api<Pod> = Api::all(client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let mut copies = match api.list(&params).await {
        Ok(listed) => listed.items,
        Err(error) => {
            let error = mainstay_base::error::chain(&error);
            tracing::debug!(error, "could not list the API server's copies of static pods");
            return;
        }
    };
    copies.retain(podspec::is_mirror);
    let key = |p: &Pod| (podspec::namespace(p).to_owned(), podspec::name(p).to_owned());
    let mirror_of = |p: &Pod| podspec::annotation(p, CONFIG_MIRROR).map(str::to_owned);
    for pod in pods {
        let wanted = mirror(pod);
        let existing = copies.iter().find(|copy| key(copy) == key(pod));
        if existing.is_some_and(|copy| mirror_of(copy) == mirror_of(&wanted)) {
            queue.is_shown(podspec::uid(pod));
            continue;
        }
        if let Some(outdated) = existing {
            remove_copy(client, outdated).await;
        }
        let own: Api<Pod> = Api::namespaced(client.clone(), podspec::namespace(pod));
        match own.create(&PostParams::default(), &wanted).await {
            Ok(_) => queue.is_shown(podspec::uid(pod)),
            Err(error) => tracing::warn!(
                error = mainstay_base::error::chain(&error),
                "could not show a static pod in the API"
            ),
        }
    }
    for copy in copies
        .iter()
        .filter(|copy| !pods.iter().any(|p| key(p) == key(copy)))
    {
        remove_copy(client, copy).await;
    }
}

async fn remove_copy(client: &kube::Client, copy: &Pod) {
    let own: Api<Pod> = Api::namespaced(client.clone(), podspec::namespace(copy));
    let params = DeleteParams::default().grace_period(0);
    if let Err(error) = own.delete(podspec::name(copy), &params).await {
        let error = mainstay_base::error::chain(&error);
        tracing::debug!(error, "could not remove the copy of a static pod");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let text = "metadata: {name: web}\nspec: {containers: [{name: a, image: i}]}";
        let pod = static_pod(text, Path::new("/m/web.yaml"), "Node1").expect("valid");
        assert_eq!(
            (
                podspec::name(&pod),
                podspec::namespace(&pod),
                podspec::uid(&pod).len()
            ),
            ("web-node1", "default", 32)
        );
        assert!(podspec::is_static(&pod));
        assert_eq!(
            podspec::annotation(&mirror(&pod), CONFIG_MIRROR),
            Some(podspec::uid(&pod))
        );
    }

    #[test]
    fn a_limit_is_a_request_as_well() {
        let text = "metadata: {name: web}\nspec: {containers: [{name: a, image: i, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}}]}";
        let pod = static_pod(text, Path::new("/m/web.yaml"), "n").expect("valid");
        let resources = pod.spec.and_then(|s| s.containers.into_iter().next()?.resources);
        let requests = resources.and_then(|r| r.requests).unwrap_or_default();
        let shown: Vec<(&str, &str)> = requests.iter().map(|(k, v)| (k.as_str(), v.0.as_str())).collect();
        assert_eq!(shown, [("cpu", "500m"), ("memory", "1Gi")]);
    }

    #[test]
    fn a_manifest_may_not_name_secrets() {
        let text = "metadata: {name: web}\nspec: {containers: [{name: a, image: i}], volumes: [{name: v, secret: {secretName: s}}]}";
        assert!(static_pod(text, Path::new("/m/web.yaml"), "n").is_err());
    }
}
