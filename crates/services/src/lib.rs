//! Endpoints, ClusterIP, DNS and network policy: pure compilation to nftables.
