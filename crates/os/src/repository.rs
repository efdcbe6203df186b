//! An ostree repository, through the `ostree` program.

use std::fs;
use std::path::{Path, PathBuf};

use mainstay_host::command::{Program, program};

use crate::error::{Error, Result, host, io};

/// Time stamp of every commit: equal trees shall be equal commits, whenever they are made (2025-01-01).
const COMMIT_TIME: &str = "2025-01-01T00:00:00Z";

/// How a repository keeps file content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As files that deployments are hard links of.
    Bare,
    /// Compressed, to be served over HTTP.
    Archive,
}

/// A repository on disk.
#[derive(Debug, Clone)]
pub struct Repository {
    path: PathBuf,
}

/// What goes into a commit, later layers over earlier ones.
#[derive(Debug, Clone)]
pub enum Layer<'a> {
    /// The tree of a commit that is in the repository.
    Commit(&'a str),
    /// A folder.
    Folder(&'a Path),
}

impl Repository {
    /// Opens the repository, making it first when it is not there.
    pub fn open(path: &Path, mode: Mode) -> Result<Repository> {
        let repository = Repository {
            path: path.to_owned(),
        };
        if !path.join("config").exists() {
            fs::create_dir_all(path).map_err(io("create", path))?;
            let mode = match mode {
                Mode::Bare => "bare",
                Mode::Archive => "archive",
            };
            repository.run(
                repository.ostree("init").arg(format!("--mode={mode}")),
                "make the repository",
            )?;
        }
        Ok(repository)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ostree(&self, command: &str) -> Program {
        program("ostree")
            .arg(command)
            .arg(format!("--repo={}", self.path.display()))
    }

    fn run(&self, program: Program, operation: &'static str) -> Result<String> {
        program
            .run()
            .map(|text| text.trim().to_owned())
            .map_err(host(operation))
    }

    /// The commit of a ref (or of a commit id); `None` when the repository does not have it.
    pub fn resolve(&self, name: &str) -> Option<String> {
        let commit = self.ostree("rev-parse").arg(name).run().ok()?.trim().to_owned();
        self.has(&commit).then_some(commit)
    }

    fn has(&self, commit: &str) -> bool {
        commit.len() == 64
            && self
                .path
                .join(format!("objects/{}/{}.commit", &commit[..2], &commit[2..]))
                .exists()
    }

    /// Writes a commit to a branch and returns its id. The same layers give the same id.
    pub fn commit(&self, branch: &str, layers: &[Layer<'_>], signing_key: Option<&str>) -> Result<String> {
        let trees = layers.iter().map(|layer| match layer {
            Layer::Commit(commit) => format!("--tree=ref={commit}"),
            Layer::Folder(folder) => format!("--tree=dir={}", folder.display()),
        });
        // No owner filter: with one, ostree reads every file of the lower layers again.
        let program = self
            .ostree("commit")
            .args([
                format!("--branch={branch}"),
                "--parent=none".to_owned(),
                format!("--timestamp={COMMIT_TIME}"),
            ])
            .args(trees)
            .args(signing_key.map(|key| format!("--gpg-sign={key}")));
        self.run(program, "write the commit")
    }

    /// Checks a commit out as hard links into a folder that does not exist yet.
    pub fn checkout(&self, commit: &str, folder: &Path) -> Result<()> {
        if !self.has(commit) {
            return Err(Error::NoCommit {
                commit: commit.to_owned(),
            });
        }
        self.run(
            self.ostree("checkout").arg("-H").arg(commit).arg(folder),
            "check the commit out",
        )
        .map(drop)
    }

    /// Copies commits from another repository on this host.
    pub fn pull_local(&self, from: &Repository, commits: &[&str]) -> Result<()> {
        let program = self.ostree("pull-local").arg(from.path()).args(commits);
        self.run(program, "copy commits between repositories").map(drop)
    }

    /// Brings the summary file up to date, which clients list the branches from.
    pub fn update_summary(&self) -> Result<()> {
        self.run(self.ostree("summary").arg("-u"), "update the summary")
            .map(drop)
    }

    /// Points a branch at a commit.
    pub fn set_ref(&self, branch: &str, commit: &str) -> Result<()> {
        let program = self
            .ostree("refs")
            .arg("--force")
            .arg(format!("--create={branch}"))
            .arg(commit);
        self.run(program, "set the branch").map(drop)
    }

    /// All branches.
    pub fn refs(&self) -> Result<Vec<String>> {
        let text = self.run(self.ostree("refs"), "list the branches")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Removes a branch; its objects go with the next [`Repository::prune`].
    pub fn delete_ref(&self, branch: &str) -> Result<()> {
        self.run(
            self.ostree("refs").arg("--delete").arg(branch),
            "delete the branch",
        )
        .map(drop)
    }

    /// Removes what no branch reaches.
    pub fn prune(&self) -> Result<()> {
        self.run(self.ostree("prune").arg("--refs-only"), "prune the repository")
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_layers_are_equal_commits_and_check_out() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::open(&dir.path().join("repo"), Mode::Bare).unwrap();
        let (base, agent) = (dir.path().join("base"), dir.path().join("agent"));
        for (folder, text) in [(&base, "1"), (&agent, "2")] {
            fs::create_dir_all(folder.join("usr/bin")).unwrap();
            fs::write(folder.join("usr/bin/x"), text).unwrap();
        }
        fs::write(base.join("usr/bin/y"), "y").unwrap();
        let base = repository.commit("base", &[Layer::Folder(&base)], None).unwrap();
        let first = repository
            .commit("node", &[Layer::Commit(&base), Layer::Folder(&agent)], None)
            .unwrap();
        let second = repository
            .commit("node", &[Layer::Commit(&base), Layer::Folder(&agent)], None)
            .unwrap();
        assert_eq!(first, second);
        assert_eq!(repository.resolve("node"), Some(first.clone()));
        assert_eq!(repository.resolve("nothing"), None);

        let out = dir.path().join("out");
        repository.checkout(&first, &out).unwrap();
        assert_eq!(fs::read_to_string(out.join("usr/bin/x")).unwrap(), "2");
        assert_eq!(fs::read_to_string(out.join("usr/bin/y")).unwrap(), "y");
        assert!(matches!(
            repository.checkout("ab", &out),
            Err(Error::NoCommit { .. })
        ));
    }
}
