//! Certificate authorities, leaf certificates, CSR signing and kubeconfigs.
