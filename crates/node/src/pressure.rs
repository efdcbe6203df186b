//! Which resources the node lacks: set by the eviction manager, read by admission and the node's status.

use parking_lot::Mutex;

/// What the node lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk space or inodes.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

/// The current pressure.
#[derive(Debug, Default)]
pub struct PressureCell(Mutex<Pressure>);

impl PressureCell {
    /// What the node lacks now.
    pub fn get(&self) -> Pressure {
        *self.0.lock()
    }

    /// Sets it; tells whether it changed.
    pub fn set(&self, now: Pressure) -> bool {
        let mut held = self.0.lock();
        std::mem::replace(&mut *held, now) != now
    }
}
