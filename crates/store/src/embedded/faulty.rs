//! A disk for tests: remembers what was synced, and tears, flips or refuses on demand.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::media::{Media, MediaFile, SPARES, spare_name};

/// What a disk writes at once.
const SECTOR: usize = 512;

#[derive(Debug, Default, Clone)]
pub(crate) struct Image {
    /// What is durable.
    pub bytes: Vec<u8>,
    /// What was written since the last sync.
    unsynced: Vec<(u64, Vec<u8>)>,
}

impl Image {
    fn seen(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        self.unsynced
            .iter()
            .for_each(|(offset, data)| place(&mut bytes, *offset, data));
        bytes
    }
}

fn place(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + data.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// By name.
    pub files: BTreeMap<String, Image>,
    /// Fail this and every later write with "no space left".
    pub full: bool,
    /// Fail the sync after this many good ones, then every later one.
    pub syncs_left: Option<u32>,
    /// Syncs asked for so far.
    pub syncs: u32,
    /// Files that were made of retired ones.
    pub reused: u32,
}

impl Disk {
    fn spares(&self) -> Vec<String> {
        let names = self.files.keys();
        names.filter(|name| name.ends_with(".spare")).cloned().collect()
    }
}

/// A handle to the disk; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faulty(Arc<Mutex<Disk>>);

impl Faulty {
    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    /// A disk that holds these files.
    pub(crate) fn of(files: BTreeMap<String, Vec<u8>>) -> Faulty {
        let image = |bytes| Image {
            bytes,
            unsynced: Vec::new(),
        };
        let files = files
            .into_iter()
            .map(|(name, bytes)| (name, image(bytes)))
            .collect();
        Faulty(Arc::new(Mutex::new(Disk {
            files,
            ..Disk::default()
        })))
    }

    /// The files as they are durable now.
    pub(crate) fn durable(&self) -> BTreeMap<String, Vec<u8>> {
        self.disk()
            .files
            .iter()
            .map(|(name, image)| (name.clone(), image.bytes.clone()))
            .collect()
    }

    /// The disk after a power loss: of what was not synced, any sectors may have arrived.
    pub(crate) fn after_power_loss(&self, rng: &mut fastrand::Rng) -> Faulty {
        let mut files = BTreeMap::new();
        for (name, image) in &self.disk().files {
            let mut bytes = image.bytes.clone();
            for (offset, data) in &image.unsynced {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if rng.bool() {
                        place(&mut bytes, offset + (index * SECTOR) as u64, sector);
                    }
                }
            }
            files.insert(name.clone(), bytes);
        }
        Faulty::of(files)
    }
}

impl Media for Faulty {
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.disk().files.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> Result<Box<dyn MediaFile>> {
        let mut disk = self.disk();
        let spare = disk.spares().pop();
        let image = spare.and_then(|spare| disk.files.remove(&spare));
        disk.reused += u32::from(image.is_some());
        disk.files.insert(name.to_string(), image.unwrap_or_default());
        drop(disk);
        self.open(name)
    }

    fn open(&self, name: &str) -> Result<Box<dyn MediaFile>> {
        Ok(Box::new(FaultyFile {
            disk: self.clone(),
            name: name.to_string(),
        }))
    }

    fn retire(&mut self, name: &str) -> Result<()> {
        let mut disk = self.disk();
        let image = disk.files.remove(name);
        let keeps = disk.spares().len() < SPARES;
        if let (Some(spare), Some(image), true) = (spare_name(name), image, keeps) {
            disk.files.insert(spare, image);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        self.disk().files.remove(name);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("disk").join(name)
    }
}

struct FaultyFile {
    disk: Faulty,
    name: String,
}

impl FaultyFile {
    fn with<T>(&self, act: impl FnOnce(&mut Image) -> T) -> T {
        act(self
            .disk
            .disk()
            .files
            .get_mut(&self.name)
            .expect("the file exists"))
    }
}

impl MediaFile for FaultyFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.disk.disk().full {
            return Err(Error::from_raw_os_error(28));
        }
        self.with(|image| image.unsynced.push((offset, bytes.to_vec())));
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        let bytes = self.with(|image| image.seen());
        let there = bytes.get(offset as usize..).unwrap_or_default();
        let count = there.len().min(into.len());
        into[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn sync(&mut self) -> Result<()> {
        let mut disk = self.disk.disk();
        if disk.syncs_left == Some(0) {
            return Err(Error::from_raw_os_error(5));
        }
        disk.syncs += 1;
        disk.syncs_left = disk.syncs_left.map(|left| left - 1);
        drop(disk);
        self.with(|image| {
            image.bytes = image.seen();
            image.unsynced.clear();
        });
        Ok(())
    }

    fn reserve(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn length(&self) -> Result<u64> {
        Ok(self.with(|image| image.seen().len()) as u64)
    }

    fn truncate(&mut self, length: u64) -> Result<()> {
        self.with(|image| {
            image.bytes = image.seen();
            image.unsynced.clear();
            image.bytes.resize(length as usize, 0);
        });
        Ok(())
    }
}
