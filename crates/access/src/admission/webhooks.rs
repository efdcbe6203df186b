//! Mutating and validating webhooks: which are asked, how, and what becomes of their answers.

mod call;
mod matching;

use async_trait::async_trait;
use serde_json::Value;

use crate::hooks::{Admit, Review, World};
use crate::status::ApiResult;

use call::{Answer, ask};
use matching::{Hook, hooks};

/// Kinds whose own writes no webhook sees, so that a broken webhook can always be removed.
const EXEMPT: &[&str] = &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];

/// The plugin for both kinds of webhooks.
#[derive(Default)]
pub struct Webhooks;

impl Webhooks {
    /// Makes the plugin.
    pub fn new() -> Self {
        Webhooks
    }
}

fn exempt(review: &Review) -> bool {
    review.group == "admissionregistration.k8s.io" && EXEMPT.contains(&review.resource.as_str())
}

#[async_trait]
impl Admit for Webhooks {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if exempt(review) {
            return Ok(());
        }
        let hooks = hooks(
            world,
            "admissionregistration.k8s.io/mutatingwebhookconfigurations",
        );
        let first = round(&hooks, review, world, |_| true).await?;
        // Those that asked for it see what later ones changed; once, as upstream.
        if let Some(last) = first {
            round(&hooks[..last], review, world, |hook| hook.reinvoked).await?;
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if exempt(review) {
            return Ok(());
        }
        let hooks = hooks(
            world,
            "admissionregistration.k8s.io/validatingwebhookconfigurations",
        );
        for hook in &hooks {
            if hook.wants(review, world)? {
                ask(hook, review, world).await?;
            }
        }
        Ok(())
    }
}

/// Asks each hook in turn and applies its patch; tells the number of the last hook that changed something.
async fn round(
    hooks: &[Hook],
    review: &mut Review,
    world: &dyn World,
    also: impl Fn(&Hook) -> bool,
) -> ApiResult<Option<usize>> {
    let mut changed = None;
    for (number, hook) in hooks.iter().enumerate().filter(|(_, hook)| also(hook)) {
        if !hook.wants(review, world)? {
            continue;
        }
        if let Answer::Patched(object) = ask(hook, review, world).await?
            && object != review.object
        {
            changed = Some(number);
            review.object = object;
        }
    }
    Ok(changed)
}

/// A text field, empty when unset.
fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}
