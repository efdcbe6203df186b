//! Volumes of pods: where each one is on this machine, how it gets there, how it goes away.

pub mod atomic;
pub mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume, VolumeMount,
};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::amount;
use crate::cri::runtime_v1 as v1;
use crate::{podspec, qos};
use content::{Objects, Payload};

/// Why a volume could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file operation failed.
    #[error("MountVolume.SetUp failed for volume {volume:?}: {path}")]
    File {
        /// The volume.
        volume: String,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it should hold is not there (yet).
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    Content {
        /// The volume.
        volume: String,
        /// What is missing.
        why: String,
    },
    /// This kind of volume is not supported.
    #[error(
        "volume {volume:?}: kind is not supported by this node (CSI and in-tree network volumes are not built)"
    )]
    Unsupported {
        /// The volume.
        volume: String,
    },
    /// A mount asks for a path outside its volume.
    #[error("failed to prepare subPath for volumeMount {mount:?} of container {container:?}: {why}")]
    SubPath {
        /// The mount.
        mount: String,
        /// The container.
        container: String,
        /// What is wrong.
        why: String,
    },
}

/// The folder of everything the agent keeps for a pod.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// The folder name of a kind of volume; `None` for hostPath (no folder of ours) and for unsupported kinds.
fn plugin(volume: &Volume) -> Option<&'static str> {
    if volume.empty_dir.is_some() {
        Some("kubernetes.io~empty-dir")
    } else if volume.config_map.is_some() {
        Some("kubernetes.io~configmap")
    } else if volume.secret.is_some() {
        Some("kubernetes.io~secret")
    } else if volume.projected.is_some() {
        Some("kubernetes.io~projected")
    } else if volume.downward_api.is_some() {
        Some("kubernetes.io~downward-api")
    } else if volume.persistent_volume_claim.is_some() {
        Some("kubernetes.io~local-volume")
    } else {
        None
    }
}

/// Where a volume is on this machine; `None` for unsupported kinds.
pub fn host_path(root: &Path, uid: &str, volume: &Volume) -> Option<PathBuf> {
    if let Some(host) = &volume.host_path {
        return Some(PathBuf::from(&host.path));
    }
    let plugin = plugin(volume)?;
    Some(pod_dir(root, uid).join("volumes").join(plugin).join(&volume.name))
}

fn file_error(volume: &str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let (volume, path) = (volume.to_owned(), path.display().to_string());
    move |source| VolumeError::File { volume, path, source }
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|g| u32::try_from(g).ok())
}

/// Sets up every volume of the pod; safe to repeat, which also brings new content into place.
///
/// # Errors
/// The first volume that cannot be set up.
pub fn set_up(root: &Path, pod: &Pod, objects: &Objects) -> Result<(), VolumeError> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|s| s.volumes.as_ref())
        .into_iter()
        .flatten();
    for volume in volumes {
        set_up_one(root, pod, volume, objects)?;
    }
    Ok(())
}

fn set_up_one(root: &Path, pod: &Pod, volume: &Volume, objects: &Objects) -> Result<(), VolumeError> {
    let uid = podspec::uid(pod);
    let path = host_path(root, uid, volume).ok_or_else(|| VolumeError::Unsupported {
        volume: volume.name.clone(),
    })?;
    if let Some(host) = &volume.host_path {
        return check_host_path(&volume.name, host);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return link_claim(&volume.name, &path, objects.claims.get(&claim.claim_name));
    }
    if let Some(empty) = &volume.empty_dir {
        let medium = medium(pod, empty).map_err(|why| VolumeError::Content {
            volume: volume.name.clone(),
            why,
        })?;
        return make_empty_dir(pod, volume, &path, &medium);
    }
    let payload = content::payload(pod, volume, objects).map_err(|why| VolumeError::Content {
        volume: volume.name.clone(),
        why,
    })?;
    write_content(pod, volume, &path, payload)
}

