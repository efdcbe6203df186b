//! What an installation may leave on a computer: mounts, loop devices, links, namespaces, control groups, packet
//! filter tables, runtime processes, kernel settings. Two looks can be compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tools::run;

/// Programs that belong to machines or their manager.
const PROGRAMS: [&str; 4] = ["containerd", "containerd-shim-runc-v2", "mainstay", "runc"];
/// How deep below a hierarchy's root groups of machines lie.
const GROUP_DEPTH: u32 = 4;

/// Everything of interest, a line each.
pub fn look() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, names: Vec<String>| {
        found.extend(names.into_iter().map(|name| format!("{kind} {name}")));
    };
    add("mount", mounts());
    add("loop", loops());
    add("link", names_in("/sys/class/net"));
    add("netns", names_in("/run/netns"));
    add("group", groups(Path::new("/sys/fs/cgroup"), GROUP_DEPTH));
    add("table", tables());
    add("process", processes());
    let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    add("ip_forward", vec![forwarding.trim().to_string()]);
    found
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
    let points = text.lines().filter_map(|line| line.split(' ').nth(1));
    points.map(String::from).collect()
}

fn loops() -> Vec<String> {
    let devices = names_in("/sys/block");
    let backing = devices
        .iter()
        .map(|device| format!("/sys/block/{device}/loop/backing_file"));
    backing
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|file| file.trim().to_string())
        .collect()
}

fn groups(folder: &Path, depth: u32) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        if path.to_string_lossy().contains("mainstay") {
            found.push(path.display().to_string());
        }
        if depth > 1 {
            found.extend(groups(&path, depth - 1));
        }
    }
    found
}

fn tables() -> Vec<String> {
    let said = run(Command::new("nft").args(["list", "tables"]));
    said.out.lines().map(String::from).collect()
}

fn processes() -> Vec<String> {
    let pids = names_in("/proc")
        .into_iter()
        .filter_map(|name| name.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = command_line(pid);
        let program = Path::new(line.first()?).file_name()?.to_str()?.to_string();
        PROGRAMS
            .contains(&program.as_str())
            .then(|| format!("{pid} {program}"))
    })
    .collect()
}

/// The arguments of a process; empty when it is gone.
pub fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// All processes that `wanted` accepts by pid and arguments.
pub fn find(wanted: impl Fn(u32, &[String]) -> bool) -> Vec<u32> {
    let pids = names_in("/proc")
        .into_iter()
        .filter_map(|name| name.parse::<u32>().ok());
    pids.filter(|pid| wanted(*pid, &command_line(*pid))).collect()
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) {
    let said = run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]));
    assert!(said.well, "kill -{name} {pid}: {}", said.err);
}
