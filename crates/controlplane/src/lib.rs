//! One cluster's control plane as a value.
