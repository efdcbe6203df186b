//! The ledger: one line of JSON per thing that this program is about to make on the host, so that `undo` can
//! remove everything, also after `kill -9` or a reboot of the host.
//!
//! A line is on disk before the thing is made. Undoing a thing that was never made, or is gone, is no error.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Group, Hierarchies};
use crate::error::{Error, Result, io};
use crate::{cgroup, mounts, network};

/// One thing on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Item {
    /// A mount in this process's mount namespace.
    Mount {
        /// Mount point.
        point: PathBuf,
    },
    /// A folder with everything in it.
    Directory {
        /// The folder; never followed across mounts.
        path: PathBuf,
    },
    /// A named network namespace.
    Netns {
        /// Its name below `/run/netns`.
        name: String,
    },
    /// A network link.
    Link {
        /// Its name.
        name: String,
    },
    /// A packet filter table.
    NftTable {
        /// Its name, in family `inet`.
        name: String,
    },
    /// A control group with its processes, in all hierarchies.
    Cgroup {
        /// Path from the hierarchies' roots.
        path: String,
    },
    /// A kernel setting that was changed.
    Sysctl {
        /// Name with dots.
        name: String,
        /// What it was before.
        previous: String,
    },
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Made { id: u64, item: Item },
    Gone { id: u64 },
}

/// The open ledger of one data directory.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    live: Vec<(u64, Item)>,
    next: u64,
}

impl Ledger {
    /// Opens or makes the ledger. A last line cut short by a crash is dropped: its thing was never made.
    pub fn open(path: &Path) -> Result<Ledger> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io("read", path)(error)),
        };
        let (live, next) = replay(path, &text)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io("open", path))?;
        file.set_len(whole as u64).map_err(io("truncate", path))?;
        Ok(Ledger {
            path: path.to_owned(),
            inner: Mutex::new(Inner { file, live, next }),
        })
    }

    /// Writes down that this is about to be made. An item that is already there is written once.
    pub fn record(&self, item: Item) -> Result<()> {
        let mut inner = self.lock();
        if inner.live.iter().any(|(_, live)| *live == item) {
            return Ok(());
        }
        let id = inner.next;
        self.append(
            &mut inner,
            &Line::Made {
                id,
                item: item.clone(),
            },
        )?;
        inner.next += 1;
        inner.live.push((id, item));
        Ok(())
    }

    /// Removes one thing from the host, then from the ledger.
    pub fn remove(&self, item: &Item) -> Result<()> {
        undo_item(item)?;
        let mut inner = self.lock();
        let Some(at) = inner.live.iter().position(|(_, live)| live == item) else {
            return Ok(());
        };
        let id = inner.live[at].0;
        self.append(&mut inner, &Line::Gone { id })?;
        inner.live.remove(at);
        Ok(())
    }

    /// What stands on the host, in the order of making.
    pub fn items(&self) -> Vec<Item> {
        self.lock().live.iter().map(|(_, item)| item.clone()).collect()
    }

    /// Removes everything, newest first. What cannot be removed stays in the ledger and in the answer.
    pub fn undo(&self) -> Result<Vec<(Item, Error)>> {
        let mut left = Vec::new();
        for item in self.items().into_iter().rev() {
            match self.remove(&item) {
                Ok(()) => remove_empty_groups(&item)?,
                Err(error) => left.push((item, error)),
            }
        }
        if left.is_empty() {
            let inner = self.lock();
            inner.file.set_len(0).map_err(io("truncate", &self.path))?;
        }
        Ok(left)
    }

    fn append(&self, inner: &mut Inner, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).expect("plain data with string keys serializes");
        text.push('\n');
        inner
            .file
            .write_all(text.as_bytes())
            .map_err(io("write", &self.path))?;
        inner.file.sync_data().map_err(io("sync", &self.path))
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

/// Reads what is still there and the next id; a last line without its newline does not count.
fn replay(path: &Path, text: &str) -> Result<(Vec<(u64, Item)>, u64)> {
    let whole = text.rfind('\n').map_or("", |at| &text[..=at]);
    let mut live: Vec<(u64, Item)> = Vec::new();
    let mut next = 0;
    for (number, line) in whole.lines().enumerate() {
        let line: Line = serde_json::from_str(line).map_err(|error| Error::Damaged {
            path: path.to_owned(),
            line: number + 1,
            message: error.to_string(),
        })?;
        match line {
            Line::Made { id, item } => {
                next = next.max(id + 1);
                live.push((id, item));
            }
            Line::Gone { id } => live.retain(|(made, _)| *made != id),
        }
    }
    Ok((live, next))
}

fn undo_item(item: &Item) -> Result<()> {
    match item {
        Item::Mount { point } => mounts::unmount_all(point),
        Item::Directory { path } => remove_directory(path),
        Item::Netns { name } => network::delete_netns(name),
        Item::Link { name } => network::delete_link(name),
        Item::NftTable { name } => network::delete_table(name),
        Item::Cgroup { path } => {
            let group = Group::new(Hierarchies::detect()?, path);
            group.kill()?;
            group.remove()
        }
        Item::Sysctl { name, previous } => network::set_sysctl(name, previous),
    }
}

/// Removes the empty groups above a removed one.
fn remove_empty_groups(item: &Item) -> Result<()> {
    if let Item::Cgroup { path } = item {
        cgroup::remove_empty_parents(&Hierarchies::detect()?, path);
    }
    Ok(())
}

/// Removes a folder after unmounting whatever is mounted in it.
fn remove_directory(path: &Path) -> Result<()> {
    mounts::unmount_all(path)?;
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path) -> Item {
        Item::Directory {
            path: path.to_owned(),
        }
    }

    #[test]
    fn everything_is_removed_after_a_crash_in_the_middle_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let (path, made) = (dir.path().join("ledger.jsonl"), dir.path().join("made/deep"));
        let ledger = Ledger::open(&path).unwrap();
        ledger.record(folder(&made)).unwrap();
        ledger.record(folder(&made)).unwrap();
        fs::create_dir_all(&made).unwrap();
        mounts::bind(dir.path(), &made).unwrap();
        drop(ledger);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"made\":{\"id\":1,\"it").unwrap();

        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.items(), [folder(&made)]);
        assert!(ledger.undo().unwrap().is_empty());
        assert!(!made.exists() && path.exists());
        assert!(Ledger::open(&path).unwrap().items().is_empty());
    }

    #[test]
    fn damage_in_the_middle_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        fs::write(&path, "{\"gone\":{\"id\":1}}\nnonsense\n").unwrap();
        let error = Ledger::open(&path).unwrap_err();
        assert!(
            error.to_string().contains("line 2 is damaged: expected"),
            "{error}"
        );
    }
}
