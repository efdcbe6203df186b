//! Pure Kubernetes semantics: quantities, selectors, pod requests and QoS, tolerations, affinity, resource names.
