//! `mainstay os`: composes images.

use mainstay_base::error::chain;
use mainstay_os::snapshot::Policy;
use mainstay_os::{Store, Treefile};
use serde_json::json;

use crate::args::{ComposeArgs, OsCommand};
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// Runs the command.
pub fn run(command: &OsCommand, output: &Output) -> Outcome {
    match command {
        OsCommand::Compose(args) => compose(args, output),
    }
}

fn compose(args: &ComposeArgs, output: &Output) -> Outcome {
    let failed = |error: mainstay_os::Error| Failure::new("MS-OS-0001", chain(&error));
    let step = output.step(1, 1, "compose", None);
    let treefile = Treefile::load(&args.treefile).map_err(failed)?;
    let store = Store::new(&args.repo).with_paths(args.cachedir.as_deref(), Some(&args.repo));
    let commit = store.compose_base(&treefile, Policy::Pinned).map_err(failed)?;
    step.done(&format!("{} in {}", treefile.branch, args.repo.display()));
    let document = json!({"ref": treefile.branch, "commit": commit, "repo": args.repo});
    output.answer("Composed", document, || {
        format!("{} => {commit}", treefile.branch)
    });
    Ok(Code::Ok)
}
