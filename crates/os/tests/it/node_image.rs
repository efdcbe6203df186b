//! The image of local machines, composed once into a cache that test runs share.

use std::fs;
use std::path::{Path, PathBuf};

use mainstay_os::snapshot::Policy;
use mainstay_os::{Agent, NODE_TREEFILE, Store, Treefile, node_services};

/// Survives between test runs, so that packages are downloaded and installed once.
fn shared_store() -> Store {
    Store::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mainstay-cache/os"))
}

fn agent(folder: &Path, content: &str) -> Agent {
    let binary: PathBuf = folder.join("agent");
    fs::write(&binary, content).unwrap();
    Agent {
        binary,
        version: "0.0.0".to_owned(),
        services: node_services(),
    }
}

#[test]
fn the_node_image_composes_and_only_a_changed_agent_changes_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = shared_store();
    let mut treefile = Treefile::parse(NODE_TREEFILE).unwrap();
    treefile.branch = "mainstay/test/os".to_owned();
    let first = store
        .compose(&treefile, Policy::Pinned, &agent(dir.path(), "one"))
        .unwrap();
    let again = store
        .compose(&treefile, Policy::Pinned, &agent(dir.path(), "one"))
        .unwrap();
    assert_eq!(first, again);
    let other = store
        .compose(&treefile, Policy::Pinned, &agent(dir.path(), "two"))
        .unwrap();
    assert_ne!(first.commit, other.commit);
    assert_eq!(first.facts.commit, other.facts.commit);

    let tree = store.deploy(&first.commit).unwrap();
    for path in [
        "usr/bin/containerd",
        "usr/sbin/runc",
        "usr/lib/cni/bridge",
        "usr/etc/passwd",
        "usr/lib/mainstay/services.json",
    ] {
        assert!(tree.join(path).is_file(), "{path}");
    }
    assert_eq!(fs::read_to_string(tree.join("usr/bin/mainstay")).unwrap(), "one");
    assert_eq!(fs::read_dir(tree.join("var")).unwrap().count(), 0);
    assert_eq!(store.facts(&first.commit).unwrap(), first.facts);
    assert!(first.facts.containerd.is_some() && first.packages > 50);

    // Retention keeps what is in use and removes the other image's files, which only it had.
    let repository = store.repository().unwrap();
    let in_use = std::collections::BTreeSet::from([first.commit.clone()]);
    let found = |commit: &str| repository.resolve(commit);
    assert_eq!(found(&other.commit), Some(other.commit.clone()));
    store.deploy(&other.commit).unwrap();
    repository.set_ref(&treefile.branch, &first.commit).unwrap();
    let removed = store
        .retain(
            &in_use,
            mainstay_os::Spare {
                deployments: 0,
                commits: 0,
                bases: 1,
            },
        )
        .unwrap();
    assert!(
        removed.contains(&other.commit) && !removed.contains(&first.commit),
        "{removed:?}"
    );
    assert_eq!(
        (found(&other.commit), found(&first.commit)),
        (None, Some(first.commit))
    );
}
