//! The scheduler: queue, extenders, binding; decisions come from placement.
