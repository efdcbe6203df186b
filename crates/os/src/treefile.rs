//! The treefile: which packages from which sources make an image. JSON or YAML, with rpm-ostree's field names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, io};

/// A parsed treefile. Field names are those of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Treefile {
    /// Branch the commit goes to, such as `fedora-atomic/rawhide/x86_64/base/core`.
    #[serde(rename = "ref")]
    pub branch: String,
    /// Id of the GPG key that signs the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpg_key: Option<String>,
    /// Ids of package sources: `ID.repo` or `ID.sources` beside the treefile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repos: Vec<String>,
    /// Package sources written in the treefile itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Whether files get SELinux labels. On unless said.
    #[serde(default = "yes")]
    pub selinux: bool,
    /// Packages to install, with what they depend on.
    pub packages: Vec<String>,
    /// Architecture in the sources' terms (`amd64`, `x86_64`); the host's unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Release of the distribution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releasever: Option<String>,
    /// Systemd units to enable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// Packages that must not be in the image, also not as a dependency.
    #[serde(default, skip_serializing_if = "Vec::is_empty", alias = "exclude-packages")]
    pub exclude: Vec<String>,
    /// Shell scripts run in the finished tree, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postprocess: Vec<String>,
    /// Kernel settings that must hold on every node of this image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Kernel arguments of the boot entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
    /// Whether documentation is kept. Off unless said.
    #[serde(default)]
    pub documentation: bool,
}

/// A package source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Source {
    /// Its id.
    pub name: String,
    /// What kind of archive it is.
    #[serde(rename = "type")]
    pub kind: SourceKind,
    /// Where it is; `host` for a Debian source means the archive that this computer's apt uses for the suite.
    pub url: String,
    /// Debian: suites, such as `bookworm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<String>,
    /// Debian: components, such as `main`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Keyring whose keys the archive must be signed with. Without it the archive is trusted as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<PathBuf>,
}

/// Kinds of package sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A Debian archive.
    Deb,
    /// An rpm-md repository.
    RpmMd,
}

fn yes() -> bool {
    true
}

impl Treefile {
    /// Parses and checks a treefile. JSON is YAML, so one parser reads both.
    ///
    /// # Errors
    /// Names the field or the line and column.
    pub fn parse(text: &str) -> Result<Treefile> {
        let treefile: Treefile = serde_yaml_ng::from_str(text).map_err(|error| {
            let place = error.location().map_or("file".to_owned(), |at| {
                format!("line {} column {}", at.line(), at.column())
            });
            Error::Treefile {
                field: place,
                message: error.to_string(),
            }
        })?;
        treefile.check()?;
        Ok(treefile)
    }

    /// Reads a treefile and the source files beside it that `repos` names.
    pub fn load(path: &Path) -> Result<Treefile> {
        let text = fs::read_to_string(path).map_err(io("read the treefile", path))?;
        let mut treefile = Treefile::parse(&text)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for (at, id) in std::mem::take(&mut treefile.repos).into_iter().enumerate() {
            let found = read_source(folder, &id)?.ok_or_else(|| Error::Treefile {
                field: format!("repos[{at}]"),
                message: format!(
                    "neither {id}.repo nor {id}.sources is beside the treefile in {}",
                    folder.display()
                ),
            })?;
            treefile.sources.extend(found);
        }
        Ok(treefile)
    }

    fn check(&self) -> Result<()> {
        let wrong = |field: &str, message: &str| {
            Err(Error::Treefile {
                field: field.to_owned(),
                message: message.to_owned(),
            })
        };
        let valid = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
        if self.branch.is_empty() || !self.branch.chars().all(valid) || self.branch.starts_with('/') {
            return wrong(
                "ref",
                "must be a branch such as fedora-atomic/rawhide/x86_64/base/core",
            );
        }
        if self.packages.is_empty() {
            return wrong("packages", "must name at least one package");
        }
        if let Some(at) = self
            .packages
            .iter()
            .position(|name| name.is_empty() || name.starts_with('-'))
        {
            return wrong(&format!("packages[{at}]"), "is no package name");
        }
        if let Some(both) = self.exclude.iter().find(|name| self.packages.contains(name)) {
            return wrong("exclude", &format!("{both} is also in packages"));
        }
        Ok(())
    }

    /// The id of the signing key, once composing needs it.
    ///
    /// # Errors
    /// When it is not an id but a placeholder such as `<SET KEY ID FOR GPG>`.
    pub fn signing_key(&self) -> Result<Option<&str>> {
        let Some(key) = self.gpg_key.as_deref() else {
            return Ok(None);
        };
        if key.len() >= 8 && key.chars().all(|letter| letter.is_ascii_hexdigit()) {
            return Ok(Some(key));
        }
        Err(Error::Treefile {
            field: "gpg-key".to_owned(),
            message: format!("{key:?} is no key id: give 8 to 40 hexadecimal digits, or leave the field out"),
        })
    }

    /// The kind of all sources.
    ///
    /// # Errors
    /// When there is none, or they are of both kinds.
    pub fn source_kind(&self) -> Result<SourceKind> {
        let wrong = |message: &str| Error::Treefile {
            field: "sources".to_owned(),
            message: message.to_owned(),
        };
        let first = self
            .sources
            .first()
            .ok_or_else(|| wrong("no package source: fill repos or sources"))?
            .kind;
        match self.sources.iter().all(|source| source.kind == first) {
            true => Ok(first),
            false => Err(wrong("Debian and rpm-md sources cannot be mixed in one image")),
        }
    }
}

