//! The node agent: pods, cgroups, eviction, images, logs, volumes.
