//! Images and dead containers that nobody needs: found, aged, removed.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_control::events::EventKind;

use crate::context::Shared;
use crate::cri::runtime_v1 as v1;
use crate::disk::{self, Filesystem};
use crate::podspec::labels;

/// How often disk usage by images is looked at.
const PERIOD: Duration = Duration::from_secs(300);

/// The filesystems of the runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filesystems {
    /// Where images are; `None` when the runtime does not tell.
    pub images: Option<Filesystem>,
    /// Where writable layers are.
    pub containers: Option<Filesystem>,
}

/// Reads the numbers of the filesystem that a folder is or will be on.
fn nearest(mountpoint: &str) -> Option<Filesystem> {
    let mut path = PathBuf::from(mountpoint);
    while !path.exists() {
        path = path.parent().map(Path::to_path_buf)?;
    }
    disk::filesystem(&path)
}

/// Asks the runtime for its filesystems.
pub async fn filesystems(shared: &Shared) -> Filesystems {
    let Ok(info) = shared.cri.image_fs_info(v1::ImageFsInfoRequest {}).await else {
        return Filesystems::default();
    };
    let first = |list: &[v1::FilesystemUsage]| nearest(&list.first()?.fs_id.as_ref()?.mountpoint);
    let images = first(&info.image_filesystems);
    Filesystems {
        images,
        containers: first(&info.container_filesystems).or(images),
    }
}

/// The filesystem that holds images; `None` when the runtime does not tell.
pub async fn filesystem(shared: &Shared) -> Option<Filesystem> {
    filesystems(shared).await.images
}

/// What is known of an image over time (monotonic).
#[derive(Debug, Clone, Copy)]
struct Record {
    first_seen: Duration,
    last_used: Duration,
}

/// One image that may be removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Id.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// When it was last in use.
    pub last_used: Duration,
    /// When it was first seen.
    pub first_seen: Duration,
}

/// How many bytes to free: none below the high mark, else down to the low mark.
pub fn to_free(fs: &Filesystem, high_percent: u64, low_percent: u64) -> Option<u64> {
    if fs.capacity_bytes == 0 {
        return None;
    }
    let used_percent = 100 - fs.available_bytes * 100 / fs.capacity_bytes;
    if used_percent < high_percent {
        return None;
    }
    Some((fs.capacity_bytes * (100 - low_percent) / 100).saturating_sub(fs.available_bytes))
}

/// Chooses images to remove: least recently used first, then the oldest, until enough is freed.
pub fn choose(
    mut candidates: Vec<Candidate>,
    bytes: u64,
    now: Duration,
    min_age: Duration,
) -> Vec<Candidate> {
    candidates.sort_by_key(|c| (c.last_used, c.first_seen));
    let mut freed = 0;
    candidates
        .into_iter()
        .filter(|c| now.saturating_sub(c.first_seen) >= min_age)
        .take_while(|c| {
            let wanted = freed < bytes;
            freed += c.size;
            wanted
        })
        .collect()
}

/// Tells images that nobody has used for longer than `max_age` (zero: any time) from the others. An agent that has
/// not run for so long itself cannot know.
fn by_age(
    candidates: Vec<Candidate>,
    running_for: Duration,
    now: Duration,
    max_age: Duration,
) -> (Vec<Candidate>, Vec<Candidate>) {
    if max_age.is_zero() || running_for <= max_age {
        return (Vec::new(), candidates);
    }
    let is_old = |image: &Candidate| now.saturating_sub(image.last_used) > max_age;
    candidates.into_iter().partition(is_old)
}

async fn in_use(shared: &Shared) -> Option<HashSet<String>> {
    let listed = shared
        .cri
        .list_containers(v1::ListContainersRequest { filter: None })
        .await
        .ok()?;
    let mut used = HashSet::new();
    for container in listed.containers {
        used.insert(container.image_ref);
        used.insert(container.image_id);
        used.extend(container.image.map(|i| i.image));
    }
    Some(used)
}

async fn unused(shared: &Shared) -> Vec<v1::Image> {
    let (Ok(listed), Some(used)) = (
        shared
            .cri
            .list_images(v1::ListImagesRequest { filter: None })
            .await,
        in_use(shared).await,
    ) else {
        return Vec::new();
    };
    let names = |image: &v1::Image| {
        let all = image.repo_tags.iter().chain(&image.repo_digests);
        all.chain([&image.id]).any(|name| used.contains(name))
    };
    listed
        .images
        .into_iter()
        .filter(|i| !i.pinned && !names(i) && !is_sandbox_image(i))
        .collect()
}

/// The sandbox's own image is in use without any container saying so (runtimes before pinning).
fn is_sandbox_image(image: &v1::Image) -> bool {
    image.repo_tags.iter().any(|tag| tag.contains("/pause:"))
}

/// Removes every image that no container uses; returns the bytes freed.
pub async fn remove_unused(shared: &Shared) -> u64 {
    let mut freed = 0;
    for image in unused(shared).await {
        if shared.cri.remove_image(&image.id).await.is_ok() {
            shared.tally.images_removed.count(["space".into()]);
            freed += image.size;
        }
    }
    freed
}

