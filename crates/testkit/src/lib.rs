//! In-memory control plane, fake clock, builders and fault injection for tests.
