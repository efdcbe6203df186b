//! What configMap, secret, downwardAPI and projected volumes hold.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, ServiceAccountTokenProjection, Volume,
};

use super::atomic::{File, Files};
use crate::podspec::env::{Sources, field, resource_field};

/// Files of one volume.
pub type Payload = Files;
/// Mode of files without one.
const DEFAULT_MODE: i32 = 0o644;

/// Everything that a pod's volumes and environment refer to, fetched before.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Values for the environment and the downward API; holds ConfigMaps and Secrets too.
    pub sources: Sources,
    /// ConfigMaps' binary data.
    pub binary: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Tokens by (audience, lifetime).
    pub tokens: BTreeMap<TokenKey, String>,
    /// Where the volumes of claims are on this machine, or why they are not.
    pub claims: BTreeMap<String, Result<HostPathVolumeSource, String>>,
}

/// What identifies a service-account token of a pod: audience and lifetime in seconds.
pub type TokenKey = (String, i64);

/// The key of a token projection; the default lifetime is one hour.
pub fn token_key(projection: &ServiceAccountTokenProjection) -> TokenKey {
    (
        projection.audience.clone().unwrap_or_default(),
        projection.expiration_seconds.unwrap_or(3600),
    )
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).unwrap_or(DEFAULT_MODE) as u32
}

/// Picks keys of a map into files: all of them, or the items asked for.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
    what: &str,
) -> Result<Files, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        let all = data.iter();
        return Ok(all
            .map(|(key, data)| {
                (
                    key.clone(),
                    File {
                        data: data.clone(),
                        mode: mode(None, default),
                    },
                )
            })
            .collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                let file = File {
                    data: data.clone(),
                    mode: mode(item.mode, default),
                };
                files.insert(item.path.clone(), file);
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent config key: {}", item.key)),
        }
    }
    Ok(files)
}

fn config_map(
    objects: &Objects,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: Option<bool>,
) -> Result<Files, String> {
    let optional = optional == Some(true);
    let Some(text) = objects.sources.config_maps.get(name) else {
        return if optional {
            Ok(Files::new())
        } else {
            Err(format!("configmap \"{name}\" not found"))
        };
    };
    let mut data: BTreeMap<String, Vec<u8>> = text
        .iter()
        .map(|(k, v)| (k.clone(), v.clone().into_bytes()))
        .collect();
    data.extend(objects.binary.get(name).cloned().unwrap_or_default());
    pick(&data, items, default, optional, "configmap")
}

fn secret(
    objects: &Objects,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: Option<bool>,
) -> Result<Files, String> {
    let optional = optional == Some(true);
    match objects.sources.secrets.get(name) {
        Some(data) => pick(data, items, default, optional, "secret"),
        None if optional => Ok(Files::new()),
        None => Err(format!("secret \"{name}\" not found")),
    }
}

fn downward(
    pod: &Pod,
    objects: &Objects,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    default: Option<i32>,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => field(pod, &selector.field_path)?,
            (None, Some(selector)) => {
                let name = selector.container_name.as_deref().unwrap_or("");
                let spec = pod.spec.as_ref().ok_or("pod has no spec")?;
                let own = spec
                    .containers
                    .iter()
                    .find(|c| c.name == name)
                    .or(spec.containers.first())
                    .ok_or("pod has no container")?;
                resource_field(pod, own, selector, &objects.sources)?
            }
            (None, None) => return Err(format!("downwardAPI item {} names no field", item.path)),
        };
        let file = File {
            data: text.into_bytes(),
            mode: mode(item.mode, default),
        };
        files.insert(item.path.clone(), file);
    }
    Ok(files)
}

fn token(
    objects: &Objects,
    projection: &ServiceAccountTokenProjection,
    default: Option<i32>,
    shared: bool,
) -> Result<Files, String> {
    let text = objects
        .tokens
        .get(&token_key(projection))
        .ok_or("service account token is not there yet")?;
    // Without a group to share it with, only the user of the container may read it; 0644 is the given default.
    let bits = if shared { 0o640 } else { mode(None, default) };
    let file = File {
        data: text.clone().into_bytes(),
        mode: bits,
    };
    Ok(Files::from([(projection.path.clone(), file)]))
}

/// The files of a volume.
///
/// # Errors
/// When something that is not optional is missing; in the kubelet's words.
pub fn payload(pod: &Pod, volume: &Volume, objects: &Objects) -> Result<Payload, String> {
    if let Some(source) = &volume.config_map {
        return config_map(
            objects,
            &source.name,
            source.items.as_ref(),
            source.default_mode,
            source.optional,
        );
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or("");
        return secret(
            objects,
            name,
            source.items.as_ref(),
            source.default_mode,
            source.optional,
        );
    }
    if let Some(source) = &volume.downward_api {
        return downward(pod, objects, source.items.as_ref(), source.default_mode);
    }
    let Some(projected) = &volume.projected else {
        return Err("not a volume of files".to_owned());
    };
    let default = projected.default_mode;
    let mut files = Files::new();
    for source in projected.sources.iter().flatten() {
        if let Some(s) = &source.config_map {
            files.extend(config_map(
                objects,
                &s.name,
                s.items.as_ref(),
                default,
                s.optional,
            )?);
        }
        if let Some(s) = &source.secret {
            files.extend(secret(objects, &s.name, s.items.as_ref(), default, s.optional)?);
        }
        if let Some(s) = &source.downward_api {
            files.extend(downward(pod, objects, s.items.as_ref(), default)?);
        }
        if let Some(s) = &source.service_account_token {
            files.extend(token(objects, s, default, false)?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_projected_volume_joins_its_sources() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": []}}),
        )
        .expect("valid");
        let volume: Volume = serde_json::from_value(json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}))
        .expect("valid");
        let mut objects = Objects::default();
        objects.tokens.insert((String::new(), 3607), "T".into());
        let map = BTreeMap::from([("ca.crt".to_owned(), "PEM".to_owned())]);
        objects.sources.config_maps.insert("kube-root-ca.crt".into(), map);
        let files = payload(&pod, &volume, &objects).expect("complete");
        let text: Vec<String> = files
            .iter()
            .map(|(path, f)| format!("{path}={}", String::from_utf8_lossy(&f.data)))
            .collect();
        assert_eq!(text, ["ca.crt=PEM", "namespace=ns", "token=T"]);
    }

    #[test]
    fn a_missing_secret_is_named() {
        let volume: Volume =
            serde_json::from_value(json!({"name": "v", "secret": {"secretName": "s"}})).expect("valid");
        assert_eq!(
            payload(&Pod::default(), &volume, &Objects::default()),
            Err("secret \"s\" not found".to_owned())
        );
    }
}
