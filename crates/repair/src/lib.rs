//! Fault containment, the repair ladder, tickets and evidence.
