//! The static token file: lines of `token,user,uid[,"group1,group2"]`.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{Known, TokenMethod};
use crate::sha256::sha256;
use crate::user::UserInfo;

/// Why a token file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("token file line {line}: {problem}")]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// Tokens known from a file. They are kept hashed, so that a lookup takes the same time for near misses.
#[derive(Debug, Default)]
pub struct TokenFile {
    users: HashMap<[u8; 32], UserInfo>,
}

impl TokenFile {
    /// Reads the file's text; empty lines and those that start with `#` are skipped.
    ///
    /// # Errors
    /// Names the first malformed line.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_blank(line)) {
            let (token, user) = parse_line(line).map_err(|problem| Malformed {
                line: number + 1,
                problem,
            })?;
            users.insert(sha256(token), user);
        }
        Ok(TokenFile { users })
    }
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

fn parse_line(line: &str) -> Result<(String, UserInfo), &'static str> {
    let fields = csv_fields(line)?;
    let [token, name, uid, rest @ ..] = fields.as_slice() else {
        return Err("needs at least token, user name and uid");
    };
    if token.is_empty() || name.is_empty() {
        return Err("token and user name may not be empty");
    }
    let groups = rest.first().map(String::as_str).unwrap_or_default();
    let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
    let user = UserInfo {
        name: name.clone(),
        uid: uid.clone(),
        groups: groups.map(str::to_string).collect(),
        ..UserInfo::default()
    };
    Ok((token.clone(), user))
}

/// Splits a line at commas outside double quotes; two quotes inside quotes are one.
fn csv_fields(line: &str) -> Result<Vec<String>, &'static str> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.trim_end().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_string()),
            other => field.push(other),
        }
    }
    if quoted {
        return Err("a quote is not closed");
    }
    fields.push(field.trim().to_string());
    Ok(fields)
}

#[async_trait]
impl TokenMethod for TokenFile {
    async fn tell(&self, token: &str, audiences: &[String]) -> Result<Option<Known>, String> {
        let digest = sha256(token);
        let user = self.users.get(&digest).cloned();
        Ok(user.map(|user| Known {
            user,
            audiences: audiences.to_vec(),
        }))
    }
}
