//! Debian sources: resolving with apt in a private state directory, installing with mmdebstrap from the snapshot.

use std::fs;
use std::path::{Path, PathBuf};

use mainstay_host::command::{Program, program};

use crate::digest;
use crate::error::{Error, Result, host, io};
use crate::snapshot::{Package, Pool};
use crate::treefile::{Source, Treefile};

/// Time stamps inside a tree that packages' scripts would take from the clock (2025-01-01).
pub(crate) const SOURCE_DATE_EPOCH: &str = "1735689600";

/// The `arch` of Debian on this kind of machine.
fn arch(treefile: &Treefile) -> &str {
    treefile.arch.as_deref().unwrap_or(match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    })
}

/// Asks the archives which packages the treefile means, and downloads those that the pool lacks.
pub(crate) fn resolve(treefile: &Treefile, pool: &Pool, work: &Path, log: &Path) -> Result<Vec<Package>> {
    let apt = Apt::prepare(treefile, work, log)?;
    apt.run("apt-get", &["update"])?;
    let wanted = apt.wanted(treefile);
    let uris = apt.run_args(
        "apt-get",
        [
            "-qq",
            "--print-uris",
            "-o",
            "Acquire::ForceHash=SHA256",
            "install",
        ],
        &wanted,
    )?;
    let files: Vec<Resolved> = uris.lines().filter_map(parse_uri).collect();
    if files.is_empty() {
        return Err(Error::Answer {
            program: "apt-get",
            message: "no packages to install".to_owned(),
        });
    }
    let names: Vec<String> = files
        .iter()
        .map(|file| format!("{}={}", file.name, file.version))
        .collect();
    let records = apt.run_args("apt-cache", ["show"], &names)?;
    let packages: Vec<Package> = files
        .iter()
        .map(|file| file.package(&records))
        .collect::<Result<_>>()?;
    apt.download(&wanted, &files, &packages, pool)?;
    Ok(packages)
}

/// apt with a state of its own: nothing of the host's configuration, lists or packages counts.
struct Apt {
    config: PathBuf,
    archives: PathBuf,
    log: PathBuf,
}

impl Apt {
    fn prepare(treefile: &Treefile, work: &Path, log: &Path) -> Result<Apt> {
        let state = work.join("apt");
        for folder in ["lists/partial", "archives/partial", "empty"] {
            let folder = state.join(folder);
            fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        }
        let write = |name: &str, text: &str| {
            let path = state.join(name);
            fs::write(&path, text).map_err(io("write", &path)).map(|()| path)
        };
        write("status", "")?;
        write("sources.list", &sources_list(&treefile.sources))?;
        write("preferences", &preferences(&treefile.exclude))?;
        let config = write("apt.conf", &apt_conf(&state, arch(treefile)))?;
        Ok(Apt {
            config,
            archives: state.join("archives"),
            log: log.to_owned(),
        })
    }

    fn program(&self, name: &str) -> Program {
        program(name)
            .env("APT_CONFIG", &self.config)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .log_to(&self.log)
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.program(name)
            .args(arguments)
            .run()
            .map_err(host("ask the package archives"))
    }

    fn run_args<const N: usize>(&self, name: &str, first: [&str; N], rest: &[String]) -> Result<String> {
        self.program(name)
            .args(first)
            .args(rest)
            .run()
            .map_err(host("resolve the packages"))
    }

    /// What to install: the distribution's essential packages, and the treefile's.
    fn wanted(&self, treefile: &Treefile) -> Vec<String> {
        let essential = std::iter::once("?essential".to_owned());
        essential.chain(treefile.packages.iter().cloned()).collect()
    }

    fn download(
        &self,
        wanted: &[String],
        files: &[Resolved],
        packages: &[Package],
        pool: &Pool,
    ) -> Result<()> {
        let missing: Vec<(&Resolved, &Package)> = files
            .iter()
            .zip(packages)
            .filter(|(_, package)| !pool.file(&package.sha256).exists())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        // What the pool has is put where apt looks for files it has downloaded before.
        for (file, package) in files.iter().zip(packages) {
            let (from, to) = (pool.file(&package.sha256), self.archives.join(&file.file));
            if from.exists() && !to.exists() {
                fs::hard_link(&from, &to).map_err(io("link", &to))?;
            }
        }
        self.run_args("apt-get", ["-qq", "--download-only", "install"], wanted)?;
        let downloaded = missing
            .iter()
            .map(|(file, package)| (self.archives.join(&file.file), *package));
        pool.admit(&downloaded.collect::<Vec<_>>())
    }
}

