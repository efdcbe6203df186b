//! What the kernel has: files of cgroup v2, scores of processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const MOUNT: &str = "/sys/fs/cgroup";
/// Files that systemd writes as well.
const LIMITS: [&str; 4] = ["cpu.weight", "cpu.max", "memory.max", "pids.max"];

fn text(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

/// Memory of the machine in bytes.
pub fn memory() -> Result<i64> {
    let all = text(Path::new("/proc/meminfo"))?;
    let kilobytes = all.split_whitespace().nth(1).context("MemTotal")?;
    Ok(kilobytes.parse::<i64>()? << 10)
}

/// The score of a process.
pub fn score(pid: u32) -> Result<i64> {
    Ok(text(Path::new(&format!("/proc/{pid}/oom_score_adj")))?.parse()?)
}

/// What a file of a cgroup is to say.
pub struct Wanted {
    path: String,
    file: &'static str,
    text: String,
}

impl Wanted {
    pub fn new(path: &str, file: &'static str, text: impl ToString) -> Self {
        Wanted {
            path: path.to_owned(),
            file,
            text: text.to_string(),
        }
    }
}

/// Where cgroups are, by the way in which they are made. Written out, so that a mistake in the agent's names shows.
pub struct Groups {
    systemd: bool,
}

impl Groups {
    pub fn new(driver: &str) -> Self {
        Groups {
            systemd: driver == "systemd",
        }
    }

    /// The cgroup of a class.
    pub fn class(&self, class: &str) -> String {
        match (self.systemd, class) {
            (false, "guaranteed") => "kubepods".to_owned(),
            (false, class) => format!("kubepods/{class}"),
            (true, "guaranteed") => "kubepods.slice".to_owned(),
            (true, class) => format!("kubepods.slice/kubepods-{class}.slice"),
        }
    }

    /// The cgroup of a pod.
    pub fn pod(&self, class: &str, uid: &str) -> String {
        let above = self.class(class);
        let uid_of_unit = uid.replace('-', "_");
        match (self.systemd, class) {
            (false, _) => format!("{above}/pod{uid}"),
            (true, "guaranteed") => format!("{above}/kubepods-pod{uid_of_unit}.slice"),
            (true, class) => format!("{above}/kubepods-{class}-pod{uid_of_unit}.slice"),
        }
    }

    /// The cgroup of a container of a pod.
    pub fn container(&self, pod: &str, id: &str) -> String {
        match self.systemd {
            false => format!("{pod}/{id}"),
            true => format!("{pod}/cri-containerd-{id}.scope"),
        }
    }

    pub fn read(&self, path: &str, file: &str) -> Result<String> {
        text(&Path::new(MOUNT).join(path).join(file))
    }

    /// Fails unless all files have their texts.
    pub fn show(&self, wanted: &[Wanted]) -> Result<()> {
        let wrong = |one: &Wanted| {
            let found = self.read(&one.path, one.file);
            let found = found.unwrap_or_else(|error| format!("unreadable ({error})"));
            (found != one.text).then(|| format!("{}/{} is {found}, not {}", one.path, one.file, one.text))
        };
        let wrong: Vec<String> = wanted.iter().filter_map(wrong).collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }

    /// All limits of a cgroup.
    pub fn all(&self, path: &str) -> Result<BTreeMap<&'static str, String>> {
        LIMITS
            .into_iter()
            .map(|file| Ok((file, self.read(path, file)?)))
            .collect()
    }

    /// The score of the first process of a cgroup.
    pub fn score(&self, path: &str) -> Result<i64> {
        let processes = self.read(path, "cgroup.procs")?;
        let first = processes
            .lines()
            .next()
            .with_context(|| format!("nothing runs in {path}"))?;
        score(first.parse()?)
    }

    /// Cgroups of pods that are there.
    pub fn pods(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for class in ["guaranteed", "burstable", "besteffort"] {
            for entry in std::fs::read_dir(Path::new(MOUNT).join(self.class(class)))? {
                let path = entry?.path();
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                if path.is_dir() && (name.starts_with("pod") || name.contains("-pod")) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }
}
