//! The controllers against the in-memory control plane, as their own user, with everything else real.

mod nodes;
mod rollout;
mod world;
