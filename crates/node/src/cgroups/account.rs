//! The whole account of a cgroup, for series of metrics: what it used, how often it was held back, what it may use.

use super::usage::keyed;
use super::{CgroupTree, Usage};

/// Nanoseconds of one tick of v1's `cpuacct.stat`, which counts in hundredths of a second.
const TICK: u64 = 10_000_000;
/// v1 says "no limit" with the largest number of whole pages, v2 with a word.
const NO_LIMIT: u64 = i64::MAX as u64 / 4096 * 4096;

/// What one cgroup used since it was made, and what it uses now. Absent where the kernel does not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Processor time, memory and tasks.
    pub usage: Usage,
    /// Processor time in programs and in the kernel, nanoseconds.
    pub cpu: [u64; 2],
    /// Periods of the CPU limit that passed, those in which it was reached, and nanoseconds waited for it.
    pub throttled: [u64; 3],
    /// The most that was in use, bytes.
    pub peak: Option<u64>,
    /// Page cache, bytes.
    pub cache: u64,
    /// Files mapped into memory, bytes.
    pub mapped: u64,
    /// Swap in use, bytes.
    pub swap: Option<u64>,
    /// How often the memory limit was reached.
    pub limit_hits: u64,
    /// Processes that the kernel ended for want of memory.
    pub oom_kills: u64,
    /// Page faults, and those that had to read a file.
    pub faults: [u64; 2],
    /// The memory limit, bytes; `None`: none.
    pub memory_limit: Option<u64>,
    /// The CPU limit: microseconds of each period, and the period; `None`: none.
    pub cpu_limit: Option<(u64, u64)>,
    /// Reading and writing by device.
    pub io: Vec<Io>,
    /// Time lost by waiting: for processors, memory, devices. Only v2 tells it.
    pub pressure: [Option<Pressure>; 3],
}

/// What was read from and written to one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Io {
    /// `major:minor`.
    pub device: String,
    /// Bytes read and written.
    pub bytes: [u64; 2],
    /// Requests to read and to write.
    pub requests: [u64; 2],
}

/// Time lost by waiting for one resource: by some of the tasks, and by all of them at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some waited.
    pub some: Stall,
    /// All waited.
    pub full: Stall,
}

/// How long was waited: in all, and shares of the last 10, 60 and 300 seconds in hundredths of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// Microseconds.
    pub total_us: u64,
    /// Hundredths of a percent.
    pub shares: [u64; 3],
}

impl CgroupTree {
    /// The account of a cgroup (`/` for the whole machine); `None` when it is not there.
    pub fn account(&self, path: &str) -> Option<Account> {
        match self.v2 {
            true => self.account_v2(path),
            false => self.account_v1(path),
        }
    }

