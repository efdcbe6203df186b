//! Composing: treefile → snapshot → tree → base commit → base and agent layer → the image's commit.
//!
//! Both commits are cached by what they are made of, so composing the same again costs a few digests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use mainstay_host::command::program;
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, ImageFacts};
use crate::error::{Error, Result, host, io};
use crate::repository::{Layer, Mode, Repository};
use crate::snapshot::{Lock, Policy, Pool, write};
use crate::treefile::{SourceKind, Treefile};
use crate::{deb, digest, host_sources, layout, rpm};

/// A branch per image keeps its commit until retention removes it.
pub(crate) const COMMIT_BRANCHES: &str = "mainstay/commit";
/// A branch per base layer, named by the digest of what it was made of.
pub(crate) const BASE_BRANCHES: &str = "mainstay/base";

/// Images of one data directory: the repository, the package cache and the deployments.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    cache: PathBuf,
    repository: PathBuf,
}

/// A composed image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Composed {
    /// The image's commit.
    pub commit: String,
    /// The image's account of itself.
    pub facts: ImageFacts,
    /// How many packages it has.
    pub packages: usize,
}

impl Store {
    /// Uses `folder` for the repository, the cache and the deployments; makes nothing yet.
    pub fn new(folder: &Path) -> Store {
        Store {
            folder: folder.to_owned(),
            cache: folder.join("cache"),
            repository: folder.join("repo"),
        }
    }

    /// Uses other places for cache and repository, as rpm-ostree's `--cachedir` and `--repo` do.
    #[must_use]
    pub fn with_paths(mut self, cache: Option<&Path>, repository: Option<&Path>) -> Store {
        self.cache = cache.map_or(self.cache, Path::to_owned);
        self.repository = repository.map_or(self.repository, Path::to_owned);
        self
    }

    /// The repository, made when it is not there.
    pub fn repository(&self) -> Result<Repository> {
        Repository::open(&self.repository, Mode::Bare)
    }

    /// The compressed copy of the repository that is served over HTTP, made when it is not there.
    pub fn published(&self) -> Result<Repository> {
        Repository::open(&self.folder.join("published"), Mode::Archive)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the programs that compose write what they do.
    pub fn log(&self) -> PathBuf {
        self.cache.join("compose.log")
    }

    /// Composes an image, from the cache where nothing has changed. One process composes at a time, others wait.
    ///
    /// # Errors
    /// Names the field when the treefile is at fault; the repository is unchanged then.
    pub fn compose(&self, treefile: &Treefile, policy: Policy, agent: &Agent) -> Result<Composed> {
        let treefile = &host_sources::resolved(treefile)?;
        let key = treefile.signing_key()?;
        treefile.source_kind()?;
        let _turn = self.turn()?;
        let lock = self.snapshot(treefile, policy)?;
        let repository = self.repository()?;
        let base = self.base(treefile, &lock, &repository)?;
        let facts = ImageFacts::of(treefile, &lock, &base, agent);
        let commit = self.image(treefile, &facts, agent, &repository, key)?;
        Ok(Composed {
            commit,
            facts,
            packages: lock.packages.len(),
        })
    }

    /// Composes the base alone, without an agent, as `mainstay os compose` does for any treefile.
    pub fn compose_base(&self, treefile: &Treefile, policy: Policy) -> Result<String> {
        let treefile = &host_sources::resolved(treefile)?;
        let key = treefile.signing_key()?;
        treefile.source_kind()?;
        let _turn = self.turn()?;
        let lock = self.snapshot(treefile, policy)?;
        let repository = self.repository()?;
        let base = self.base(treefile, &lock, &repository)?;
        repository.commit(&treefile.branch, &[Layer::Commit(&base)], key)
    }

    /// A fresh folder for one piece of work.
    fn work(&self, name: &str) -> Result<PathBuf> {
        let folder = self.cache.join("work").join(name);
        mainstay_host::mounts::unmount_all(&folder).map_err(host("clean the work folder"))?;
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(io("remove", &folder))?;
        }
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        Ok(folder)
    }

