//! Deployments on this host: read-only trees that machines have as their root, one per commit.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::agent::{IMAGE_FACTS, ImageFacts};
use crate::compose::{COMMIT_BRANCHES, Store, lock};
use crate::error::{Error, Result, io};

impl Store {
    fn deployments(&self) -> PathBuf {
        self.folder().join("deploy")
    }

    /// The tree of a commit, checked out when it is not there yet. It is shared: nothing may write into it.
    pub fn deploy(&self, commit: &str) -> Result<PathBuf> {
        let tree = self.deployments().join(commit);
        if tree.exists() {
            return Ok(tree);
        }
        // One checkout at a time: machines of one image often start together.
        fs::create_dir_all(self.deployments()).map_err(io("create", self.deployments()))?;
        let _lock = lock(&self.folder().join("deploy.lock"))?;
        if tree.exists() {
            return Ok(tree);
        }
        let repository = self.repository()?;
        let part = self.deployments().join(format!("{commit}.part"));
        if part.exists() {
            fs::remove_dir_all(&part).map_err(io("remove", &part))?;
        }
        repository.checkout(commit, &part)?;
        // Where a machine's own /etc is mounted; a commit has only /usr/etc.
        let etc = part.join("etc");
        fs::create_dir_all(&etc).map_err(io("create", &etc))?;
        fs::rename(&part, &tree).map_err(io("rename", &part))?;
        Ok(tree)
    }

    /// What the image of a commit says of itself.
    pub fn facts(&self, commit: &str) -> Result<ImageFacts> {
        let path = self.deploy(commit)?.join(IMAGE_FACTS);
        let bytes = fs::read(&path).map_err(io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Answer {
            program: "image.json",
            message: error.to_string(),
        })
    }

    /// Removes the deployments and commits that are not in use, but for the newest `spare` ones of each.
    ///
    /// # Errors
    /// When something cannot be removed; the rest stays as it is.
    pub fn retain(&self, in_use: &BTreeSet<String>, spare: usize) -> Result<Vec<String>> {
        let unused = |name: &String| !in_use.contains(name);
        let mut removed = Vec::new();
        for commit in newest_first(&self.deployments(), Some("etc"))?
            .into_iter()
            .filter(unused)
            .skip(spare)
        {
            let tree = self.deployments().join(&commit);
            fs::remove_dir_all(&tree).map_err(io("remove", &tree))?;
            removed.push(commit);
        }
        let repository = self.repository()?;
        let branches = repository.path().join("refs/heads").join(COMMIT_BRANCHES);
        let old: Vec<String> = newest_first(&branches, None)?
            .into_iter()
            .filter(unused)
            .skip(spare)
            .collect();
        for commit in &old {
            repository.delete_ref(&format!("{COMMIT_BRANCHES}/{commit}"))?;
        }
        if !old.is_empty() {
            repository.prune()?;
        }
        Ok(removed)
    }
}

/// Names in a folder, newest first by their own time, or by that of `probe` within each.
fn newest_first(folder: &Path, probe: Option<&str>) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("read", folder)(error)),
    };
    let made_at = |path: &Path| probe.map_or(path.to_owned(), |probe| path.join(probe));
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((fs::metadata(made_at(&entry.path())).ok()?.modified().ok()?, entry)))
        .map(|(made, entry)| (made, entry.file_name().to_string_lossy().into_owned()))
        .collect();
    found.sort();
    Ok(found.into_iter().rev().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_in_use_and_the_newest_spare_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        for (age, commit) in ["a", "b", "c", "d"].iter().enumerate() {
            let etc = dir.path().join("deploy").join(commit).join("etc");
            fs::create_dir_all(&etc).unwrap();
            let made = std::time::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            fs::File::open(&etc).unwrap().set_modified(made).unwrap();
        }
        let in_use = BTreeSet::from(["a".to_owned()]);
        assert_eq!(store.retain(&in_use, 1).unwrap(), ["c", "b"]);
        assert_eq!(store.retain(&in_use, 1).unwrap(), Vec::<String>::new());
    }
}
