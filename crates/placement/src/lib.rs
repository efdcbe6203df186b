//! Pure placement: cluster snapshot, filters, scores, preemption, bin-packing, drain, disruption budgets.
