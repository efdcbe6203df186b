//! Controller glue over kube-rs: shared projections, plan/apply runner, leader election, metrics.
