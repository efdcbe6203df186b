//! The audit log: which requests are noted, how fully, and the lines themselves.
//!
//! The policy has upstream's format (`audit.k8s.io/v1` Policy): the first rule that matches a request gives its level.
//! Events are JSON lines. Writing never holds up a request: lines go through a bounded queue, and what does not fit is
//! counted and reported with the next line that does.

mod event;
mod file;
mod policy;

pub use file::{LogFile, Rotation};
pub use policy::{Level, Policy, PolicyError};

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use serde_json::{Value, json};

use crate::hooks::{Audit, Audited};

/// Lines that wait to be written at most: some megabytes at a metadata line's usual size.
const QUEUED_LINES: usize = 4_096;
/// Lines that go out in one write at most.
const BATCH_LINES: usize = 256;

/// Writes events to a file or any other sink, in a thread of its own.
pub struct AuditLog {
    policy: Policy,
    lines: SyncSender<Value>,
    lost: AtomicU64,
}

impl AuditLog {
    /// Starts the writer; it ends, with everything written, when the log is dropped.
    pub fn start(policy: Policy, sink: impl Write + Send + 'static) -> Self {
        let (lines, waiting) = sync_channel(QUEUED_LINES);
        std::thread::spawn(move || write_lines(&waiting, sink));
        AuditLog {
            policy,
            lines,
            lost: AtomicU64::new(0),
        }
    }

    fn send(&self, mut line: Value) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            line["annotations"]["mainstay.dev/lost-events"] = json!(lost.to_string());
        }
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

/// Writes what waits in one go, whole lines only. A sink that fails is reported once per failure; the next lines are
/// tried again.
fn write_lines(waiting: &Receiver<Value>, mut sink: impl Write) {
    let mut batch = Vec::new();
    while let Ok(first) = waiting.recv() {
        batch.clear();
        for line in std::iter::once(first).chain(waiting.try_iter().take(BATCH_LINES)) {
            batch.extend_from_slice(line.to_string().as_bytes());
            batch.push(b'\n');
        }
        if let Err(error) = sink.write_all(&batch).and_then(|()| sink.flush()) {
            tracing::error!(%error, "failed to write the audit log");
        }
    }
}

impl Audit for AuditLog {
    fn log(&self, event: &Audited<'_>) {
        let ruling = self.policy.rule(event.user, event.info);
        if ruling.level != Level::None && !ruling.omits(event::stage_name(event.stage)) {
            self.send(event::line(event, &ruling));
        }
    }
}

#[cfg(test)]
mod tests;
