//! Names of the cluster: what a query asks, which names there are, and what the answer is. Pure: packets in, packets out.
//! Rules: <https://github.com/kubernetes/dns/blob/master/docs/specification.md>, RFC 1035, RFC 2782, RFC 6891.

mod answer;
#[cfg(test)]
mod tests;
mod wire;
mod zone;

pub use answer::{Reply, Transport, alias, failure, reply};
pub use wire::{Data, Query, Record, records};
pub use zone::Zone;
