//! A treefile over an rpm-md repository made here, given as rpm-ostree takes it.

use std::fs;
use std::path::Path;

use mainstay_host::command::program;
use mainstay_os::snapshot::Policy;
use mainstay_os::{Store, Treefile};

const SPEC: &str = "Name: tiny\nVersion: 1.2\nRelease: 3\nSummary: a\nLicense: MIT\nBuildArch: noarch\n\
    %description\na\n%install\nmkdir -p %{buildroot}/usr/share/tiny %{buildroot}/etc\n\
    echo hello > %{buildroot}/usr/share/tiny/hello\necho x=1 > %{buildroot}/etc/tiny.conf\n\
    %files\n/usr/share/tiny/hello\n/etc/tiny.conf\n";

fn repository(dir: &Path) {
    fs::write(dir.join("tiny.spec"), SPEC).unwrap();
    let top = format!("_topdir {}", dir.join("rpmbuild").display());
    let rpms = dir.join("rpms");
    program("rpmbuild")
        .args([
            "-bb",
            "--define",
            &top,
            "--define",
            &format!("_rpmdir {}", rpms.display()),
        ])
        .arg(dir.join("tiny.spec"))
        .run()
        .unwrap();
    program("createrepo_c").arg(&rpms).run().unwrap();
    fs::write(
        dir.join("tiny.repo"),
        format!("[tiny]\nbaseurl=file://{}\ngpgcheck=0\n", rpms.display()),
    )
    .unwrap();
}

#[test]
fn a_json_treefile_composes_from_rpms_into_the_repository_given() {
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    let file = dir.path().join("treefile.json");
    fs::write(
        &file,
        r#"{"ref": "tiny/1/x86_64/core", "repos": ["tiny"], "selinux": false, "packages": ["tiny"]}"#,
    )
    .unwrap();
    let repo = dir.path().join("build-repo");
    let store = Store::new(&dir.path().join("data")).with_paths(Some(&dir.path().join("cache")), Some(&repo));
    let treefile = Treefile::load(&file).unwrap();
    let commit = store.compose_base(&treefile, Policy::Latest).unwrap();
    assert_eq!(store.compose_base(&treefile, Policy::Latest).unwrap(), commit);

    let listed =
        program("ostree")
            .arg(format!("--repo={}", repo.display()))
            .args(["ls", "-R", "tiny/1/x86_64/core"]);
    let listed = listed.run().unwrap();
    assert!(
        listed.contains("/usr/share/tiny/hello") && listed.contains("/usr/etc/tiny.conf"),
        "{listed}"
    );
    assert!(listed.contains("/usr/share/rpm/"), "{listed}");

    let mut placeholder = treefile.clone();
    placeholder.gpg_key = Some("<SET KEY ID FOR GPG>".to_owned());
    assert!(
        store
            .compose_base(&placeholder, Policy::Latest)
            .unwrap_err()
            .to_string()
            .contains("gpg-key")
    );

    store.publish("tiny/1/x86_64/core").unwrap();
    let client = dir.path().join("client");
    let ostree = |arguments: &[&str]| {
        program("ostree")
            .arg(format!("--repo={}", client.display()))
            .args(arguments)
            .run()
    };
    ostree(&["init", "--mode=archive"]).unwrap();
    let url = format!("file://{}", store.published().unwrap().path().display());
    ostree(&["remote", "add", "--no-gpg-verify", "m", &url]).unwrap();
    ostree(&["pull", "m", "tiny/1/x86_64/core"]).unwrap();
}