/// Leads to the volume of a claim. A link, not a mount: what is removed with the pod is the link alone.
fn link_claim(
    volume: &str,
    path: &Path,
    source: Option<&Result<HostPathVolumeSource, String>>,
) -> Result<(), VolumeError> {
    let wrong = |why: String| VolumeError::Content {
        volume: volume.to_owned(),
        why,
    };
    let source = match source {
        Some(Ok(source)) => source,
        Some(Err(why)) => return Err(wrong(why.clone())),
        None => return Err(wrong("its claim has not been read".to_owned())),
    };
    check_host_path(volume, source)?;
    if std::fs::read_link(path).is_ok_and(|target| target == Path::new(&source.path)) {
        return Ok(());
    }
    let make = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(&source.path, path)
    };
    make().map_err(file_error(volume, path))
}

fn write_content(pod: &Pod, volume: &Volume, path: &Path, payload: Payload) -> Result<(), VolumeError> {
    let secret = volume.secret.is_some() || volume.projected.is_some();
    std::fs::create_dir_all(path).map_err(file_error(&volume.name, path))?;
    if secret && !is_mount_point(path) {
        mount_tmpfs(path, None).map_err(file_error(&volume.name, path))?;
    }
    atomic::write(path, &payload, fs_group(pod)).map_err(file_error(&volume.name, path))
}

/// What an emptyDir is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Medium {
    Disk,
    /// At most so many bytes; `None`: half of the machine's memory, as the kernel has it.
    Memory(Option<i64>),
    /// Pages of so many bytes.
    HugePages(i64),
}

/// The medium of an emptyDir; memory holds no more than the pod may use.
fn medium(pod: &Pod, empty: &EmptyDirVolumeSource) -> Result<Medium, String> {
    let given = empty.size_limit.as_ref().map(|q| amount::of("memory", q));
    match empty.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let of_pod = pod.spec.as_ref().and_then(qos::memory_limit);
            let limits = [given, of_pod].into_iter().flatten().filter(|l| *l > 0);
            Ok(Medium::Memory(limits.min()))
        }
        "HugePages" => page_size(pod),
        other => {
            let size = other.strip_prefix("HugePages-").and_then(amount::value);
            size.map(Medium::HugePages)
                .ok_or_else(|| format!("unknown storage medium {other:?}"))
        }
    }
}

/// The one size of hugepages that the pod's containers ask for.
fn page_size(pod: &Pod) -> Result<Medium, String> {
    let spec = pod.spec.as_ref();
    let inits = spec
        .and_then(|s| s.init_containers.as_ref())
        .into_iter()
        .flatten();
    let containers = inits.chain(spec.into_iter().flat_map(|s| &s.containers));
    let requests = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref());
    let names = requests.flat_map(BTreeMap::keys);
    let sizes: BTreeSet<i64> = names
        .filter_map(|name| amount::value(name.strip_prefix("hugepages-")?))
        .collect();
    match (sizes.first(), sizes.len()) {
        (Some(size), 1) => Ok(Medium::HugePages(*size)),
        (None, _) => Err("no hugepages are requested: medium HugePages needs a request".to_owned()),
        _ => Err("several hugepage sizes are requested: use medium HugePages-<size>".to_owned()),
    }
}

