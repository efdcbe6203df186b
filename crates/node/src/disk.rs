//! Sizes of filesystems and folders.

use std::path::Path;

/// Numbers of one filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Identifies the filesystem.
    pub device: u64,
    /// All bytes.
    pub capacity_bytes: u64,
    /// Bytes that are free for everyone.
    pub available_bytes: u64,
    /// Bytes in use; with the available ones less than all where some are kept for root.
    pub used_bytes: u64,
    /// All inodes.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// Reads the numbers of the filesystem that `path` is on.
pub fn filesystem(path: &Path) -> Option<Filesystem> {
    use std::os::unix::fs::MetadataExt;
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Filesystem {
        device: std::fs::metadata(path).ok()?.dev(),
        capacity_bytes: stat.f_blocks * stat.f_frsize,
        available_bytes: stat.f_bavail * stat.f_frsize,
        used_bytes: stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// Processes and threads of the whole machine.
pub fn process_count() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()
}

/// Bytes and inodes below a folder on its own filesystem; what vanishes meanwhile is left out.
pub fn usage(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return (0, 0);
    };
    let (mut bytes, mut inodes) = (meta.blocks() * 512, 1);
    if !meta.is_dir() {
        return (bytes, inodes);
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let same = entry.metadata().is_ok_and(|m| m.dev() == meta.dev());
        if same {
            let (more_bytes, more_inodes) = usage(&entry.path());
            bytes += more_bytes;
            inodes += more_inodes;
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_counts_what_is_in_it() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("a"), vec![1; 10_000]).expect("written");
        let (bytes, inodes) = usage(dir.path());
        assert!(bytes >= 10_000 && inodes == 2, "{bytes} {inodes}");
    }
}
