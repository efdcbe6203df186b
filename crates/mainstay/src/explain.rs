//! The catalogue of failures: a stable id each, what it means, and what helps. `mainstay explain ID` prints it.

use crate::outcome::Code;

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
        "MS-PRE-0001",
        Code::Preflight,
        "preflight found problems",
        "The machine lacks something that the command needs. Every finding is shown at once with its remedy, and \
         nothing was changed.",
        "apply the remedies shown, or skip one finding by its name with --ignore NAME",
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
        "MS-SRV-0001",
        Code::No,
        "server could not start",
        "The control plane could not open its data, bind its address or make its certificates.",
        "see the cause in the message: a port in use, a locked or damaged data directory, a full disk",
    ),
    entry(
        "MS-NODE-0001",
        Code::No,
        "node agent ended",
        "The node agent could not read its configuration, reach the runtime or join the cluster.",
        "see the cause in the message",
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
