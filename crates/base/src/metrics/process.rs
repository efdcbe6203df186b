//! What this process uses, under the names that Prometheus' client libraries give it.

use std::path::Path;

use super::Family;

/// Times in `/proc` are in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process's own series: processor time, memory, open files, start. What the kernel does not tell is left out.
pub fn families() -> Vec<Family> {
    read(Path::new("/proc"))
}

/// A value, whether it only grows, and its names.
type Told = (Option<f64>, bool, &'static str, &'static str);

fn read(proc: &Path) -> Vec<Family> {
    let file = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    let (stat, status, limits) = (file("self/stat"), file("self/status"), file("self/limits"));
    let (user, system, start) = (field(&stat, 11), field(&stat, 12), field(&stat, 19));
    let open = std::fs::read_dir(proc.join("self/fd")).ok();
    let booted = value(&file("stat"), "btime");
    let all: [Told; 8] = [
        (
            user.zip(system)
                .map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            true,
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        ),
        (
            limit(&limits, "Max open files"),
            false,
            "process_max_fds",
            "Maximum number of open file descriptors.",
        ),
        (
            open.map(|open| open.count() as f64),
            false,
            "process_open_fds",
            "Number of open file descriptors.",
        ),
        (
            value(&status, "VmRSS:").map(|kilobytes| kilobytes * 1_024.0),
            false,
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
        ),
        (
            booted
                .zip(start)
                .map(|(booted, start)| booted + start / TICKS_PER_SECOND),
            false,
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
        ),
        (
            value(&status, "VmSize:").map(|kilobytes| kilobytes * 1_024.0),
            false,
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
        ),
        (
            limit(&limits, "Max address space"),
            false,
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
        ),
        (
            value(&status, "Threads:"),
            false,
            "process_threads",
            "Number of threads of the process.",
        ),
    ];
    all.into_iter().filter_map(told).collect()
}

fn told((value, grows, name, help): Told) -> Option<Family> {
    let family = Family::new(name, if grows { "counter" } else { "gauge" }, help);
    Some(family.with(&[], value?))
}

/// A field of `/proc/PID/stat`, counted from the state, which is 0; the program's name before it may hold anything.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number)?.parse().ok()
}

/// The number behind a word at a line's begin.
fn value(text: &str, word: &str) -> Option<f64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut found = lines.find_map(|mut words| (words.next() == Some(word)).then_some(words))?;
    found.next()?.parse().ok()
}

/// The soft limit of this name; Prometheus' libraries say "none" with the largest number.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_become_series() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write(
            "self/stat",
            "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 40 2 0 0 20 0 9 0 1050 1 1\n",
        );
        write(
            "self/status",
            "Name:\ta\nVmSize:\t    2048 kB\nVmRSS:\t      10 kB\nThreads:\t3\n",
        );
        write(
            "self/limits",
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max open files            1024                 4096                 files\n\
             Max address space         unlimited            unlimited            bytes\n",
        );
        write("self/fd/0", "");
        write("self/fd/1", "");
        write("stat", "cpu  1 2 3\nbtime 1700000000\n");
        let text = super::super::text(read(folder.path()));
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "process_cpu_seconds_total 0.42",
                "process_max_fds 1024",
                "process_open_fds 2",
                "process_resident_memory_bytes 10240",
                "process_start_time_seconds 1700000010.5",
                "process_virtual_memory_bytes 2097152",
                "process_virtual_memory_max_bytes 18446744073709552000",
                "process_threads 3",
            ]
        );
    }

    #[test]
    fn nothing_is_told_that_the_kernel_does_not_tell() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read(folder.path()).is_empty());
    }
}
