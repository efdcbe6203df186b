//! Package sources of this computer: a Debian source whose `url` is `host` uses the archive that the computer's own
//! apt uses for the same suite, so that no treefile needs to name a mirror.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::treefile::{Source, SourceKind, Treefile};

/// The word in place of a URL.
const HOST: &str = "host";

/// Gives the treefile with every `host` replaced by the archive found below `/etc/apt`.
///
/// # Errors
/// Names the field when no archive of this computer has the suite.
pub fn resolved(treefile: &Treefile) -> Result<Treefile> {
    let mut treefile = treefile.clone();
    let wanted = |source: &Source| source.kind == SourceKind::Deb && source.url == HOST;
    if !treefile.sources.iter().any(wanted) {
        return Ok(treefile);
    }
    let archives = archives(Path::new("/etc/apt"));
    for (index, source) in treefile
        .sources
        .iter_mut()
        .enumerate()
        .filter(|(_, source)| wanted(source))
    {
        let suite = source.suites.first().cloned().unwrap_or_default();
        let found = archives.iter().find(|(_, suites)| suites.contains(&suite));
        let (url, _) = found.ok_or_else(|| Error::Treefile {
            field: format!("sources[{index}].url"),
            message: format!("no archive of this computer's apt has suite {suite:?}; add it to /etc/apt/sources.list.d, or name an archive by its URL"),
        })?;
        source.url = url.clone();
    }
    Ok(treefile)
}

/// Every archive with its suites, from one-line and deb822 files.
fn archives(folder: &Path) -> Vec<(String, Vec<String>)> {
    let mut files = vec![folder.join("sources.list")];
    let listed = fs::read_dir(folder.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten();
    let mut more: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
    more.sort();
    files.extend(more);
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts
        .flat_map(|text| {
            if text.contains("URIs:") {
                stanzas(&text)
            } else {
                lines(&text)
            }
        })
        .collect()
}

/// `deb [options] URL suite component…`
fn lines(text: &str) -> Vec<(String, Vec<String>)> {
    let one = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim();
        let rest = rest
            .strip_prefix('[')
            .and_then(|rest| Some(rest.split_once(']')?.1))
            .unwrap_or(rest);
        let mut words = rest.split_whitespace();
        Some((words.next()?.to_string(), vec![words.next()?.to_string()]))
    };
    text.lines().filter_map(one).collect()
}

/// Stanzas of `Key: value` lines.
fn stanzas(text: &str) -> Vec<(String, Vec<String>)> {
    let field = |stanza: &str, key: &str| {
        let value = stanza.lines().find_map(|line| line.strip_prefix(key));
        value
            .map(|value| value.split_whitespace().map(String::from).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let one = |stanza: &str| {
        Some((
            field(stanza, "URIs:").into_iter().next()?,
            field(stanza, "Suites:"),
        ))
    };
    text.split("\n\n").filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_apt_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        fs::write(
            folder.path().join("sources.list"),
            "# no\ndeb [signed-by=/k.gpg] http://a.example/d one main\n",
        )
        .unwrap();
        let stanza = "Types: deb\nURIs: http://b.example/d\nSuites: two three\n\nTypes: deb\nURIs: http://c.example\nSuites: four\n";
        fs::write(folder.path().join("sources.list.d/b.sources"), stanza).unwrap();
        let found: Vec<String> = archives(folder.path())
            .iter()
            .map(|(url, suites)| format!("{url} {}", suites.join(",")))
            .collect();
        assert_eq!(
            found,
            [
                "http://a.example/d one",
                "http://b.example/d two,three",
                "http://c.example four"
            ]
        );
    }
}
