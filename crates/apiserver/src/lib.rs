//! The Kubernetes API server: discovery, canonical form, patches, watch, CRDs, admission, authentication and authorization.
