//! Pure Kubernetes semantics: quantities, selectors, pod requests and QoS, tolerations, affinity, resource names.

pub mod labels;
pub mod node_affinity;
pub mod pod;
pub mod qos;
pub mod quantity;
pub mod resource_name;
pub mod selector;
pub mod toleration;
