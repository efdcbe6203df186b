//! The snapshot of package sources: exactly which packages a compose installs, by content.
//!
//! A lock lists them; the files lie in a pool by their digest. The same treefile and lock give the same
//! `inputsDigest`, and with it the same base commit, also when the archives have moved on.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Error, Result, io};
use crate::treefile::Treefile;

/// Version of what composing does to a tree: a change of the code that changes trees raises it.
const COMPOSE_FORMAT: u32 = 1;

/// Whether the packages resolved last time are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Use the lock of this treefile when there is one; resolve otherwise.
    Pinned,
    /// Ask the archives now.
    Latest,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub arch: String,
    /// Digest of the package file.
    pub sha256: String,
    /// Size of the package file.
    pub size_bytes: u64,
    /// Its record in the archive's index, which a local index is made of again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub record: String,
}

/// What a treefile resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// Digest of the treefile.
    pub treefile_digest: String,
    /// All packages, by name.
    pub packages: Vec<Package>,
}

impl Lock {
    /// Makes a lock of resolved packages.
    pub fn new(treefile: &Treefile, mut packages: Vec<Package>) -> Lock {
        packages.sort();
        Lock {
            treefile_digest: treefile_digest(treefile),
            packages,
        }
    }

    /// Digest of all that the base layer is made of.
    pub fn inputs_digest(&self) -> String {
        let packages = self
            .packages
            .iter()
            .map(|p| format!("{} {} {} {}\n", p.name, p.version, p.arch, p.sha256));
        let text: String = packages.collect();
        digest::of_bytes(format!("{COMPOSE_FORMAT}\n{}\n{text}", self.treefile_digest).as_bytes())
    }

    /// The version of one package.
    pub fn version(&self, name: &str) -> Option<&str> {
        self.packages
            .iter()
            .find(|package| package.name == name)
            .map(|package| package.version.as_str())
    }
}

/// Digest of what a treefile says of its content, whatever its form: branch and signature are no content.
pub fn treefile_digest(treefile: &Treefile) -> String {
    let content = Treefile {
        branch: String::new(),
        gpg_key: None,
        ..treefile.clone()
    };
    let bytes = serde_json::to_vec(&content).expect("a treefile is plain data with string keys");
    digest::of_bytes(&bytes)
}

/// Locks and package files of one cache directory.
#[derive(Debug, Clone)]
pub struct Pool {
    folder: PathBuf,
}

impl Pool {
    /// Uses this directory.
    pub fn new(folder: &Path) -> Pool {
        Pool {
            folder: folder.to_owned(),
        }
    }

    /// Where a package file lies, or will.
    pub fn file(&self, sha256: &str) -> PathBuf {
        self.folder.join("files").join(sha256)
    }

    /// The lock that was made of this treefile, when all its files are still here.
    pub fn lock(&self, treefile: &Treefile) -> Result<Option<Lock>> {
        let path = self.lock_path(&treefile_digest(treefile));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", &path)(error)),
        };
        // A lock of an older form is resolved again.
        let lock = serde_json::from_slice::<Lock>(&bytes).ok();
        Ok(lock.filter(|lock| {
            lock.packages
                .iter()
                .all(|package| self.file(&package.sha256).exists())
        }))
    }

    /// Keeps a lock.
    pub fn save(&self, lock: &Lock) -> Result<()> {
        let path = self.lock_path(&lock.treefile_digest);
        let bytes = serde_json::to_vec_pretty(lock).expect("a lock is plain data with string keys");
        write(&path, &bytes)
    }

    /// Takes package files in, after checking that each is what was resolved.
    pub fn admit(&self, files: &[(PathBuf, &Package)]) -> Result<()> {
        let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
        let found = digest::of_files(&paths)?;
        for ((path, package), found) in files.iter().zip(found) {
            if found != package.sha256 {
                let (package, expected) = (package.name.clone(), package.sha256.clone());
                return Err(Error::Digest {
                    package,
                    expected,
                    found,
                });
            }
            let target = self.file(&found);
            fs::create_dir_all(self.folder.join("files")).map_err(io("create", &self.folder))?;
            fs::rename(path, &target).map_err(io("move", path))?;
        }
        Ok(())
    }

    fn lock_path(&self, treefile_digest: &str) -> PathBuf {
        self.folder.join("locks").join(format!("{treefile_digest}.json"))
    }
}

/// Writes a file through a temporary one, so that a crash leaves the old or the new content.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io("create", folder))?;
    }
    let part = path.with_extension("part");
    fs::write(&part, bytes).map_err(io("write", &part))?;
    fs::rename(&part, path).map_err(io("rename", &part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, content: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            arch: "amd64".to_owned(),
            sha256: digest::of_bytes(content.as_bytes()),
            size_bytes: content.len() as u64,
            record: String::new(),
        }
    }

    #[test]
    fn a_lock_is_used_again_while_its_files_are_there_and_tampering_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path());
        let treefile = Treefile::parse("{ref: a, packages: [b]}").unwrap();
        let lock = Lock::new(&treefile, vec![package("z", "zz"), package("b", "bb")]);
        pool.save(&lock).unwrap();
        assert_eq!(pool.lock(&treefile).unwrap(), None);

        let file = dir.path().join("dl");
        fs::write(&file, "zz").unwrap();
        pool.admit(&[(file.clone(), &package("z", "zz"))]).unwrap();
        fs::write(&file, "evil").unwrap();
        let error = pool.admit(&[(file.clone(), &package("b", "bb"))]).unwrap_err();
        assert!(
            error.to_string().starts_with("package b has the digest"),
            "{error}"
        );
        fs::write(&file, "bb").unwrap();
        pool.admit(&[(file, &package("b", "bb"))]).unwrap();
        assert_eq!(pool.lock(&treefile).unwrap(), Some(lock));
    }

    #[test]
    fn the_inputs_digest_follows_treefile_and_packages_but_not_their_order() {
        let treefile = Treefile::parse("{ref: a, packages: [b]}").unwrap();
        let digest = |treefile: &Treefile, packages: &[Package]| {
            Lock::new(treefile, packages.to_vec()).inputs_digest()
        };
        let (b, c) = (package("b", "1"), package("c", "2"));
        let first = digest(&treefile, &[b.clone(), c.clone()]);
        assert_eq!(first, digest(&treefile, &[c, b.clone()]));
        assert_ne!(first, digest(&treefile, &[b.clone(), package("c", "3")]));
        let other = Treefile::parse("{ref: a, packages: [b, c]}").unwrap();
        assert_ne!(first, digest(&other, &[b, package("c", "2")]));
    }
}
