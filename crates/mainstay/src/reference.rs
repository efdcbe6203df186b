//! The book's reference page, made from the command line and the catalogue: a test keeps it in step
//! (`UPDATE_EXPECT=1 cargo test -p mainstay reference` writes it again).

use std::fmt::Write as _;

use clap::CommandFactory;

use crate::args::Args;
use crate::explain::CATALOGUE;
use crate::outcome::Code;

/// Wide enough that nothing wraps differently on another terminal.
const WIDTH: usize = 100;

fn page() -> String {
    let mut text = String::from(
        "# Reference: commands, exit codes, failures\n\n\
         Made from the program itself; do not edit. Every command also takes the flags of the section \"Everywhere\".\n",
    );
    let mut root = Args::command().term_width(WIDTH);
    root.build();
    text += "\n## mainstay\n\n";
    block(&mut text, &root.render_help().to_string());
    commands(&mut text, &root, "mainstay");
    text += "\n## Exit codes\n\n| code | meaning |\n|---|---|\n";
    for code in Code::ALL {
        let _ = writeln!(text, "| {} | {} |", code as u8, code.meaning());
    }
    text += "\n## Failures\n\n`mainstay explain ID` prints the same without a network.\n";
    for entry in CATALOGUE {
        let _ = write!(
            text,
            "\n### {}\n{}. Exit code {}.\n\n{}\n\nWhat helps: {}\n",
            entry.id, entry.title, entry.code as u8, entry.meaning, entry.fix
        );
    }
    text
}

fn commands(text: &mut String, of: &clap::Command, path: &str) {
    for command in of.get_subcommands() {
        if command.is_hide_set() || command.get_name() == "help" {
            continue;
        }
        let path = format!("{path} {}", command.get_name());
        let _ = write!(text, "\n## {path}\n\n");
        let help = command.clone().term_width(WIDTH).render_long_help().to_string();
        block(text, &without_everywhere(&help));
        commands(text, command, &path);
    }
}

fn block(text: &mut String, help: &str) {
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(text, "```text\n{}\n```\n", lines.join("\n"));
}

/// The flags that every command has stand once, above.
fn without_everywhere(help: &str) -> String {
    let mut skipping = false;
    let mut kept = String::new();
    for line in help.lines() {
        skipping = match (line, skipping) {
            ("Everywhere:", _) => true,
            (line, true) => line.is_empty() || line.starts_with(' '),
            (_, skipping) => skipping,
        };
        if !skipping {
            kept += line;
            kept += "\n";
        }
    }
    kept
}

#[test]
fn the_reference_page_says_what_the_program_does() {
    expect_test::expect_file!["../../../docs/book/reference.md"].assert_eq(&page());
}
