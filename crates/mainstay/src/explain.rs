//! The catalogue of failures: a stable id each, what it means, and what helps. `mainstay explain ID` prints it.

use crate::exit::Code;

/// One kind of failure.
#[derive(Debug)]
pub struct Entry {
    /// Never changes, never used again for something else.
    pub id: &'static str,
    /// One line.
    pub title: &'static str,
    /// What it means and how it comes about.
    pub meaning: &'static str,
    /// What helps.
    pub fix: &'static str,
    /// The exit code of commands that end with it.
    pub code: Code,
}

const fn entry(
    id: &'static str,
    code: Code,
    title: &'static str,
    meaning: &'static str,
    fix: &'static str,
) -> Entry {
    Entry {
        id,
        title,
        meaning,
        fix,
        code,
    }
}

/// Every failure, by area.
pub const CATALOGUE: &[Entry] = &[
    entry(
        "MS-INT-0001",
        Code::Bug,
        "unexpected internal error",
        "Something failed that this program has no better name for. The message has the whole chain of causes.",
        "run again with --log debug; if it comes again, report it with that output",
    ),
    entry(
        "MS-CFG-0001",
        Code::Usage,
        "manifest cannot be read",
        "A file given with -f is missing, is not valid YAML or JSON, or holds an object without apiVersion, kind \
         or metadata.name. Nothing was applied.",
        "correct the file and field named in the message",
    ),
    entry(
        "MS-CFG-0002",
        Code::Usage,
        "manifest refused",
        "The objects contradict each other or the inventory: an unknown SKU, overlapping networks, a pool larger \
         than the racks hold, an image that nothing defines. Nothing was applied.",
        "correct the field named in the message",
    ),
    entry(
        "MS-CFG-0003",
        Code::Usage,
        "flag or configuration value is not usable",
        "A flag, an environment variable or the configuration file holds a value that is out of range or malformed.",
        "see the command's --help for the expected form",
    ),
    entry(
        "MS-CFG-0004",
        Code::Usage,
        "kind or version not known",
        "A manifest's apiVersion and kind name nothing that the management plane serves. The message lists what \
         would have been right. Nothing was applied.",
        "correct apiVersion or kind in the file named in the message",
    ),
    entry(
        "MS-CFG-0005",
        Code::Usage,
        "field not usable",
        "A manifest has a field that its kind does not have, misses one that it needs, or gives one a value of \
         another type or outside its limits. Nothing was applied.",
        "correct the field named in the message; kubectl explain KIND shows the fields there are",
    ),
    entry(
        "MS-CFG-0010",
        Code::Usage,
        "unknown SKU",
        "A pool selects hosts by a SKU that no Host has. The message lists the SKUs there are.",
        "correct skuSelector, or register hosts of that SKU",
    ),
    entry(
        "MS-CFG-0011",
        Code::Usage,
        "address ranges overlap",
        "Pod or service addresses of a cluster overlap with each other, with those of another cluster of the same \
         environment, or with the network of the machines. Packets would go astray, so nothing was applied.",
        "choose another range for the field named in the message",
    ),
    entry(
        "MS-CFG-0012",
        Code::Usage,
        "more machines than there is room for",
        "A pool may have more machines than hosts fit it, or than its pod range has addresses for, or a host stands \
         higher than its rack.",
        "lower replicas or autoscaling.max, register more hosts, or choose a larger range",
    ),
    entry(
        "MS-CFG-0013",
        Code::Usage,
        "image not defined",
        "A pool names an OSImage that is neither in the manifests nor in the management plane.",
        "correct imageRef.name, or add the OSImage to the manifests",
    ),
    entry(
        "MS-CFG-0014",
        Code::Usage,
        "reference leads nowhere",
        "An object names another one (a region, data centre, zone, rack, provider, tenant or repair policy) that is \
         neither in the manifests nor in the management plane.",
        "correct the name, or add the missing object",
    ),
    entry(
        "MS-CFG-0015",
        Code::Usage,
        "name or place used twice",
        "Two objects of the manifests have the same kind and name, two pools of a cluster the same name, or two \
         hosts stand in the same rack unit.",
        "give one of them another name or place",
    ),
    entry(
        "MS-PRE-0001",
        Code::Preflight,
        "preflight found problems",
        "The machine lacks something that the command needs. Every finding is shown at once with its remedy, and \
         nothing was changed.",
        "apply the remedies shown, or skip one finding by its name with --ignore NAME",
    ),
    entry(
        "MS-PRE-0002",
        Code::Preflight,
        "root is needed",
        "Local machines are made of mounts, namespaces and control groups, which only root may make.",
        "run as root, for example with sudo",
    ),
    entry(
        "MS-PRE-0003",
        Code::Preflight,
        "disk too full",
        "The filesystem of the data directory has too little free space for what the command writes there.",
        "free some space, or name another directory with --data-dir",
    ),
    entry(
        "MS-PRE-0004",
        Code::Preflight,
        "memory too small",
        "Less memory is available than the management plane and two machines need.",
        "end what uses the memory",
    ),
    entry(
        "MS-PRE-0005",
        Code::Preflight,
        "port in use",
        "An address that must be listened on is held by another process, or is not one of this computer.",
        "end that process, or choose another address with --listen or --dashboard",
    ),
    entry(
        "MS-PRE-0006",
        Code::Preflight,
        "program not installed",
        "A program that composes images or makes machines was not found on PATH.",
        "install the package named in the message, or run scripts/setup as root",
    ),
    entry(
        "MS-PRE-0007",
        Code::Preflight,
        "control groups not usable",
        "A controller of the kernel's control groups is missing or not mounted; machines could not be limited.",
        "mount the controllers or enable them on the kernel command line",
    ),
    entry(
        "MS-PRE-0008",
        Code::Preflight,
        "filesystem not known to the kernel",
        "Machines need overlay for /etc and ext4 for /var.",
        "load the modules or use a kernel that has them",
    ),
    entry(
        "MS-PRE-0009",
        Code::Preflight,
        "too few inotify instances",
        "Each machine's container runtime needs some; when they run out, it fails in ways that do not name the cause.",
        "sysctl -w fs.inotify.max_user_instances=512",
    ),
    entry(
        "MS-PRE-0010",
        Code::Preflight,
        "loop devices missing",
        "A machine's /var is a file mounted through a loop device.",
        "load the loop module",
    ),
    entry(
        "MS-PRE-0011",
        Code::Preflight,
        "data directory not writable",
        "The user who runs the command may not write where its state shall live.",
        "run as root, or name another directory with --data-dir",
    ),
    entry(
        "MS-RUN-0001",
        Code::Unreachable,
        "management plane is not running",
        "No management plane answers for this data directory.",
        "start it with `mainstay up`, or name another directory with --data-dir",
    ),
    entry(
        "MS-RUN-0002",
        Code::TimedOut,
        "not ready within the time limit",
        "The wanted state was not reached in time. Work goes on in the background and nothing is undone.",
        "run `mainstay doctor` to see what is waited for; run the same command again to go on waiting",
    ),
    entry(
        "MS-RUN-0003",
        Code::No,
        "management plane ended",
        "The background process stopped while it was starting. Its log tells why and is kept.",
        "read the log file named in the message, then run the command again",
    ),
    entry(
        "MS-RUN-0004",
        Code::Refused,
        "data directory is in use",
        "Another process holds the lock of the data directory.",
        "stop that process, or use another --data-dir",
    ),
    entry(
        "MS-RUN-0005",
        Code::No,
        "could not undo everything",
        "Some of what the ledger lists could not be removed. The ledger keeps the rest.",
        "end what still uses the named mounts or devices, then run `mainstay down` again",
    ),
    entry(
        "MS-API-0001",
        Code::Unreachable,
        "API server cannot be reached",
        "The kubeconfig names a server that did not answer, or whose certificate is not trusted.",
        "check the server line of the kubeconfig and that the cluster runs",
    ),
    entry(
        "MS-API-0002",
        Code::Refused,
        "API server refused",
        "The API server answered with an error; the message holds its reason.",
        "see the reason in the message",
    ),
    entry(
        "MS-API-0003",
        Code::Refused,
        "object not found",
        "No object of that kind and name is there.",
        "list what is there with kubectl get",
    ),
    entry(
        "MS-API-0004",
        Code::Usage,
        "kubeconfig not usable",
        "The kubeconfig is missing, is no YAML of kind Config, or its current context names a cluster or user that it \
         does not hold.",
        "name another file, or print a good one with `mainstay kubeconfig`",
    ),
    entry(
        "MS-SRV-0001",
        Code::No,
        "server could not start",
        "The control plane could not open its data, bind its address or make its certificates.",
        "see the cause in the message: a port in use, a locked or damaged data directory, a full disk",
    ),
    entry(
        "MS-BAK-0001",
        Code::No,
        "backup or restore failed",
        "The store could not be opened, holds no such control plane, or the file cannot be written or is no whole \
         snapshot. A restore that fails leaves an embedded store as it was.",
        "see the cause in the message; stop what runs on the data directory first",
    ),
    entry(
        "MS-NODE-0001",
        Code::No,
        "node agent ended",
        "The node agent could not read its configuration, reach the runtime or join the cluster.",
        "see the cause in the message",
    ),
    entry(
        "MS-NODE-0002",
        Code::Preflight,
        "container runtime missing",
        "The node agent runs pods through containerd (or another runtime with CRI). Its socket is not there, and no \
         containerd is installed that could make it.",
        "apt-get install containerd and start it, or name a runtime with --container-runtime-endpoint",
    ),
    entry(
        "MS-OS-0001",
        Code::No,
        "image not composed",
        "A treefile could not be read or composed; the repository is as it was.",
        "correct the field or source named in the message",
    ),
    entry(
        "MS-SIM-0001",
        Code::Usage,
        "scenario cannot be read",
        "The scenario file is missing or not in the documented form.",
        "see `mainstay simulate --help`",
    ),
];