    fn account_v1(&self, path: &str) -> Option<Account> {
        let read = |controller: &str, file: &str| self.read(path, controller, file).unwrap_or_default();
        let number = |controller: &str, file: &str| self.number(path, controller, file);
        let files = self.stats(path)?;
        let stat = &files.memory;
        let (cpu, times) = (read("cpu", "cpu.stat"), read("cpuacct", "cpuacct.stat"));
        let of = |text: &str, key: &str| keyed(text, key).unwrap_or(0);
        let quota = self.read(path, "cpu", "cpu.cfs_quota_us");
        let quota = quota.and_then(|text| text.trim().parse::<u64>().ok());
        Some(Account {
            usage: files.usage(false)?,
            cpu: ["user", "system"].map(|key| of(&times, key) * TICK),
            throttled: [
                of(&cpu, "nr_periods"),
                of(&cpu, "nr_throttled"),
                of(&cpu, "throttled_time"),
            ],
            peak: number("memory", "memory.max_usage_in_bytes"),
            cache: of(stat, "total_cache"),
            mapped: of(stat, "total_mapped_file"),
            swap: keyed(stat, "total_swap"),
            limit_hits: number("memory", "memory.failcnt").unwrap_or(0),
            oom_kills: of(&read("memory", "memory.oom_control"), "oom_kill"),
            faults: ["total_pgfault", "total_pgmajfault"].map(|key| of(stat, key)),
            memory_limit: number("memory", "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT),
            cpu_limit: quota.zip(number("cpu", "cpu.cfs_period_us")),
            io: io_v1(
                &read("blkio", "blkio.throttle.io_service_bytes_recursive"),
                &read("blkio", "blkio.throttle.io_serviced_recursive"),
            ),
            pressure: [None; 3],
        })
    }

    fn account_v2(&self, path: &str) -> Option<Account> {
        let read = |file: &str| self.read(path, "", file).unwrap_or_default();
        let number = |file: &str| self.number(path, "", file);
        let of = |text: &str, key: &str| keyed(text, key).unwrap_or(0);
        let files = self.stats(path)?;
        let (stat, cpu) = (&files.memory, &files.cpu);
        let (events, limit) = (read("memory.events"), read("cpu.max"));
        let mut limit = limit.split_whitespace().map(|word| word.parse::<u64>().ok());
        Some(Account {
            usage: files.usage(true)?,
            cpu: ["user_usec", "system_usec"].map(|key| of(cpu, key) * 1_000),
            throttled: [
                of(cpu, "nr_periods"),
                of(cpu, "nr_throttled"),
                of(cpu, "throttled_usec") * 1_000,
            ],
            peak: number("memory.peak"),
            cache: of(stat, "file"),
            mapped: of(stat, "file_mapped"),
            swap: number("memory.swap.current"),
            limit_hits: of(&events, "max"),
            oom_kills: of(&events, "oom_kill"),
            faults: ["pgfault", "pgmajfault"].map(|key| of(stat, key)),
            memory_limit: number("memory.max"),
            cpu_limit: limit.next().flatten().zip(limit.next().flatten()),
            io: io_v2(&read("io.stat")),
            pressure: ["cpu.pressure", "memory.pressure", "io.pressure"]
                .map(|file| self.read(path, "", file).as_deref().and_then(pressure)),
        })
    }
}

/// Lines such as `8:0 Read 4096` of v1.
fn io_v1(bytes: &str, requests: &str) -> Vec<Io> {
    let mut found: Vec<Io> = Vec::new();
    for (which, text) in [bytes, requests].into_iter().enumerate() {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, direction, value] = words[..] else {
                continue;
            };
            let Some(direction) = ["Read", "Write"].iter().position(|known| *known == direction) else {
                continue;
            };
            let at = found
                .iter()
                .position(|io| io.device == device)
                .unwrap_or_else(|| {
                    found.push(Io {
                        device: device.to_owned(),
                        ..Io::default()
                    });
                    found.len() - 1
                });
            let value = value.parse().unwrap_or(0);
            match which {
                0 => found[at].bytes[direction] = value,
                _ => found[at].requests[direction] = value,
            }
        }
    }
    found
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0` of v2.
fn io_v2(text: &str) -> Vec<Io> {
    let one = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let of = |key: &str| {
            let mut pairs = rest.split_whitespace().filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(name, _)| *name == key);
            found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        Some(Io {
            device: device.to_owned(),
            bytes: [of("rbytes"), of("wbytes")],
            requests: [of("rios"), of("wios")],
        })
    };
    text.lines().filter_map(one).collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same with `full`.
fn pressure(text: &str) -> Option<Pressure> {
    let stall = |which: &str| {
        let line = text.lines().find(|line| line.starts_with(which))?;
        let of = |key: &str| {
            let mut pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let share = |key: &str| {
            of(key)?
                .parse::<f64>()
                .ok()
                .map(|share| (share * 100.0).round() as u64)
        };
        Some(Stall {
            total_us: of("total")?.parse().ok()?,
            shares: [share("avg10")?, share("avg60")?, share("avg300")?],
        })
    };
    Some(Pressure {
        some: stall("some")?,
        // Kernels before 5.13 have none for processors.
        full: stall("full").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Naming;
    use super::*;

    /// A tree of files as the kernel shows it.
    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, CgroupTree) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let tree = CgroupTree::new(folder.path(), "", Naming::Cgroupfs);
        (folder, tree)
    }

    #[test]
    fn the_first_version_tells_its_account() {
        let (_folder, tree) = tree(&[
            ("memory/a/memory.usage_in_bytes", "5000\n"),
            ("memory/a/memory.max_usage_in_bytes", "6000\n"),
            ("memory/a/memory.failcnt", "3\n"),
            ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            (
                "memory/a/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            (
                "memory/a/memory.stat",
                "cache 1\ntotal_cache 2000\ntotal_rss 3000\ntotal_mapped_file 10\ntotal_swap 0\ntotal_pgfault 7\n\
                 total_pgmajfault 1\ntotal_inactive_file 1000\n",
            ),
            ("cpuacct/a/cpuacct.usage", "123456789\n"),
            ("cpuacct/a/cpuacct.stat", "user 5\nsystem 7\n"),
            (
                "cpu/a/cpu.stat",
                "nr_periods 10\nnr_throttled 4\nthrottled_time 99\n",
            ),
            ("cpu/a/cpu.cfs_quota_us", "50000\n"),
            ("cpu/a/cpu.cfs_period_us", "100000\n"),
            ("pids/a/pids.current", "6\n"),
            (
                "blkio/a/blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 4096\n8:0 Write 512\nTotal 4608\n",
            ),
            (
                "blkio/a/blkio.throttle.io_serviced_recursive",
                "8:0 Read 1\n8:0 Write 2\n",
            ),
        ]);
        let account = tree.account("/a").expect("there");
        let usage = Usage {
            cpu_nanos: 123_456_789,
            memory_bytes: 5_000,
            working_set_bytes: 4_000,
            rss_bytes: 3_000,
            pids: 6,
        };
        assert_eq!((account.usage, tree.usage("/a")), (usage, Some(usage)));
        assert_eq!(account.cpu, [50_000_000, 70_000_000]);
        assert_eq!(
            (account.throttled, account.cpu_limit),
            ([10, 4, 99], Some((50_000, 100_000)))
        );
        assert_eq!(
            (account.peak, account.cache, account.mapped, account.swap),
            (Some(6_000), 2_000, 10, Some(0))
        );
        assert_eq!(tree.swap("/a"), Some((0, None)));
        assert_eq!(
            (account.limit_hits, account.oom_kills, account.faults),
            (3, 2, [7, 1])
        );
        assert_eq!(account.memory_limit, None);
        let io = Io {
            device: "8:0".into(),
            bytes: [4_096, 512],
            requests: [1, 2],
        };
        assert_eq!((account.io, account.pressure), (vec![io], [None; 3]));
        assert_eq!(tree.account("/b"), None);
    }

    #[test]
    fn the_second_version_tells_its_account_and_what_was_waited_for() {
        let stalls = "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        let (_folder, tree) = tree(&[
            ("cgroup.controllers", "cpu memory"),
            ("a/memory.current", "5000\n"),
            ("a/memory.max", "max\n"),
            ("a/memory.swap.current", "12\n"),
            ("a/memory.swap.max", "64\n"),
            ("a/memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"),
            (
                "a/memory.stat",
                "anon 3000\nfile 2000\nfile_mapped 10\ninactive_file 1000\npgfault 7\npgmajfault 1\n",
            ),
            (
                "a/cpu.stat",
                "usage_usec 12\nuser_usec 5\nsystem_usec 7\nnr_periods 10\nnr_throttled 4\nthrottled_usec 9\n",
            ),
            ("a/cpu.max", "50000 100000\n"),
            ("a/pids.current", "6\n"),
            (
                "a/io.stat",
                "8:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0\n",
            ),
            ("a/memory.pressure", stalls),
            (
                "a/cpu.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
            ),
        ]);
        let account = tree.account("/a").expect("there");
        assert_eq!((account.cpu, account.throttled), ([5_000, 7_000], [10, 4, 9_000]));
        let usage = Usage {
            cpu_nanos: 12_000,
            memory_bytes: 5_000,
            working_set_bytes: 4_000,
            rss_bytes: 3_000,
            pids: 6,
        };
        assert_eq!((account.usage, tree.usage("/a")), (usage, Some(usage)));
        assert_eq!((account.swap, account.memory_limit), (Some(12), None));
        assert_eq!(tree.swap("/a"), Some((12, Some(64))));
        assert_eq!((account.limit_hits, account.oom_kills), (3, 2));
        assert_eq!(account.cpu_limit, Some((50_000, 100_000)));
        assert_eq!(account.io[0].bytes, [4_096, 512]);
        let [cpu, memory, io] = account.pressure;
        assert_eq!(
            cpu.map(|cpu| (cpu.some.total_us, cpu.full)),
            Some((9, Stall::default()))
        );
        let stall = |total_us, shares| Stall { total_us, shares };
        let expected = Pressure {
            some: stall(77, [150, 25, 0]),
            full: stall(5, [0, 0, 0]),
        };
        assert_eq!((memory, io), (Some(expected), None));
    }
}
