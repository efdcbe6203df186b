//! The cluster autoscaler: estimator, simulator, expanders and cloud providers.
