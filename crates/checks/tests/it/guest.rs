//! The node agent in an emulated machine, where cgroup v2 and systemd are: `checks trial cgroups` (plain folders) and
//! `checks trial slices` (systemd's). Minutes long, so with `MAINSTAY_TEST_TIER=full` only; what a guest needs comes from
//! `scripts/setup-guest`.

use std::process::Command;

use crate::tools::{full_tier, mainstay, run};

#[test]
fn on_cgroup_v2_the_kernel_has_what_pods_asked_for() {
    if !full_tier() || cfg!(not(target_arch = "x86_64")) {
        eprintln!("skipped: an emulated machine takes minutes (MAINSTAY_TEST_TIER=full, on x86_64)");
        return;
    }
    // The guest gets the binary beside the program that starts it.
    assert!(mainstay().is_file());
    for trial in ["cgroups", "slices"] {
        let said = run(Command::new(env!("CARGO_BIN_EXE_checks")).args(["trial", trial]));
        assert!(said.well, "{trial}: {}{}", said.out, said.err);
        let proof = "no cgroup is left";
        assert!(
            said.err.contains(proof),
            "{trial}: no {proof:?} in:\n{}",
            said.err
        );
    }
}
