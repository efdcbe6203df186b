//! What the `checks` program runs, for its tests too: oracle tables, benchmarks, fuzzing, trials and the sites that they
//! are made on.

#![allow(clippy::disallowed_methods)] // benchmarks start the binary that they measure

pub mod bench;
pub mod client;
pub mod fuzz;
pub mod guest;
pub mod oracle;
pub mod site;
pub mod trial;