fn make_empty_dir(pod: &Pod, volume: &Volume, path: &Path, medium: &Medium) -> Result<(), VolumeError> {
    if path.is_dir() && (*medium == Medium::Disk || is_mount_point(path)) {
        return Ok(());
    }
    let make = || {
        std::fs::create_dir_all(path)?;
        match medium {
            Medium::Disk => {}
            Medium::Memory(limit) => mount_tmpfs(path, *limit)?,
            Medium::HugePages(size) => mount_hugepages(path, *size)?,
        }
        let mut mode = 0o777;
        if let Some(group) = fs_group(pod) {
            std::os::unix::fs::chown(path, None, Some(group))?;
            mode |= 0o2000;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    };
    make().map_err(file_error(&volume.name, path))
}

/// Checks or makes what a hostPath volume names, by its `type`.
fn check_host_path(volume: &str, source: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&source.path);
    let wrong = |why: String| VolumeError::Content {
        volume: volume.to_owned(),
        why,
    };
    let kind = source.type_.as_deref().unwrap_or("");
    match kind {
        "DirectoryOrCreate" => std::fs::create_dir_all(path).map_err(file_error(volume, path))?,
        "FileOrCreate" if !path.exists() => {
            std::fs::File::create(path).map_err(file_error(volume, path))?;
        }
        _ => {}
    }
    use std::os::unix::fs::FileTypeExt;
    let found = std::fs::metadata(path).map(|m| m.file_type());
    let fits = match (kind, found) {
        ("", _) => true,
        (_, Err(_)) => {
            return Err(wrong(format!(
                "hostPath type check failed: {} does not exist",
                source.path
            )));
        }
        ("Directory" | "DirectoryOrCreate", Ok(f)) => f.is_dir(),
        ("File" | "FileOrCreate", Ok(f)) => f.is_file(),
        ("Socket", Ok(f)) => f.is_socket(),
        ("CharDevice", Ok(f)) => f.is_char_device(),
        ("BlockDevice", Ok(f)) => f.is_block_device(),
        _ => true,
    };
    if fits {
        return Ok(());
    }
    Err(wrong(format!(
        "hostPath type check failed: {} is not a {}",
        source.path,
        kind.trim_end_matches("OrCreate").to_lowercase()
    )))
}

fn mount_tmpfs(path: &Path, limit: Option<i64>) -> io::Result<()> {
    let options = limit.map_or("mode=0777".to_owned(), |bytes| format!("mode=0777,size={bytes}"));
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    rustix::mount::mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    )?;
    Ok(())
}

fn mount_hugepages(path: &Path, page_size: i64) -> io::Result<()> {
    let options = std::ffi::CString::new(format!("pagesize={page_size}")).map_err(io::Error::other)?;
    rustix::mount::mount(
        "nodev",
        path,
        "hugetlbfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    )?;
    Ok(())
}

/// Whether something is mounted at `path`: its device differs from its parent's.
fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(parent)) => own != parent,
        _ => false,
    }
}

/// Unmounts and removes everything kept for a pod.
///
/// # Errors
/// When a mount is still in use or a file cannot be removed.
pub fn tear_down(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    let volumes = dir.join("volumes");
    for plugin in std::fs::read_dir(&volumes).into_iter().flatten().flatten() {
        for volume in std::fs::read_dir(plugin.path()).into_iter().flatten().flatten() {
            // The volume of a claim is a link to what outlives the pod.
            if !volume.path().is_symlink() && is_mount_point(&volume.path()) {
                rustix::mount::unmount(volume.path(), UnmountFlags::empty())?;
            }
        }
    }
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Joins a sub-path to a volume; refuses to leave it, by text or by symbolic link.
fn sub_path(base: &Path, sub: &str) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.is_absolute() || relative.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(format!(
            "subPath {sub:?} must be relative and must not contain '..'"
        ));
    }
    let joined = base.join(relative);
    if !joined.exists() {
        std::fs::create_dir_all(&joined).map_err(|e| e.to_string())?;
    }
    let (real, real_base) = (joined.canonicalize(), base.canonicalize());
    match (real, real_base) {
        (Ok(real), Ok(real_base)) if real.starts_with(&real_base) => Ok(real),
        (Ok(_), Ok(_)) => Err(format!("subPath {sub:?} leads outside the volume")),
        (Err(e), _) | (_, Err(e)) => Err(e.to_string()),
    }
}

fn propagation(mount: &VolumeMount) -> i32 {
    let mode = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    mode as i32
}

