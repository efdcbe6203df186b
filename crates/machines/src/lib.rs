//! Cluster API rules: Machine, MachineSet, MachineDeployment, health checks, control-plane members.
