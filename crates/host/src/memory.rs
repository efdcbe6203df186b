//! Memory of this process that only its start needed.
//!
//! A long-running command touches far more of the program while it starts than afterwards: argument parsing, TLS set-up, tables
//! that are built once. Those pages stay mapped, and count as resident, until the kernel is short of memory. They are clean
//! pages of a file, so that giving them back costs nothing but a minor fault for each that is used again.

use std::io;
use std::time::Duration;

// Links the allocator, of which one function is called here.
use libmimalloc_sys as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
}

/// A part of this process's address space.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    writable: bool,
    file: String,
    /// Pages that are no longer the file's.
    own_bytes: usize,
}

fn mapping(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let file = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        writable: permissions.contains('w'),
        file,
        own_bytes: 0,
    })
}

/// Reads the text of `/proc/PID/smaps`.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let key = line.split_ascii_whitespace().next().unwrap_or("");
        if !key.ends_with(':') {
            found.extend(mapping(line));
        } else if key == "Anonymous:"
            && let Some(last) = found.last_mut()
        {
            let amount = line.split_ascii_whitespace().nth(1);
            // What cannot be read counts as ours: it is left alone.
            last.own_bytes = amount.and_then(|n| n.parse().ok()).unwrap_or(1);
        }
    }
    found
}

/// Gives the kernel back what is resident of the program's and its libraries' files and unchanged.
/// What is used again is mapped again from the page cache. Returns the bytes of address space that were given back.
///
/// # Errors
/// When `/proc` cannot be read or the kernel refuses.
pub fn release_unused() -> io::Result<usize> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let clean = |m: &Mapping| !m.writable && m.own_bytes == 0 && m.file.starts_with('/');
    let mut released = 0;
    for part in mappings(&smaps).into_iter().filter(clean) {
        let length = part.end - part.start;
        // SAFETY: what a file is mapped to stays mapped; this part is not writable and has no page of its own, so that every
        // page comes back from the file as it was.
        let done = unsafe { libc::madvise(part.start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        released += length;
    }
    Ok(released)
}

/// Gives the kernel back what the program's allocator holds free for this thread. Each thread has memory of its own, in which
/// nothing is given back while the thread rests: it does so before.
pub fn give_back_free() {
    // SAFETY: takes the allocator's own locks and touches nothing that is in use; where another allocator serves the program
    // there is nothing to give back.
    unsafe { mi_collect(true) }
}

/// Bytes of files that are resident in this process: the program and its libraries.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn resident_of_files() -> io::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
    let kilobytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<usize>().ok());
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status has no RssFile");
    Ok(kilobytes.ok_or_else(missing)? << 10)
}

/// Processor time that this process has used.
pub fn processor_time() -> Duration {
    let mut told = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure in; it knows this clock since 2.6.12, and where it does not the time is zero.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut told) };
    debug_assert_eq!(done, 0);
    Duration::new(
        told.tv_sec.unsigned_abs(),
        u32::try_from(told.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55f0a0000000-55f0a0100000 r--p 00000000 fe:00 123 /usr/bin/a program (deleted)
Size:               1024 kB
Rss:                 512 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55f0a0100000-55f0a0200000 r--p 00100000 fe:00 123 /usr/bin/a program (deleted)
Anonymous:            16 kB
7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0
Anonymous:             4 kB
";

    #[test]
    fn mappings_are_read_with_what_is_no_longer_the_files() {
        let found = mappings(SMAPS);
        let told: Vec<(usize, bool, &str, usize)> = found
            .iter()
            .map(|m| (m.end - m.start, m.writable, m.file.as_str(), m.own_bytes))
            .collect();
        assert_eq!(
            told,
            [
                (0x100000, false, "/usr/bin/a program (deleted)", 0),
                (0x100000, false, "/usr/bin/a program (deleted)", 16),
                (0x1000, true, "", 4),
            ]
        );
    }

    #[test]
    fn pages_are_given_back_and_come_again() {
        let before = resident_of_files().unwrap();
        let released = release_unused().unwrap();
        let after = resident_of_files().unwrap();
        assert!(released > 0 && after < before, "{released}: {before} -> {after}");
        assert!(processor_time() > Duration::ZERO);
        // The program goes on: what it needs is mapped anew.
        assert_eq!(mappings(SMAPS).len(), 3);
    }
}