/// The mounts of a container. `value` gives the variables for `subPathExpr`.
///
/// # Errors
/// When a mount names no volume or leaves it.
pub fn mounts(
    root: &Path,
    pod: &Pod,
    container: &Container,
    value: impl Fn(&str) -> Option<String>,
) -> Result<Vec<v1::Mount>, VolumeError> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|s| s.volumes.as_deref())
        .unwrap_or_default();
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let wrong = |why: String| VolumeError::SubPath {
            mount: mount.name.clone(),
            container: container.name.clone(),
            why,
        };
        let volume = volumes
            .iter()
            .find(|v| v.name == mount.name)
            .ok_or_else(|| wrong("no such volume".to_owned()))?;
        let base = host_path(root, podspec::uid(pod), volume).ok_or_else(|| VolumeError::Unsupported {
            volume: volume.name.clone(),
        })?;
        let expanded = mount
            .sub_path_expr
            .as_deref()
            .map(|e| podspec::env::expand(e, &value));
        let source = match expanded.as_deref().or(mount.sub_path.as_deref()) {
            Some(sub) if !sub.is_empty() => sub_path(&base, sub).map_err(wrong)?,
            _ => base,
        };
        mounts.push(v1::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: source.display().to_string(),
            readonly: mount.read_only == Some(true)
                || volume
                    .persistent_volume_claim
                    .as_ref()
                    .is_some_and(|claim| claim.read_only == Some(true)),
            propagation: propagation(mount),
            ..Default::default()
        });
    }
    Ok(mounts)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_dir_is_as_large_as_its_pod_may_be_and_knows_its_pages() {
        let medium_of = |resources: serde_json::Value, empty: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
                {"name": "a", "resources": {"limits": resources, "requests": resources}}]}}))
            .expect("valid");
            medium(&pod, &serde_json::from_value(empty).expect("valid"))
        };
        let memory = |limit: &str| {
            medium_of(
                json!({"memory": limit}),
                json!({"medium": "Memory", "sizeLimit": "2Mi"}),
            )
        };
        assert_eq!(memory("1Mi"), Ok(Medium::Memory(Some(1 << 20))));
        assert_eq!(memory("4Mi"), Ok(Medium::Memory(Some(2 << 20))));
        let pages = |resources| medium_of(resources, json!({"medium": "HugePages"}));
        assert_eq!(
            pages(json!({"hugepages-2Mi": "4Mi"})),
            Ok(Medium::HugePages(2 << 20))
        );
        assert!(pages(json!({})).is_err());
        assert!(pages(json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"})).is_err());
        let named = medium_of(json!({}), json!({"medium": "HugePages-1Gi"}));
        assert_eq!(named, Ok(Medium::HugePages(1 << 30)));
    }

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        let base = dir.path().join("volume");
        std::fs::create_dir(&base).expect("made");
        std::os::unix::fs::symlink("/etc", base.join("link")).expect("made");
        assert!(sub_path(&base, "a/b").is_ok());
        assert!(sub_path(&base, "../x").is_err());
        assert_eq!(
            sub_path(&base, "link").expect_err("outside"),
            "subPath \"link\" leads outside the volume"
        );
    }

    #[test]
    fn the_volume_of_a_claim_outlives_the_pod() {
        let dir = tempfile::tempdir().expect("a folder");
        let (root, data) = (dir.path().join("kubelet"), dir.path().join("data"));
        std::fs::create_dir(&data).expect("made");
        std::fs::write(data.join("kept"), "x").expect("written");
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "uid": "u1"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
        }))
        .expect("valid");
        let mut objects = Objects::default();
        objects
            .claims
            .insert("c".into(), Err("persistentvolumeclaim \"c\" is not bound".into()));
        let error = set_up(&root, &pod, &objects).expect_err("it is not bound");
        assert!(error.to_string().ends_with("is not bound"), "{error}");
        let source = HostPathVolumeSource {
            path: data.display().to_string(),
            type_: Some("Directory".into()),
        };
        objects.claims.insert("c".into(), Ok(source));
        set_up(&root, &pod, &objects).expect("set up");
        set_up(&root, &pod, &objects).expect("set up again");
        let link = host_path(
            &root,
            "u1",
            &pod.spec.as_ref().expect("set").volumes.as_ref().expect("set")[0],
        );
        assert!(link.expect("a place").join("kept").exists());
        tear_down(&root, "u1").expect("gone");
        assert!(data.join("kept").exists() && !pod_dir(&root, "u1").exists());
    }

    #[test]
    fn a_host_path_of_the_wrong_type_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let source = HostPathVolumeSource {
            path: dir.path().display().to_string(),
            type_: Some("File".into()),
        };
        let error = check_host_path("v", &source).expect_err("a folder is no file");
        assert!(error.to_string().ends_with("is not a file"), "{error}");
    }
}
