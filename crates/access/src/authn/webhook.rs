//! Webhook token review: another server is asked who a token belongs to; answers are remembered for a short time.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use mainstay_base::clock::SharedClock;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Known, TokenMethod};
use crate::outbound::Endpoint;
use crate::sha256::sha256;
use crate::user::UserInfo;

/// How long an answer is believed unless told otherwise: upstream's default.
pub const REMEMBER: Duration = Duration::from_secs(120);
/// Answers remembered at most.
const REMEMBERED: usize = 10_000;
/// How long the other server may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The method; tokens that look like this cluster's own must be asked of other methods first.
pub struct TokenWebhook {
    endpoint: Endpoint,
    clock: SharedClock,
    remember: Duration,
    answers: Mutex<HashMap<[u8; 32], (Duration, Option<Known>)>>,
}

impl TokenWebhook {
    /// Makes the method; answers are believed for as long as `remember`.
    pub fn new(endpoint: Endpoint, remember: Duration, clock: SharedClock) -> Self {
        TokenWebhook {
            endpoint,
            clock,
            remember,
            answers: Mutex::default(),
        }
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Option<Known>> {
        let answers = self.answers.lock();
        let (until, answer) = answers.get(digest)?;
        (*until > self.clock.monotonic()).then(|| answer.clone())
    }

    fn remember(&self, digest: [u8; 32], answer: &Option<Known>) {
        let mut answers = self.answers.lock();
        if answers.len() >= REMEMBERED {
            answers.clear();
        }
        answers.insert(digest, (self.clock.monotonic() + self.remember, answer.clone()));
    }
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect()
}

/// Reads the answer's status. Names and groups of the cluster's own (`system:...`) are never taken from another
/// server: whoever runs it could make anybody anything.
fn known(status: &Value, audiences: &[String]) -> Option<Known> {
    if status["authenticated"] != true {
        return None;
    }
    let told = &status["user"];
    let text = |field: &str| told[field].as_str().unwrap_or_default().to_string();
    let mut groups = texts(&told["groups"]);
    groups.retain(|group| !group.starts_with("system:"));
    let extra = told["extra"].as_object().into_iter().flatten();
    let user = UserInfo {
        name: text("username"),
        uid: text("uid"),
        groups,
        extra: extra
            .map(|(key, values)| (key.to_lowercase(), texts(values)))
            .collect(),
    };
    let named = texts(&status["audiences"]);
    let shared: Vec<String> = match named.is_empty() {
        true => audiences.to_vec(),
        false => named.into_iter().filter(|aud| audiences.contains(aud)).collect(),
    };
    let own = user.name.is_empty() || user.name.starts_with("system:");
    (!own && (audiences.is_empty() || !shared.is_empty())).then_some(Known {
        user,
        audiences: shared,
    })
}

#[async_trait]
impl TokenMethod for TokenWebhook {
    async fn tell(&self, token: &str, audiences: &[String]) -> Result<Option<Known>, String> {
        let digest = sha256(format!("{token}\n{}", audiences.join("\n")));
        if let Some(answer) = self.remembered(&digest) {
            return Ok(answer);
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        });
        let answer = self
            .endpoint
            .post(&review, TIMEOUT)
            .await
            .map_err(|error| mainstay_base::error::chain(&error))?;
        let answer = known(&answer["status"], audiences);
        self.remember(digest, &answer);
        Ok(answer)
    }
}
