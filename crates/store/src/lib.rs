//! Revisioned key-value store with watch, embedded and on etcd.
