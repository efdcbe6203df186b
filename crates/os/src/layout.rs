//! Turns an installed tree into the layout that ostree deploys: `/usr` holds everything, `/etc` is `/usr/etc`,
//! state lives behind links into `/var`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::error::{Result, io};

/// Folders whose content belongs to a running system, not to an image.
const EMPTIED: &[&str] = &["dev", "proc", "sys", "run", "tmp", "boot"];
/// Removed altogether: rebuilt or useless on an immutable system.
const REMOVED: &[&str] = &[
    "var",
    "media",
    "srv",
    "opt",
    "mnt",
    "home",
    "root",
    "usr/local",
    "etc/machine-id",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/apt/sources.list",
    "etc/.pwd.lock",
    "usr/share/doc-base",
    "usr/games",
    "usr/src",
];
/// Links from the root to where the state is.
const LINKS: &[(&str, &str)] = &[
    ("media", "run/media"),
    ("srv", "var/srv"),
    ("opt", "var/opt"),
    ("mnt", "var/mnt"),
    ("home", "var/home"),
    ("root", "var/roothome"),
    ("ostree", "sysroot/ostree"),
    ("usr/local", "../var/usrlocal"),
];
/// Package databases, kept for the image's own account of itself.
const DATABASES: &[(&str, &str)] = &[
    ("var/lib/dpkg", "usr/lib/sysimage/dpkg"),
    ("var/lib/rpm", "usr/share/rpm"),
];

/// Changes the tree in place.
pub(crate) fn to_ostree(root: &Path) -> Result<()> {
    for (from, to) in DATABASES {
        keep_database(&root.join(from), &root.join(to))?;
    }
    REMOVED.iter().try_for_each(|path| remove(&root.join(path)))?;
    EMPTIED.iter().try_for_each(|path| empty(&root.join(path)))?;
    for (path, target) in LINKS {
        let path = root.join(path);
        symlink(target, &path).map_err(io("link", &path))?;
    }
    for (path, mode) in [("var", 0o755), ("sysroot", 0o755), ("tmp", 0o1777)] {
        let path = root.join(path);
        fs::create_dir_all(&path).map_err(io("create", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(io("change the mode of", &path))?;
    }
    let (etc, usr_etc) = (root.join("etc"), root.join("usr/etc"));
    fs::rename(&etc, &usr_etc).map_err(io("move", &etc))
}

fn keep_database(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(io("create", parent))?;
    }
    remove(to)?;
    fs::rename(from, to).map_err(io("move", from))?;
    // Backups and locks differ from one run to the next.
    for name in [
        "lock",
        "lock-frontend",
        "status-old",
        "diversions-old",
        "statoverride-old",
        "triggers/Lock",
        "available",
    ] {
        remove(&to.join(name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let removed = if found.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(io("remove", path))
}

fn empty(path: &Path) -> Result<()> {
    remove(path)?;
    fs::create_dir_all(path).map_err(io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_moves_behind_links_and_etc_below_usr() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in [
            "etc/x.d",
            "var/lib/dpkg/info",
            "var/cache/y",
            "dev/pts",
            "home/someone",
            "usr/bin",
            "proc",
            "run/lock",
        ] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::write(root.join("etc/machine-id"), "1").unwrap();
        to_ostree(root).unwrap();
        assert!(root.join("usr/etc/x.d").is_dir() && !root.join("etc").exists());
        assert!(root.join("usr/lib/sysimage/dpkg/info").is_dir());
        assert!(!root.join("usr/etc/machine-id").exists());
        assert_eq!(fs::read_link(root.join("home")).unwrap(), Path::new("var/home"));
        assert_eq!(fs::read_dir(root.join("var")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(root.join("dev")).unwrap().count(), 0);
    }
}
