//! Built-in controllers: the kube-controller-manager role.