/// Removes ended containers with their writable layers, except of pods in use, which may still want to look at them.
pub async fn remove_dead_containers(shared: &Shared, in_use: &HashSet<String>) {
    let exited = v1::ContainerStateValue {
        state: v1::ContainerState::ContainerExited as i32,
    };
    let filter = v1::ContainerFilter {
        state: Some(exited),
        ..Default::default()
    };
    let Ok(listed) = shared
        .cri
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await
    else {
        return;
    };
    for container in listed.containers {
        let uid = container.labels.get(labels::POD_UID);
        if uid.is_some_and(|uid| !in_use.contains(uid)) {
            let _ = shared.cri.remove_container(&container.id).await;
        }
    }
}

/// Keeps images below the configured share of the disk for as long as the agent runs.
pub async fn keep(shared: Arc<Shared>) {
    let kubelet = &shared.settings.kubelet;
    let mut records: HashMap<String, Record> = HashMap::new();
    let begun = shared.clock.monotonic();
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = shared.clock.monotonic();
        let candidates = note(&shared, &mut records, now).await;
        let (old, candidates) = by_age(
            candidates,
            now.saturating_sub(begun),
            now,
            kubelet.image_maximum_gc_age,
        );
        for image in old {
            match shared.cri.remove_image(&image.id).await {
                Ok(()) => shared.tally.images_removed.count(["age".into()]),
                Err(error) => tracing::warn!(
                    image = image.id,
                    error = error.message(),
                    "could not remove an old image"
                ),
            }
        }
        let Some(fs) = filesystem(&shared).await else {
            continue;
        };
        let high = kubelet.image_gc_high_threshold_percent;
        let Some(bytes) = to_free(&fs, high, kubelet.image_gc_low_threshold_percent) else {
            continue;
        };
        let chosen = choose(candidates, bytes, now, kubelet.image_minimum_gc_age);
        let mut freed = 0;
        for image in chosen {
            if shared.cri.remove_image(&image.id).await.is_ok() {
                shared.tally.images_removed.count(["space".into()]);
                freed += image.size;
            }
        }
        if freed < bytes {
            shared.events.node(
                shared.settings.node_name(),
                EventKind::Warning,
                "FreeDiskSpaceFailed",
                format!("Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."),
            );
        }
    }
}

/// Notes which images are in use now; returns those that are not.
async fn note(shared: &Shared, records: &mut HashMap<String, Record>, now: Duration) -> Vec<Candidate> {
    let Ok(listed) = shared
        .cri
        .list_images(v1::ListImagesRequest { filter: None })
        .await
    else {
        return Vec::new();
    };
    let free: HashMap<String, u64> = unused(shared).await.into_iter().map(|i| (i.id, i.size)).collect();
    let there: HashSet<&String> = listed.images.iter().map(|i| &i.id).collect();
    records.retain(|id, _| there.contains(id));
    for image in &listed.images {
        let fresh = Record {
            first_seen: now,
            last_used: Duration::ZERO,
        };
        let record = records.entry(image.id.clone()).or_insert(fresh);
        if !free.contains_key(&image.id) {
            record.last_used = now;
        }
    }
    free.into_iter()
        .filter_map(|(id, size)| {
            let record = records.get(&id)?;
            Some(Candidate {
                size,
                last_used: record.last_used,
                first_seen: record.first_seen,
                id,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_go_from_the_high_mark_down_to_the_low_mark() {
        let fs = |available_bytes| Filesystem {
            capacity_bytes: 1000,
            available_bytes,
            ..Default::default()
        };
        assert_eq!(to_free(&fs(200), 85, 80), None);
        assert_eq!(to_free(&fs(150), 85, 80), Some(50));
    }

    #[test]
    fn images_that_nobody_uses_go_with_time() {
        let image = |id: &str, used: u64| Candidate {
            id: id.into(),
            size: 10,
            last_used: Duration::from_secs(used),
            first_seen: Duration::ZERO,
        };
        let old = |running_for: u64, max_age: u64| -> Vec<String> {
            let all = vec![image("never", 0), image("lately", 950)];
            let seconds = Duration::from_secs;
            let (old, _) = by_age(all, seconds(running_for), seconds(1000), seconds(max_age));
            old.into_iter().map(|c| c.id).collect()
        };
        assert_eq!(old(900, 100), ["never"]);
        assert_eq!((old(90, 100), old(900, 0)), (vec![], vec![]));
    }

    #[test]
    fn the_least_recently_used_image_goes_first_and_young_ones_stay() {
        let image = |id: &str, used: u64, seen: u64| Candidate {
            id: id.into(),
            size: 10,
            last_used: Duration::from_secs(used),
            first_seen: Duration::from_secs(seen),
        };
        let all = vec![image("new", 0, 990), image("old", 5, 0), image("never", 0, 0)];
        let chosen = choose(all, 15, Duration::from_secs(1000), Duration::from_secs(120));
        let ids: Vec<&str> = chosen.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["never", "old"]);
    }
}