/// Reads `ID.repo` or `ID.sources`; `None` when neither exists.
fn read_source(folder: &Path, id: &str) -> Result<Option<Vec<Source>>> {
    let repo = folder.join(format!("{id}.repo"));
    if repo.exists() {
        let text = fs::read_to_string(&repo).map_err(io("read", &repo))?;
        return parse_repo(id, &text).map(|source| Some(vec![source]));
    }
    let sources = folder.join(format!("{id}.sources"));
    if sources.exists() {
        let text = fs::read_to_string(&sources).map_err(io("read", &sources))?;
        return parse_deb822(id, &text).map(Some);
    }
    Ok(None)
}

/// Reads the section `[ID]` of a dnf .repo file.
fn parse_repo(id: &str, text: &str) -> Result<Source> {
    let start = format!("[{id}]");
    let lines = text
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != start)
        .skip(1);
    let section: Vec<&str> = lines.take_while(|line| !line.starts_with('[')).collect();
    let value = |key: &str| {
        section.iter().find_map(|line| {
            line.split_once('=')
                .filter(|(k, _)| k.trim() == key)
                .map(|(_, v)| v.trim())
        })
    };
    let url = value("baseurl").ok_or_else(|| Error::Treefile {
        field: format!("repos: {id}.repo"),
        message: format!("has no section {start} with a baseurl"),
    })?;
    let gpg_key = value("gpgkey").filter(|_| value("gpgcheck") != Some("0"));
    Ok(Source {
        name: id.to_owned(),
        kind: SourceKind::RpmMd,
        url: url.to_owned(),
        suites: Vec::new(),
        components: Vec::new(),
        signed_by: gpg_key.map(|key| PathBuf::from(key.trim_start_matches("file://"))),
    })
}

/// Reads the paragraphs of an apt .sources file.
fn parse_deb822(id: &str, text: &str) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for (at, paragraph) in text.split("\n\n").enumerate() {
        let value = |key: &str| {
            let mut lines = paragraph.lines().filter(|line| !line.starts_with('#'));
            lines.find_map(|line| {
                line.split_once(':')
                    .filter(|(k, _)| *k == key)
                    .map(|(_, v)| v.trim().to_owned())
            })
        };
        let words = |key: &str| -> Vec<String> {
            value(key)
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect()
        };
        for url in words("URIs") {
            found.push(Source {
                name: format!("{id}-{at}"),
                kind: SourceKind::Deb,
                url,
                suites: words("Suites"),
                components: words("Components"),
                signed_by: value("Signed-By").map(PathBuf::from),
            });
        }
    }
    if found.is_empty() {
        return Err(Error::Treefile {
            field: format!("repos: {id}.sources"),
            message: "has no URIs".to_owned(),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_treefile_of_the_usual_form_parses_and_its_placeholder_key_fails_at_compose_only() {
        let text = r#"{
            "ref": "fedora-atomic/rawhide/x86_64/base/core",
            "gpg-key": "<SET KEY ID FOR GPG>",
            "repos": ["fedora-rawhide"],
            "selinux": true,
            "packages": ["kernel", "ostree", "lvm2", "NetworkManager", "sudo"]
        }"#;
        let treefile = Treefile::parse(text).unwrap();
        assert_eq!(treefile.repos, ["fedora-rawhide"]);
        let error = treefile.signing_key().unwrap_err().to_string();
        assert_eq!(
            error,
            "treefile: gpg-key: \"<SET KEY ID FOR GPG>\" is no key id: give 8 to 40 hexadecimal digits, or leave \
             the field out"
        );
    }

    #[test]
    fn mistakes_name_the_field() {
        let said = |text: &str| Treefile::parse(text).unwrap_err().to_string();
        assert!(said("ref: a\npakages: [b]").contains("unknown field `pakages`"));
        assert!(said("packages: [b]").contains("missing field `ref`"));
        assert_eq!(
            said("{ref: a, packages: []}"),
            "treefile: packages: must name at least one package"
        );
        assert_eq!(
            said("{ref: a, packages: [b], exclude: [b]}"),
            "treefile: exclude: b is also in packages"
        );
        assert!(said("{ref: /a, packages: [b]}").starts_with("treefile: ref: "));
        assert!(said("{ref: a, packages: [b, -c]}").starts_with("treefile: packages[1]: "));
    }

    #[test]
    fn repos_resolve_to_files_beside_the_treefile() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tree.json");
        fs::write(
            &file,
            r#"{"ref": "a", "repos": ["tiny", "deb"], "packages": ["b"]}"#,
        )
        .unwrap();
        assert!(
            Treefile::load(&file)
                .unwrap_err()
                .to_string()
                .starts_with("treefile: repos[0]: neither tiny.repo")
        );
        fs::write(
            dir.path().join("tiny.repo"),
            "[other]\nbaseurl=x\n[tiny]\nbaseurl = file:///r\ngpgcheck=0\n",
        )
        .unwrap();
        fs::write(
            dir.path().join("deb.sources"),
            "Types: deb\nURIs: http://d/x\nSuites: a b\nComponents: main\n",
        )
        .unwrap();
        let treefile = Treefile::load(&file).unwrap();
        assert_eq!(treefile.sources[0].url, "file:///r");
        assert_eq!(treefile.sources[1].suites, ["a", "b"]);
        assert!(
            treefile
                .source_kind()
                .unwrap_err()
                .to_string()
                .contains("cannot be mixed")
        );
    }

    #[test]
    fn the_own_treefile_parses() {
        assert_eq!(
            Treefile::parse(crate::NODE_TREEFILE)
                .unwrap()
                .source_kind()
                .unwrap(),
            SourceKind::Deb
        );
    }
}