    fn snapshot(&self, treefile: &Treefile, policy: Policy) -> Result<Lock> {
        let pool = Pool::new(&self.cache);
        if let Some(lock) = pool.lock(treefile)?.filter(|_| policy == Policy::Pinned) {
            return Ok(lock);
        }
        let work = self.work("resolve")?;
        let packages = match treefile.source_kind()? {
            SourceKind::Deb => deb::resolve(treefile, &pool, &work, &self.log())?,
            SourceKind::RpmMd => rpm::resolve(treefile, &pool, &work, &self.log())?,
        };
        let lock = Lock::new(treefile, packages);
        pool.save(&lock)?;
        fs::remove_dir_all(&work).map_err(io("remove", &work))?;
        Ok(lock)
    }

    /// Waits for the turn to compose; it ends with the answer's life.
    pub(crate) fn turn(&self) -> Result<File> {
        fs::create_dir_all(&self.cache).map_err(io("create", &self.cache))?;
        lock(&self.cache.join("lock"))
    }

    fn base(&self, treefile: &Treefile, lock: &Lock, repository: &Repository) -> Result<String> {
        let branch = format!("{BASE_BRANCHES}/{}", lock.inputs_digest());
        if let Some(commit) = repository.resolve(&branch) {
            return Ok(commit);
        }
        let (pool, work) = (Pool::new(&self.cache), self.work("base")?);
        let root = match treefile.source_kind()? {
            SourceKind::Deb => deb::install(treefile, &lock.packages, &pool, &work, &self.log())?,
            SourceKind::RpmMd => rpm::install(treefile, &lock.packages, &pool, &work, &self.log())?,
        };
        self.finish_tree(treefile, &root)?;
        layout::to_ostree(&root)?;
        let commit = repository.commit(&branch, &[Layer::Folder(&root)], None)?;
        fs::remove_dir_all(&work).map_err(io("remove", &work))?;
        Ok(commit)
    }

    fn finish_tree(&self, treefile: &Treefile, root: &Path) -> Result<()> {
        for unit in &treefile.units {
            let program = program("systemctl")
                .arg(format!("--root={}", root.display()))
                .args(["enable", unit]);
            program.log_to(self.log()).run().map_err(host("enable a unit"))?;
        }
        for script in &treefile.postprocess {
            let program = program("chroot")
                .arg(root)
                .args(["/bin/sh", "-euc", script.as_str()]);
            program
                .log_to(self.log())
                .run()
                .map_err(host("run a postprocess script"))?;
        }
        Ok(())
    }

    fn image(
        &self,
        treefile: &Treefile,
        facts: &ImageFacts,
        agent: &Agent,
        repository: &Repository,
        signing_key: Option<&str>,
    ) -> Result<String> {
        let inputs = format!("{}\n{}\n{}", treefile.branch, facts.commit, agent.digest()?);
        let record = self
            .cache
            .join("images")
            .join(digest::of_bytes(inputs.as_bytes()));
        if let Some(commit) = fs::read_to_string(&record)
            .ok()
            .and_then(|commit| repository.resolve(&commit))
        {
            repository.set_ref(&treefile.branch, &commit)?;
            repository.set_ref(&format!("{COMMIT_BRANCHES}/{commit}"), &commit)?;
            return Ok(commit);
        }
        let layer = self.work("agent")?;
        agent.write_layer(&layer, facts, treefile)?;
        let layers = [Layer::Commit(&facts.commit), Layer::Folder(&layer)];
        let commit = repository.commit(&treefile.branch, &layers, signing_key)?;
        repository.set_ref(&format!("{COMMIT_BRANCHES}/{commit}"), &commit)?;
        fs::remove_dir_all(&layer).map_err(io("remove", &layer))?;
        write(&record, commit.as_bytes())?;
        Ok(commit)
    }

    /// Brings the served copy up to date with a branch.
    pub fn publish(&self, branch: &str) -> Result<()> {
        let (from, to) = (self.repository()?, self.published()?);
        if from.resolve(branch).is_none() {
            return Err(Error::NoCommit {
                commit: branch.to_owned(),
            });
        }
        to.pull_local(&from, &[branch])?;
        to.update_summary()
    }
}

/// Waits for the turn of this process (and thread) with a lock file; the turn ends with the answer's life.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(io("create", path))?;
    file.lock().map_err(io("lock", path))?;
    Ok(file)
}
