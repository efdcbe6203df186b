//! Pods on this node: where they come from, what the runtime shows of them, one worker for each.

pub mod allocations;
pub mod create;
pub mod images;
pub mod inbox;
pub mod manager;
pub mod observe;
pub mod processors;
pub mod resize;
pub mod source;
pub mod status_writer;
pub mod terminate;
pub mod turn;
pub mod watch;
pub mod worker;

pub use mainstay_nodepolicy::pods::{conditions, status};
