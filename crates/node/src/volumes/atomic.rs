//! Replaces all files of a folder at once: a new timed folder, then one rename of the link `..data`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

/// The link that every visible file goes through.
const DATA: &str = "..data";

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

fn check(path: &str) -> io::Result<()> {
    let relative = Path::new(path);
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if plain && !path.is_empty() && !path.starts_with("..") && path.len() <= 4096 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("invalid path {path:?} in a volume"),
    ))
}

/// Whether the folder already shows exactly these files.
fn same(dir: &Path, files: &Files) -> bool {
    let data = dir.join(DATA);
    let mut found = 0;
    let equal = files.iter().all(|(path, file)| {
        found += 1;
        let target = data.join(path);
        let mode = fs::metadata(&target).map(|m| m.permissions().mode() & 0o777);
        mode.ok() == Some(file.mode & 0o777) && fs::read(&target).is_ok_and(|data| data == file.data)
    });
    equal && data.exists() && count(&data) == found
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 })
        .sum()
}

fn fill(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    for (path, file) in files {
        let target = dir.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        let mut mode = file.mode;
        if let Some(group) = group {
            std::os::unix::fs::chown(&target, None, Some(group))?;
            mode |= 0o440;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn top_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// Makes `dir` show exactly `files`; readers see the old set or the new set, never a mixture.
///
/// # Errors
/// When a path would leave the folder or a file cannot be written; the old set then stays.
pub fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    files.keys().try_for_each(|path| check(path))?;
    if same(dir, files) {
        return Ok(());
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    let fresh = (0..u32::MAX)
        .map(|n| format!("..{n:08}"))
        .find(|name| !dir.join(name).exists())
        .ok_or_else(|| io::Error::other("no free name"))?;
    let folder = dir.join(&fresh);
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    if let Err(error) = fill(&folder, files, group) {
        let _ = fs::remove_dir_all(&folder);
        return Err(error);
    }
    let temporary = dir.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&fresh, &temporary)?;
    fs::rename(&temporary, dir.join(DATA))?;
    show(dir, files)?;
    if let Some(old) = old {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(())
}

/// Makes the visible links and removes those of files that are gone.
fn show(dir: &Path, files: &Files) -> io::Result<()> {
    for path in files.keys() {
        let top = top_of(path);
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !files.keys().any(|p| top_of(p) == name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        let file = |data: &str| File {
            data: data.into(),
            mode: 0o644,
        };
        entries
            .iter()
            .map(|(path, data)| ((*path).to_owned(), file(data)))
            .collect()
    }

    #[test]
    fn a_new_set_replaces_the_old_one_and_an_equal_one_changes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).expect("written");
        let first = fs::read_link(dir.path().join(DATA)).expect("a link");
        write(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).expect("unchanged");
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a link"), first);
        write(dir.path(), &files(&[("a", "3")]), None).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("there"), "3");
        assert!(!dir.path().join("d").exists() && !dir.path().join(&first).exists());
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for bad in ["../x", "/x", "a/../../x", "..x", ""] {
            assert!(write(dir.path(), &files(&[(bad, "1")]), None).is_err(), "{bad}");
        }
    }
}
