//! The kernel's word that memory in use has grown past a mark, so that a fast pod is noticed at once. cgroup v1 has such
//! marks for every group (Documentation/admin-guide/cgroup-v1/memory.rst, "Memory thresholds"); v2 has none for the whole
//! machine, where frequent looks at one small file must do.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// One mark; gone when dropped.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// Sets a mark on the memory of the group whose folder in the memory hierarchy this is.
    ///
    /// # Errors
    /// When the group is not there or the kernel has no such marks.
    pub fn set(folder: &Path, bytes: i64) -> io::Result<Alarm> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let usage = File::open(folder.join("memory.usage_in_bytes"))?;
        let order = format!("{} {} {bytes}", event.as_raw_fd(), usage.as_raw_fd());
        std::fs::write(folder.join("cgroup.event_control"), order)?;
        Ok(Alarm(event))
    }
}

/// Waits until one of the marks is crossed in either direction, but not longer than `limit`. Whatever stands in the way of
/// waiting for the kernel costs the speed, not the look that follows.
pub async fn wait(alarms: &Arc<Vec<Alarm>>, limit: Duration) {
    if alarms.is_empty() {
        return tokio::time::sleep(limit).await;
    }
    let alarms = alarms.clone();
    let waited = tokio::task::spawn_blocking(move || wait_here(&alarms, limit)).await;
    if !matches!(waited, Ok(Ok(()))) {
        tokio::time::sleep(limit).await;
    }
}

fn wait_here(alarms: &[Alarm], limit: Duration) -> io::Result<()> {
    let mut waited: Vec<PollFd<'_>> = alarms.iter().map(|a| PollFd::new(&a.0, PollFlags::IN)).collect();
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    poll(&mut waited, Some(&limit))?;
    for (alarm, _) in alarms
        .iter()
        .zip(&waited)
        .filter(|(_, w)| w.revents().contains(PollFlags::IN))
    {
        // Reading takes the count back to zero, so that the next crossing is told as well.
        rustix::io::read(&alarm.0, &mut [0; 8])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crossing_ends_the_wait_and_is_told_once() {
        let event = eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd");
        rustix::io::write(&event, &1_u64.to_ne_bytes()).expect("written");
        let alarms = [Alarm(event)];
        wait_here(&alarms, Duration::from_secs(60)).expect("told at once");
        let left = rustix::io::read(&alarms[0].0, &mut [0; 8]);
        assert_eq!(left, Err(rustix::io::Errno::AGAIN));
    }
}
