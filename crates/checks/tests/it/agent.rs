//! The node agent under bad luck, on real containerd and real cgroups: the trials of `checks trial`, with the full
//! figures with `MAINSTAY_TEST_TIER=full`.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::tools::{mainstay, run};

/// One at a time: two cores carry no more.
static TURN: Mutex<()> = Mutex::new(());

fn trial(name: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // The trial starts the binary beside it.
    assert!(mainstay().is_file());
    let said = run(Command::new(env!("CARGO_BIN_EXE_checks")).args(["trial", name]));
    assert!(said.well, "{}{}", said.out, said.err);
}

#[test]
fn killed_again_and_again_the_agent_loses_and_doubles_no_container() {
    trial("kill");
}

#[test]
fn pods_restart_are_probed_and_evicted_while_the_api_server_is_away() {
    trial("away");
}
