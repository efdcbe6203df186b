//! Cluster API kinds, wire-compatible.
