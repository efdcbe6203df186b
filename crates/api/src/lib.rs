//! Mainstay's own API kinds, their CRDs and condition reasons.