fn sources_list(sources: &[Source]) -> String {
    let line = |source: &Source, suite: &String| {
        let option = match &source.signed_by {
            Some(keyring) => format!("[signed-by={}]", keyring.display()),
            None => "[trusted=yes]".to_owned(),
        };
        format!(
            "deb {option} {} {suite} {}\n",
            source.url,
            source.components.join(" ")
        )
    };
    sources
        .iter()
        .flat_map(|source| source.suites.iter().map(move |suite| line(source, suite)))
        .collect()
}

fn preferences(exclude: &[String]) -> String {
    exclude
        .iter()
        .map(|name| format!("Package: {name}\nPin: release *\nPin-Priority: -1\n\n"))
        .collect()
}

fn apt_conf(state: &Path, arch: &str) -> String {
    let state = state.display();
    format!(
        "Dir::State \"{state}\";\nDir::State::lists \"{state}/lists\";\nDir::State::status \"{state}/status\";\n\
         Dir::Cache \"{state}\";\nDir::Cache::archives \"{state}/archives\";\n\
         Dir::Etc::main \"{state}/empty/none\";\nDir::Etc::parts \"{state}/empty\";\n\
         Dir::Etc::sourcelist \"{state}/sources.list\";\nDir::Etc::sourceparts \"{state}/empty\";\n\
         Dir::Etc::preferences \"{state}/preferences\";\nDir::Etc::preferencesparts \"{state}/empty\";\n\
         APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n\
         APT::Install-Recommends \"false\";\nAPT::Get::Assume-Yes \"true\";\nAPT::Sandbox::User \"root\";\n\
         APT::Keep-Downloaded-Packages \"true\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
         Acquire::http::Timeout \"30\";\n#clear DPkg::Post-Invoke;\n#clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Pre-Install-Pkgs;\n"
    )
}

/// A line of `apt-get --print-uris`.
#[derive(Debug, PartialEq, Eq)]
struct Resolved {
    name: String,
    version: String,
    file: String,
    sha256: String,
    size_bytes: u64,
}

