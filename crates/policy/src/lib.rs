//! Pure policy decisions: RBAC, pod security, limit ranges, quota arithmetic, toleration restriction.
//!
//! Every function takes plain data (JSON values or small structs) and answers at once; nothing here reads a
//! clock, the environment or the network. The API server, the tenancy rules and the simulator call the same
//! functions.

pub mod amounts;
pub mod bootstrap;
pub mod limitrange;
pub mod oracle;
pub mod podsecurity;
pub mod quota;
pub mod rbac;
pub mod tolerations;
