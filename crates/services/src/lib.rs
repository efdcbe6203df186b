//! Services as packet filter rules ([`proxy`]) and as names ([`dns`]): pure compilation from Services and
//! EndpointSlices; the node agent applies and serves the results.

pub mod dns;
pub mod model;
pub mod proxy;
