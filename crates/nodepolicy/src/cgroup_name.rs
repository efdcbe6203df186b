//! Names of cgroups: parts from the top, and their forms as plain folders and as slices of systemd. Pure.

/// How the runtime names cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Plain folders.
    Cgroupfs,
    /// Slices of systemd.
    Systemd,
}

const SLICE: &str = ".slice";

/// The path of a cgroup below the hierarchies. Systemd's slices repeat their ancestors' names, with `-` between them
/// and `_` for a `-` inside a part.
pub fn path(naming: Naming, parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    if naming == Naming::Cgroupfs {
        return format!("/{}", parts.join("/"));
    }
    let mut slice = String::new();
    let mut path = String::new();
    for part in parts {
        if !slice.is_empty() {
            slice.push('-');
        }
        slice.push_str(&part.replace('-', "_"));
        path.push_str(&format!("/{slice}{SLICE}"));
    }
    if path.is_empty() { "/".to_owned() } else { path }
}

/// The parts of a path that [`path`] made; an `_` in a slice reads as `-`.
pub fn parts(naming: Naming, path: &str) -> Vec<String> {
    let owned = |part: &str| part.to_owned();
    match naming {
        Naming::Cgroupfs => match path.strip_prefix('/').unwrap_or(path) {
            "" => Vec::new(),
            inner => inner.split('/').map(owned).collect(),
        },
        Naming::Systemd => {
            let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
            let last = if last.is_empty() { "/" } else { last };
            let slice = last.strip_suffix(SLICE).unwrap_or(last);
            slice.split('-').map(|part| part.replace('_', "-")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let names = ["kubepods", "burstable", "pod0b-1"];
        for naming in [Naming::Cgroupfs, Naming::Systemd] {
            assert_eq!(parts(naming, &path(naming, &names)), names);
        }
        assert_eq!(
            path(Naming::Systemd, &names),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b_1.slice"
        );
    }
}
