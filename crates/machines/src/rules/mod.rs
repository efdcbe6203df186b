//! The rules of Cluster API as pure functions: counts and facts in, decisions out. No I/O, no clock.

pub mod amount;
pub mod control_plane;
pub mod deletion;
pub mod health;
pub mod machine;
pub mod rollout;
pub mod set;
pub mod template;
pub mod version;
