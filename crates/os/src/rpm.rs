//! rpm-md sources: resolving and downloading with dnf, installing from the snapshot's files.

use std::fs;
use std::path::{Path, PathBuf};

use mainstay_host::command::{Program, program};

use crate::deb::SOURCE_DATE_EPOCH;
use crate::digest;
use crate::error::{Error, Result, host, io};
use crate::snapshot::{Package, Pool};
use crate::treefile::{Source, Treefile};

/// Where the package database lies in the tree. Debian's rpm would put it below the superuser's home.
const DATABASE: &str = "/usr/share/rpm";

/// Asks the repositories which packages the treefile means, and downloads them.
pub(crate) fn resolve(treefile: &Treefile, pool: &Pool, work: &Path, log: &Path) -> Result<Vec<Package>> {
    let downloads = work.join("downloads");
    let dnf = dnf(treefile, work, &treefile.sources, log)?;
    dnf.args(["install", "--downloadonly"])
        .arg(format!("--downloaddir={}", downloads.display()))
        .args(&treefile.packages)
        .run()
        .map_err(host("resolve the packages"))?;
    let files = files_below(&downloads)?;
    let digests = digest::of_files(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    let packages: Vec<Package> = files
        .iter()
        .zip(digests)
        .map(|(file, sha256)| describe(file, sha256))
        .collect::<Result<_>>()?;
    pool.admit(&files.into_iter().zip(&packages).collect::<Vec<_>>())?;
    Ok(packages)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(io("read", folder))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rpm"));
    files.sort();
    Ok(files)
}

fn describe(file: &Path, sha256: String) -> Result<Package> {
    let format = "%{NAME} %{EVR} %{ARCH}";
    let program = program("rpm")
        .args(["-qp", "--nosignature", "--queryformat", format])
        .arg(file);
    let text = program.run().map_err(host("read a package's header"))?;
    let [name, version, arch] = text.split(' ').collect::<Vec<_>>()[..] else {
        return Err(Error::Answer {
            program: "rpm",
            message: text,
        });
    };
    let size_bytes = fs::metadata(file).map_err(io("read", file))?.len();
    let (name, version, arch) = (name.to_owned(), version.to_owned(), arch.to_owned());
    Ok(Package {
        name,
        version,
        arch,
        sha256,
        size_bytes,
        record: String::new(),
    })
}

/// dnf with a configuration of its own: nothing of the host's counts.
fn dnf(treefile: &Treefile, work: &Path, sources: &[Source], log: &Path) -> Result<Program> {
    let repos = work.join("repos");
    for folder in [&repos, &work.join("dnf-log")] {
        fs::create_dir_all(folder).map_err(io("create", folder))?;
    }
    let path = repos.join("all.repo");
    fs::write(&path, repo_file(sources)).map_err(io("write", &path))?;
    let config = work.join("dnf.conf");
    fs::write(&config, "[main]\ninstall_weak_deps=0\nplugins=0\n").map_err(io("write", &config))?;
    let mut options = vec![
        format!("--config={}", config.display()),
        format!("--installroot={}", work.join("root").display()),
        format!("--setopt=reposdir={}", repos.display()),
        format!("--setopt=cachedir={}", work.join("dnf-cache").display()),
        format!("--setopt=logdir={}", work.join("dnf-log").display()),
        format!("--setopt=persistdir={}", work.join("dnf-state").display()),
        format!("--releasever={}", treefile.releasever.as_deref().unwrap_or("1")),
        "--assumeyes".to_owned(),
        "--quiet".to_owned(),
    ];
    options.extend(treefile.arch.iter().map(|arch| format!("--forcearch={arch}")));
    options.extend(treefile.exclude.iter().map(|name| format!("--exclude={name}")));
    options.extend((!treefile.documentation).then(|| "--nodocs".to_owned()));
    Ok(program("dnf")
        .args(options)
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .log_to(log))
}

fn repo_file(sources: &[Source]) -> String {
    let section = |source: &Source| {
        let check = match &source.signed_by {
            Some(key) => format!("gpgcheck=1\ngpgkey=file://{}\n", key.display()),
            None => "gpgcheck=0\n".to_owned(),
        };
        format!(
            "[{0}]\nname={0}\nbaseurl={1}\nenabled=1\n{check}\n",
            source.name, source.url
        )
    };
    sources.iter().map(section).collect()
}

/// Installs the snapshot's packages into an empty folder.
pub(crate) fn install(
    treefile: &Treefile,
    packages: &[Package],
    pool: &Pool,
    work: &Path,
    log: &Path,
) -> Result<PathBuf> {
    let files = work.join("files");
    fs::create_dir_all(&files).map_err(io("create", &files))?;
    let mut arguments = Vec::new();
    for package in packages {
        let file = files.join(format!("{}-{}.rpm", package.name, package.sha256));
        fs::hard_link(pool.file(&package.sha256), &file).map_err(io("link", &file))?;
        arguments.push(file);
    }
    let root = work.join("root");
    fs::create_dir_all(&root).map_err(io("create", &root))?;
    // All packages are given as files, so rpm needs no repository and no network.
    program("rpm")
        .args(["--install", "--nosignature"])
        .args((!treefile.documentation).then_some("--excludedocs"))
        .arg(format!("--root={}", root.display()))
        .args(["--define", &format!("_dbpath {DATABASE}")])
        .args(["--define", "_use_weak_usergroup_deps 1"])
        .args(arguments)
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .log_to(log)
        .run()
        .map_err(host("install the packages"))?;
    for folder in ["etc", "usr"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
    }
    Ok(root)
}
