//! Container logs: kept from filling the disk; the runtime's format is read in crate `cri`.

pub mod rotate;

pub use mainstay_cri::logs::read;
