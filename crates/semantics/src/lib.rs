//! Pure Kubernetes semantics: quantities, selectors, pod requests and QoS, tolerations, affinity, resource names.
pub mod quantity;
pub mod selector;
