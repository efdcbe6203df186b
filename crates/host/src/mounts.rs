//! Mounts of this process's mount namespace: listing, binding, unmounting.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount,
};

use crate::error::{Result, io};

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What of the filesystem is mounted.
    pub root: String,
    /// Where.
    pub point: PathBuf,
    /// Options of this mount.
    pub options: String,
    /// Filesystem type.
    pub kind: String,
    /// Device or other source.
    pub source: String,
    /// Options of the filesystem.
    pub super_options: String,
}

/// All mounts, oldest first.
pub fn list() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").map_err(io("read", "/proc/self/mountinfo"))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// Takes one line apart (proc_pid_mountinfo(5)).
fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    Some(Mount {
        root: unescape(left.get(3)?),
        point: PathBuf::from(unescape(left.get(4)?)),
        options: (*left.get(5)?).to_owned(),
        kind: (*right.first()?).to_owned(),
        source: unescape(right.get(1)?),
        super_options: right.get(2).unwrap_or(&"").to_string(),
    })
}

/// Replaces the octal escapes of blank, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Mount points at or below a folder, deepest (newest) first.
pub fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mounts = list()?.into_iter().rev().map(|mount| mount.point);
    Ok(mounts.filter(|point| point.starts_with(folder)).collect())
}

/// Binds a folder or file, with everything mounted below it, on another.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount_bind_recursive(source, target).map_err(|errno| io("bind-mount on", target)(errno.into()))
}

/// Makes mounts below a point private to this mount namespace.
pub fn make_private(point: &Path) -> Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(point, flags).map_err(|errno| io("make private the mount", point)(errno.into()))
}

/// Makes a bind mount read-only.
pub fn make_read_only(point: &Path) -> Result<()> {
    rustix::mount::mount_remount(point, MountFlags::BIND | MountFlags::RDONLY, c"")
        .map_err(|errno| io("make read-only the mount", point)(errno.into()))
}

/// Unmounts everything at or below a folder; nothing mounted is no error.
pub fn unmount_all(folder: &Path) -> Result<()> {
    for point in below(folder)? {
        match unmount(&point, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(io("unmount", &point)(errno.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_parses() {
        let line =
            "36 35 98:0 /a /mnt/x\\040y rw,noatime master:1 shared:2 - ext4 /dev/loop0 rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(
            (mount.point.to_str(), mount.kind.as_str()),
            (Some("/mnt/x y"), "ext4")
        );
        assert_eq!(mount.super_options, "rw,errors=continue");
    }

    #[test]
    fn the_root_is_listed() {
        assert!(list().unwrap().iter().any(|mount| mount.point == Path::new("/")));
    }
}
