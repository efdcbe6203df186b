//! Processes, mounts, namespaces, cgroups, netlink, nft, loop devices: all unsafe code and all child processes live here.