fn parse_uri(line: &str) -> Option<Resolved> {
    let (_, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split(' ');
    let file = words.next()?.to_owned();
    let size_bytes = words.next()?.parse().ok()?;
    let sha256 = words.next()?.strip_prefix("SHA256:")?.to_owned();
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let name = parts.next()?.to_owned();
    let version = parts.next()?.replace("%3a", ":");
    Some(Resolved {
        name,
        version,
        file,
        sha256,
        size_bytes,
    })
}

impl Resolved {
    /// The package with its record, the one of the records that has its digest.
    fn package(&self, records: &str) -> Result<Package> {
        let own = format!("SHA256: {}", self.sha256);
        let record = records
            .split("\n\n")
            .find(|record| record.lines().any(|line| line == own));
        let record = record.ok_or_else(|| Error::Answer {
            program: "apt-cache",
            message: format!("no record of {} {}", self.name, self.version),
        })?;
        let arch = record
            .lines()
            .find_map(|line| line.strip_prefix("Architecture: "))
            .unwrap_or("all");
        Ok(Package {
            name: self.name.clone(),
            version: self.version.clone(),
            arch: arch.to_owned(),
            sha256: self.sha256.clone(),
            size_bytes: self.size_bytes,
            record: shortened(record),
        })
    }
}

/// A record without the fields that no installation reads.
fn shortened(record: &str) -> String {
    const DROPPED: [&str; 7] = [
        "Filename",
        "Built-Using",
        "Tag",
        "Description-md5",
        "Homepage",
        "Maintainer",
        "MD5sum",
    ];
    let mut keep = true;
    let kept = record.lines().filter(|line| {
        if !line.starts_with(' ') {
            keep = !line
                .split_once(':')
                .is_some_and(|(field, _)| DROPPED.contains(&field));
        }
        keep && !line.is_empty()
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Installs the snapshot's packages into an empty folder.
pub(crate) fn install(
    treefile: &Treefile,
    packages: &[Package],
    pool: &Pool,
    work: &Path,
    log: &Path,
) -> Result<PathBuf> {
    let archive = local_archive(treefile, packages, pool, work)?;
    let root = work.join("root");
    program("mmdebstrap")
        .args([
            "--mode=root",
            "--variant=essential",
            "--format=directory",
            "--quiet",
        ])
        .arg(format!("--architectures={}", arch(treefile)))
        .arg(format!("--include={}", treefile.packages.join(",")))
        .args(documentation(treefile))
        .arg(suite(treefile))
        .arg(&root)
        .arg(format!("deb [trusted=yes] copy:{} ./", archive.display()))
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .env("LC_ALL", "C.UTF-8")
        .log_to(log)
        .run()
        .map_err(host("install the packages"))?;
    Ok(root)
}

/// What dpkg leaves out, unless documentation is wanted.
fn documentation(treefile: &Treefile) -> Vec<String> {
    const LEFT_OUT: [&str; 5] = [
        "/usr/share/doc/*",
        "/usr/share/man/*",
        "/usr/share/locale/*",
        "/usr/share/info/*",
        "/usr/share/lintian/*",
    ];
    if treefile.documentation {
        return Vec::new();
    }
    LEFT_OUT
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}"))
        .collect()
}

/// A flat archive of exactly the snapshot's packages, its files linked from the pool.
fn local_archive(treefile: &Treefile, packages: &[Package], pool: &Pool, work: &Path) -> Result<PathBuf> {
    let archive = work.join("archive");
    fs::create_dir_all(&archive).map_err(io("create", &archive))?;
    let mut index = String::new();
    for package in packages {
        let name = format!("{}.deb", package.sha256);
        let file = archive.join(&name);
        fs::hard_link(pool.file(&package.sha256), &file).map_err(io("link", &file))?;
        index.push_str(&format!("{}\nFilename: ./{name}\n\n", package.record));
    }
    let path = archive.join("Packages");
    fs::write(&path, &index).map_err(io("write", &path))?;
    let path = archive.join("Release");
    fs::write(&path, release(&index, suite(treefile))).map_err(io("write", &path))?;
    Ok(archive)
}

/// The archive's head. Without the suite's name in it mmdebstrap finds no essential packages.
fn release(index: &str, suite: &str) -> String {
    let (digest, size) = (digest::of_bytes(index.as_bytes()), index.len());
    format!(
        "Suite: {suite}\nCodename: {suite}\nDate: Wed, 01 Jan 2025 00:00:00 UTC\nSHA256:\n {digest} {size} Packages\n"
    )
}

/// The release that the packages are of.
fn suite(treefile: &Treefile) -> &str {
    treefile.releasever.as_deref().unwrap_or("stable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_line_gives_name_epoch_and_digest() {
        let line = "'http://d/p/libc/libcap2/libcap2_2.66_amd64.deb' libcap2_1%3a2.66-4+b1_amd64.deb 27708 SHA256:ab";
        let found = parse_uri(line).unwrap();
        assert_eq!(
            (found.name.as_str(), found.version.as_str()),
            ("libcap2", "1:2.66-4+b1")
        );
        assert_eq!((found.size_bytes, found.sha256.as_str()), (27708, "ab"));
        assert_eq!(parse_uri("Reading package lists..."), None);
    }

    #[test]
    fn a_record_is_found_by_digest_and_loses_what_is_not_needed() {
        let records = "Package: a\nVersion: 1\nSHA256: xx\n\nPackage: a\nVersion: 2\nTag: x,\n y\nArchitecture: amd64\n\
                       Depends: b\nFilename: pool/a.deb\nSHA256: yy\n";
        let line = "'u' a_2_amd64.deb 1 SHA256:yy";
        let package = parse_uri(line).unwrap().package(records).unwrap();
        assert_eq!(
            package.record,
            "Package: a\nVersion: 2\nArchitecture: amd64\nDepends: b\nSHA256: yy"
        );
    }

    #[test]
    fn sources_become_lines_with_their_keyring() {
        let treefile = Treefile::parse(crate::NODE_TREEFILE).unwrap();
        let list = sources_list(&treefile.sources);
        assert_eq!(list.lines().count(), 3);
        assert!(list.starts_with(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] host bookworm main\n"
        ));
    }
}
