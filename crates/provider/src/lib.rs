//! The provider trait and its implementations: local, sim, qemu, metal, openstack.