/// Looks an id up, whatever its case.
pub fn find(id: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_the_manifest_checks_is_explained() {
        for rule in mainstay_fleet::validate::Rule::ALL {
            assert!(find(rule.id()).is_some(), "{rule:?} has no entry {}", rule.id());
        }
    }

    /// What a command can fail with must be explained: every id that stands anywhere in this crate.
    #[test]
    fn every_id_in_the_sources_is_explained() {
        let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("sources").flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => files.push(path),
                }
            }
        }
        assert!(files.len() > 20, "{files:?}");
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file is text");
            for (at, _) in text.match_indices("\"MS-") {
                let id = text[at + 1..].split('"').next().unwrap_or_default();
                assert!(
                    id == "MS-" || find(id).is_some(),
                    "{}: {id} has no entry",
                    file.display()
                );
            }
        }
    }

    #[test]
    fn ids_are_unique_and_well_formed() {
        for (place, entry) in CATALOGUE.iter().enumerate() {
            let parts: Vec<&str> = entry.id.split('-').collect();
            assert!(
                matches!(parts[..], ["MS", _, number] if number.len() == 4),
                "{}",
                entry.id
            );
            assert!(
                CATALOGUE[place + 1..].iter().all(|other| other.id != entry.id),
                "{} twice",
                entry.id
            );
            assert!(
                !entry.fix.is_empty() && !entry.meaning.is_empty(),
                "{} says nothing",
                entry.id
            );
        }
    }
}
