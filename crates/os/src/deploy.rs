//! Deployments on this host: read-only trees that machines have as their root, one per commit; and which of them,
//! and of the commits, are kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::agent::{IMAGE_FACTS, ImageFacts};
use crate::compose::{BASE_BRANCHES, COMMIT_BRANCHES, Store, lock};
use crate::error::{Error, Result, io};

/// How much is kept besides what is in use, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare {
    /// Deployments. They are hard links to the repository, but hold its files back from being pruned.
    pub deployments: usize,
    /// Commits.
    pub commits: usize,
    /// Base layers: packages without an agent, so that a new agent does not install them again.
    pub bases: usize,
}

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
        let _lock = self.lock_deployments()?;
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

    fn lock_deployments(&self) -> Result<fs::File> {
        lock(&self.folder().join("deploy.lock"))
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

    /// Removes the deployments and commits that are not in use, but for the newest spare ones, and base layers that
    /// are not among the newest. Waits for a compose or a checkout under way. Tells which deployments went.
    ///
    /// # Errors
    /// When something cannot be removed; the rest stays as it is.
    pub fn retain(&self, in_use: &BTreeSet<String>, spare: Spare) -> Result<Vec<String>> {
        let _composing = self.turn()?;
        let _deploying = self.lock_deployments()?;
        let unused = |name: &String| !in_use.contains(name);
        let deployed = newest_first(&self.deployments(), Some("etc"))?;
        let removed: Vec<String> = deployed
            .into_iter()
            .filter(unused)
            .skip(spare.deployments)
            .collect();
        for commit in &removed {
            let tree = self.deployments().join(commit);
            fs::remove_dir_all(&tree).map_err(io("remove", &tree))?;
        }
        let repository = self.repository()?;
        let branches = |name: &str| newest_first(&repository.path().join("refs/heads").join(name), None);
        let commits = branches(COMMIT_BRANCHES)?.into_iter().filter(unused);
        let commits = commits
            .skip(spare.commits)
            .map(|commit| format!("{COMMIT_BRANCHES}/{commit}"));
        let bases = branches(BASE_BRANCHES)?.into_iter().skip(spare.bases);
        let old: Vec<String> = commits
            .chain(bases.map(|base| format!("{BASE_BRANCHES}/{base}")))
            .collect();
        for branch in &old {
            repository.delete_ref(branch)?;
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
        let spare = Spare {
            deployments: 1,
            commits: 1,
            bases: 1,
        };
        assert_eq!(store.retain(&in_use, spare).unwrap(), ["c", "b"]);
        assert_eq!(store.retain(&in_use, spare).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn commits_in_use_and_the_newest_spare_and_bases_stay_and_the_rest_is_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let repository = store.repository().unwrap();
        let commit = |text: &str, age: u64| {
            let folder = dir.path().join("layer").join(text);
            fs::create_dir_all(folder.join("usr")).unwrap();
            fs::write(folder.join("usr/x"), text).unwrap();
            let commit = repository
                .commit("branch", &[crate::repository::Layer::Folder(&folder)], None)
                .unwrap();
            for branch in [
                format!("{COMMIT_BRANCHES}/{commit}"),
                format!("{BASE_BRANCHES}/{text}"),
            ] {
                repository.set_ref(&branch, &commit).unwrap();
                let made = std::time::UNIX_EPOCH + std::time::Duration::from_secs(age);
                let file = repository.path().join("refs/heads").join(branch);
                fs::File::open(file).unwrap().set_modified(made).unwrap();
            }
            commit
        };
        let commits: Vec<String> = (0..4)
            .map(|n| commit(&format!("text {n}").replace(' ', ""), n))
            .collect();
        let spare = Spare {
            deployments: 0,
            commits: 1,
            bases: 1,
        };
        store
            .retain(&BTreeSet::from([commits[0].clone()]), spare)
            .unwrap();
        let kept = |commit: &String| repository.resolve(commit).is_some();
        assert_eq!(
            commits.iter().map(kept).collect::<Vec<_>>(),
            [true, false, false, true]
        );
        let refs = repository.refs().unwrap();
        assert_eq!(
            refs.iter().filter(|name| name.starts_with(BASE_BRANCHES)).count(),
            1
        );
    }
}
