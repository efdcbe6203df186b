//! A tenant's user makes namespaces and is at home there and nowhere else. Real kubectl, a certificate of the user's own.

use std::path::Path;
use std::time::Duration;

use crate::support::{Installation, words};
use crate::tools::{Said, apply, kubectl, try_kubectl, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// Alice owns Tenant team-a of the examples: three namespaces that start with `team-a-`, two cores over all.
pub fn a_user_is_admin_of_own_namespaces_and_nowhere_else(installation: &Installation) {
    let alice = installation.kubeconfig_of("alice", &["--user", "alice"]);
    let bob = installation.kubeconfig_of("bob", &["--user", "bob"]);
    assert!(kubectl(&alice, &["auth", "whoami"]).contains("alice"));
    refused(
        try_kubectl(&bob, &["create", "namespace", "team-a-bob"]),
        "cannot create resource",
    );
    kubectl(&alice, &["create", "namespace", "team-a-one"]);
    at_home(installation, &alice);
    and_nowhere_else(&alice);
    the_record_stays(&alice);
    refused(
        try_kubectl(&bob, &["get", "pods", "-n", "team-a-one"]),
        "Forbidden",
    );
    limits_hold(installation, &alice);
}

fn refused(said: Said, why: &str) {
    assert!(
        !said.well && said.err.contains(why),
        "not refused because {why:?}: {}{}",
        said.out,
        said.err
    );
}

fn at_home(installation: &Installation, alice: &Path) {
    wait("her rights", LIMIT, || {
        let may = try_kubectl(
            alice,
            &["auth", "can-i", "create", "deployments.apps", "-n", "team-a-one"],
        );
        may.well.then_some(())
    });
    let config =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hers, namespace: team-a-one}\ndata: {a: b}\n";
    apply(alice, &installation.folder, config);
    kubectl(alice, &["get", "configmap,secret,pods", "-n", "team-a-one"]);
    kubectl(alice, &["delete", "configmap", "hers", "-n", "team-a-one"]);
}

fn and_nowhere_else(alice: &Path) {
    for namespace in ["default", "kube-system"] {
        refused(try_kubectl(alice, &["get", "pods", "-n", namespace]), "Forbidden");
        refused(try_kubectl(alice, &["get", "namespace", namespace]), "Forbidden");
    }
    refused(try_kubectl(alice, &["get", "secrets", "-A"]), "Forbidden");
    refused(try_kubectl(alice, &["get", "nodes"]), "Forbidden");
    refused(try_kubectl(alice, &["get", "tenants"]), "Forbidden");
    // The list of namespaces is hers alone.
    let seen = words(alice, &["get", "namespaces", "-o", "name"]);
    assert_eq!(seen, ["namespace/team-a-one"]);
}

fn the_record_stays(alice: &Path) {
    let owner = [
        "annotate",
        "namespace",
        "team-a-one",
        "mainstay.dev/owner=bob",
        "--overwrite",
    ];
    refused(try_kubectl(alice, &owner), "only the platform changes");
    let level = [
        "label",
        "namespace",
        "team-a-one",
        "pod-security.kubernetes.io/enforce=privileged",
        "--overwrite",
    ];
    refused(try_kubectl(alice, &level), "only the platform changes");
}

fn pod(namespace: &str, cpu: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: {namespace}}}\nspec:\n  containers:\n  \
         - {{name: c, image: mainstay.local/busybox:1, resources: {{requests: {{cpu: {cpu}, memory: 64Mi}}}}}}\n"
    )
}

fn limits_hold(installation: &Installation, alice: &Path) {
    refused(
        try_kubectl(alice, &["create", "namespace", "mine"]),
        "must start with team-a-",
    );
    for name in ["team-a-two", "team-a-three"] {
        kubectl(alice, &["create", "namespace", name]);
    }
    refused(
        try_kubectl(alice, &["create", "namespace", "team-a-four"]),
        "its limit is 3",
    );
    // Two cores over all namespaces together: the second pod is one too many wherever it is.
    let file = installation.folder.join("pod.yaml");
    let create = |namespace: &str, cpu: &str| {
        std::fs::write(&file, pod(namespace, cpu)).expect("the folder is writable");
        try_kubectl(alice, &["create", "-f", &file.to_string_lossy()])
    };
    wait("the first pod to be taken", LIMIT, || {
        create("team-a-one", "1500m").well.then_some(())
    });
    wait("her rights in the other namespace", LIMIT, || {
        let may = try_kubectl(alice, &["auth", "can-i", "create", "pods", "-n", "team-a-two"]);
        may.well.then_some(())
    });
    wait("the quota to refuse the second pod", LIMIT, || {
        let said = create("team-a-two", "1");
        assert!(!said.well, "the quota let a second pod in");
        said.err.contains("exceeded quota").then_some(())
    });
    kubectl(alice, &["delete", "pod", "p", "-n", "team-a-one", "--now"]);
    wait("room for the second pod", LIMIT, || {
        create("team-a-two", "1").well.then_some(())
    });
    for name in ["team-a-one", "team-a-two", "team-a-three"] {
        kubectl(alice, &["delete", "namespace", name, "--timeout=60s"]);
    }
}
