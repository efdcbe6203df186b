//! Operating system images: treefile, compose, ostree repository service, install media, A/B deployments.
