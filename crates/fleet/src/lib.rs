//! Inventory, clusters, pools and rollouts.
