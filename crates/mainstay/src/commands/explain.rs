//! `mainstay explain`: what a failure's id means.

use serde_json::json;

use crate::explain::{CATALOGUE, Entry, find};
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// Prints one entry, or a line for each.
pub fn run(id: Option<&str>, output: &Output) -> Outcome {
    let Some(id) = id else {
        let lines = || {
            let ids: String = CATALOGUE
                .iter()
                .map(|entry| format!("{}  {}\n", entry.id, entry.title))
                .collect();
            let codes: String = Code::ALL
                .iter()
                .map(|code| format!("{:>12}  {}\n", *code as u8, code.meaning()))
                .collect();
            format!("{ids}\nExit codes of every command:\n{codes}")
        };
        let codes = Code::ALL
            .iter()
            .map(|code| json!({"code": *code as u8, "meaning": code.meaning()}));
        let document = json!({
            "items": CATALOGUE.iter().map(document).collect::<Vec<_>>(), "exitCodes": codes.collect::<Vec<_>>(),
        });
        output.answer("FailureList", document, lines);
        return Ok(Code::Ok);
    };
    let entry = find(id).ok_or_else(|| {
        Failure::new("MS-CFG-0003", format!("there is no failure {id}"))
            .fix("list all ids with `mainstay explain`")
    })?;
    output.answer("FailureKind", document(entry), || {
        format!(
            "{}: {}\n\n{}\n\nWhat helps: {}\nExit code:  {}\n",
            entry.id, entry.title, entry.meaning, entry.fix, entry.code as u8
        )
    });
    Ok(Code::Ok)
}

fn document(entry: &Entry) -> serde_json::Value {
    json!({
        "id": entry.id, "title": entry.title, "meaning": entry.meaning, "fix": entry.fix,
        "exitCode": entry.code as u8,
    })
}
