//! Pure policy decisions: RBAC, pod security, limit ranges, quota arithmetic, toleration restriction.
