//! Services as rules of one nftables table, the kube-proxy role for IPv4.
//!
//! What goes to a Service's address is sent to one of its endpoints before routing; what must come back through this
//! node gets the node's address after routing. A packet to a Service that nobody serves is refused, not lost. Nothing is
//! said about IPv6: the cluster gives out no IPv6 addresses.

mod compile;
mod endpoints;
mod ruleset;
#[cfg(test)]
mod tests;

pub use compile::{NodeFacts, compile};
pub use ruleset::{Chain, Flow, Ruleset, TABLE, Table};
