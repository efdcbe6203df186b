//! Keeps container logs small: renames one that is too large, lets the runtime open a new one, packs older ones.

use std::io;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::amount;
use crate::context::Shared;
use crate::cri::runtime_v1 as v1;

/// Rotated files of a log, oldest first.
fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| {
            let file = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
            file.starts_with(&prefix) && !file.ends_with(".tmp")
        })
        .collect();
    files.sort();
    files
}

fn pack(file: &Path) -> io::Result<()> {
    let target = PathBuf::from(format!("{}.gz", file.display()));
    let temporary = PathBuf::from(format!("{}.tmp", target.display()));
    let mut encoder = GzEncoder::new(std::fs::File::create(&temporary)?, Compression::default());
    io::copy(&mut std::fs::File::open(file)?, &mut encoder)?;
    encoder.finish()?;
    std::fs::rename(&temporary, &target)?;
    std::fs::remove_file(file)
}

/// Makes room: removes the oldest beyond `keep`, packs the others.
fn tidy(log: &Path, keep: usize) -> io::Result<()> {
    let files = rotated(log);
    let surplus = files.len().saturating_sub(keep);
    for file in &files[..surplus] {
        std::fs::remove_file(file)?;
    }
    for file in files[surplus..]
        .iter()
        .filter(|f| f.extension().is_none_or(|e| e != "gz"))
    {
        pack(file)?;
    }
    Ok(())
}

/// Rotates one log if it has reached `limit_bytes`; `files` counts the log itself.
///
/// # Errors
/// When a file cannot be renamed; the log is then as before.
async fn rotate(shared: &Shared, id: &str, log: &Path, limit_bytes: u64, files: usize) -> io::Result<bool> {
    let size = std::fs::metadata(log)?.len();
    if size < limit_bytes {
        return Ok(false);
    }
    tidy(log, files.saturating_sub(2))?;
    let stamp = shared.clock.now().strftime("%Y%m%d-%H%M%S");
    let target = PathBuf::from(format!("{}.{stamp}", log.display()));
    std::fs::rename(log, &target)?;
    if let Err(error) = shared.cri.reopen_log(id).await {
        std::fs::rename(&target, log)?;
        return Err(io::Error::other(error.message()));
    }
    Ok(true)
}

/// Looks at every running container's log for as long as the agent runs.
pub async fn keep(shared: std::sync::Arc<Shared>) {
    let kubelet = &shared.settings.kubelet;
    let limit = amount::value(&kubelet.container_log_max_size)
        .unwrap_or(10 << 20)
        .max(1) as u64;
    loop {
        tokio::time::sleep(kubelet.container_log_monitor_interval).await;
        let running = v1::ContainerStateValue {
            state: v1::ContainerState::ContainerRunning as i32,
        };
        let filter = v1::ContainerFilter {
            state: Some(running),
            ..Default::default()
        };
        let Ok(listed) = shared
            .cri
            .list_containers(v1::ListContainersRequest { filter: Some(filter) })
            .await
        else {
            continue;
        };
        for container in listed.containers {
            let Some(log) = log_path(&shared, &container) else {
                continue;
            };
            if let Err(error) = rotate(
                &shared,
                &container.id,
                &log,
                limit,
                kubelet.container_log_max_files,
            )
            .await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(log = %log.display(), %error, "could not rotate a log");
            }
        }
    }
}

/// The log of a container by its labels.
fn log_path(shared: &Shared, container: &v1::Container) -> Option<PathBuf> {
    use crate::podspec::labels;
    let label = |key: &str| container.labels.get(key);
    let folder = format!(
        "{}_{}_{}",
        label(labels::POD_NAMESPACE)?,
        label(labels::POD_NAME)?,
        label(labels::POD_UID)?
    );
    let metadata = container.metadata.as_ref()?;
    let path = Path::new(&shared.settings.kubelet.pod_logs_dir)
        .join(folder)
        .join(&metadata.name)
        .join(format!("{}.log", metadata.attempt));
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_logs_are_packed_and_the_oldest_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        for stamp in ["20260101-000000", "20260101-000010", "20260101-000020"] {
            std::fs::write(dir.path().join(format!("0.log.{stamp}")), "x").expect("written");
        }
        tidy(&log, 2).expect("tidied");
        let names: Vec<String> = rotated(&log)
            .iter()
            .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
            .collect();
        assert_eq!(names, ["0.log.20260101-000010.gz", "0.log.20260101-000020.gz"]);
    }
}
