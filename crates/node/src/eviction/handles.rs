//! Ports and open files: how many are left, and how many a pod's processes hold. The kernel counts neither by cgroup, so
//! that pods are measured only when the node lacks them.

use std::collections::HashSet;
use std::path::Path;

use super::decide::Observation;

/// Tables of sockets of the node's own network namespace; pods with namespaces of their own take none of its ports.
const TABLES: [&str; 4] = ["tcp", "tcp6", "udp", "udp6"];

/// What one pod holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Open files.
    pub files: i64,
    /// Sockets with a port of the node.
    pub ports: i64,
}

fn numbers(file: &Path) -> Option<Vec<i64>> {
    let text = std::fs::read_to_string(file).ok()?;
    text.split_whitespace().map(|n| n.parse().ok()).collect()
}

/// Open files of the machine (`fs.file-nr`: handles in use, free ones, the most there may be).
pub fn files(proc: &Path) -> Option<Observation> {
    let [in_use, free, most] = numbers(&proc.join("sys/fs/file-nr"))?.try_into().ok()?;
    Some(Observation {
        available: (most - (in_use - free)).max(0),
        capacity: most,
    })
}

/// Local port and inode of each socket in a table as `/proc/net/tcp` has it.
fn sockets(table: &str) -> impl Iterator<Item = (u16, u64)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        Some((u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?))
    })
}

fn tables(proc: &Path) -> Vec<String> {
    // `net` is that of the process's first thread, which need not be where the work is done.
    let read = |name: &&str| std::fs::read_to_string(proc.join("thread-self/net").join(name)).ok();
    TABLES.iter().filter_map(read).collect()
}

/// Ports that the kernel hands out by itself (`net.ipv4.ip_local_port_range`). One that any socket has counts as taken,
/// although it could serve towards another address.
pub fn ports(proc: &Path) -> Option<Observation> {
    let [first, last] = numbers(&proc.join("sys/net/ipv4/ip_local_port_range"))?
        .try_into()
        .ok()?;
    let range = first..=last;
    let tables = tables(proc);
    let taken = tables
        .iter()
        .flat_map(|t| sockets(t))
        .map(|(port, _)| i64::from(port));
    let taken: HashSet<i64> = taken.filter(|port| range.contains(port)).collect();
    let capacity = last - first + 1;
    Some(Observation {
        available: capacity - taken.len() as i64,
        capacity,
    })
}

/// Inodes of the sockets that have a port of the node.
pub fn inodes(proc: &Path) -> HashSet<u64> {
    let tables = tables(proc);
    let all = tables.iter().flat_map(|t| sockets(t)).map(|(_, inode)| inode);
    all.filter(|inode| *inode != 0).collect()
}

/// What these processes hold; those that end meanwhile hold nothing.
pub fn held(proc: &Path, pids: &[u32], inodes: &HashSet<u64>) -> Held {
    let mut held = Held::default();
    for pid in pids {
        let folder = std::fs::read_dir(proc.join(pid.to_string()).join("fd"));
        for entry in folder.into_iter().flatten().flatten() {
            held.files += 1;
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let inode = target
                .to_str()
                .and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'));
            let inode = inode.and_then(|i| i.parse().ok());
            held.ports += i64::from(inode.is_some_and(|i: u64| inodes.contains(&i)));
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder like `/proc` in which process 7 has a listening socket, a connection of its own namespace and a file.
    fn proc() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |file: &str, text: &str| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("sys/fs/file-nr", "3424\t24\t10000\n");
        write("sys/net/ipv4/ip_local_port_range", "32768\t32777\n");
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let row = |port: &str, inode: u32| {
            format!(
                "   0: 0100007F:{port} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"
            )
        };
        // 8000 and 8001 are of the range, 1F90 is not; one port has two sockets, one a socket that nobody owns any more.
        let rows = [row("8000", 11), row("8000", 12), row("8001", 0), row("1F90", 13)].concat();
        write("thread-self/net/tcp", &format!("{head}{rows}"));
        let fds = dir.path().join("7/fd");
        std::fs::create_dir_all(&fds).expect("made");
        for (name, target) in [("0", "socket:[11]"), ("1", "socket:[99]"), ("2", "/dev/null")] {
            std::os::unix::fs::symlink(target, fds.join(name)).expect("linked");
        }
        dir
    }

    #[test]
    fn what_is_left_is_what_there_may_be_less_what_is_in_use() {
        let dir = proc();
        let left = |o: Option<Observation>| o.map(|o| (o.available, o.capacity));
        assert_eq!(left(files(dir.path())), Some((6600, 10000)));
        assert_eq!(left(ports(dir.path())), Some((8, 10)));
    }

    #[test]
    fn a_pod_holds_what_its_processes_hold() {
        let dir = proc();
        let held = held(dir.path(), &[7, 8], &inodes(dir.path()));
        assert_eq!(held, Held { files: 3, ports: 1 });
    }
}
