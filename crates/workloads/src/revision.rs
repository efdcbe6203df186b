//! ControllerRevisions: what a DaemonSet's or StatefulSet's template was before, numbered, so that it can be had again.

use std::collections::BTreeSet;
use std::sync::Arc;

use mainstay_control::{Error, ObjectKey, Projection};
use serde_json::{Value, json};

use crate::context::Context;
use crate::kinds::ControllerRevision;
use crate::owner;

/// On pods and revisions: which revision.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// Kubernetes' letters for hashes in names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Old revisions that are kept unless the object says otherwise (Kubernetes' default).
const HISTORY: i32 = 10;

/// The revision of the present template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Current {
    /// The object's name.
    pub name: String,
    /// What its pods are labelled with in a DaemonSet.
    pub hash: String,
}

#[derive(Debug)]
pub(crate) enum Step {
    Create(Value),
    /// An earlier template is the present one again: it becomes the newest.
    Renumber(Arc<ControllerRevision>, i64),
    Delete(Arc<ControllerRevision>),
}

/// What is remembered of a template: a patch that puts it back.
fn data(template: &Value) -> Value {
    let mut template = template.clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// FNV-1a of the template, in letters that make no words. `salt` tells apart templates with one hash.
fn hash(data: &Value, salt: u32) -> String {
    let text = format!("{data}{salt}");
    let mixed = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    mixed
        .to_string()
        .bytes()
        .map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char)
        .collect()
}

/// The hash that a revision is labelled with.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(HASH_LABEL))
        .map_or("", String::as_str)
}

fn name_of(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// Finds the present template's revision and what must be written; `used` are the hashes and names that pods carry.
pub(crate) fn plan<P: Projection>(
    owner: &P,
    template: &Value,
    held: &[Arc<ControllerRevision>],
    used: &BTreeSet<String>,
    limit: Option<i32>,
) -> (Current, Vec<Step>) {
    let data = data(template);
    let newest = held.iter().map(|revision| revision.revision).max().unwrap_or(0);
    let (current, mut steps) = match held.iter().find(|revision| revision.data == data) {
        Some(known) => {
            let current = Current {
                name: name_of(known).to_owned(),
                hash: hash_of(known).to_owned(),
            };
            let older = known.revision < newest;
            let steps = older.then(|| Step::Renumber(known.clone(), newest + 1));
            (current, steps.into_iter().collect::<Vec<_>>())
        }
        None => {
            let (current, object) = new(owner, template, &data, held, newest + 1);
            (current, vec![Step::Create(object)])
        }
    };
    let mut idle: Vec<_> = held
        .iter()
        .filter(|revision| {
            let name = name_of(revision);
            name != current.name && !used.contains(name) && !used.contains(hash_of(revision))
        })
        .collect();
    idle.sort_by_key(|revision| revision.revision);
    let keep = usize::try_from(limit.unwrap_or(HISTORY)).unwrap_or(0);
    let surplus = idle.len().saturating_sub(keep);
    steps.extend(
        idle.into_iter()
            .take(surplus)
            .map(|revision| Step::Delete(revision.clone())),
    );
    (current, steps)
}

fn new<P: Projection>(
    owner: &P,
    template: &Value,
    data: &Value,
    held: &[Arc<ControllerRevision>],
    number: i64,
) -> (Current, Value) {
    let owner_name = owner.meta().name.clone().unwrap_or_default();
    let candidates = (0..).map(|salt| hash(data, salt));
    let hash = candidates
        .map(|hash| (format!("{owner_name}-{hash}"), hash))
        .find(|(name, _)| !held.iter().any(|revision| name_of(revision) == name))
        .map(|(_, hash)| hash)
        .unwrap_or_default();
    let name = format!("{owner_name}-{hash}");
    let mut labels = template["metadata"]["labels"].clone();
    labels[HASH_LABEL] = hash.clone().into();
    let object = json!({
        "metadata": {
            "name": name, "namespace": owner.meta().namespace, "labels": labels,
            "annotations": owner.meta().annotations, "ownerReferences": [owner::reference(owner)],
        },
        "data": data, "revision": number,
    });
    (Current { name, hash }, object)
}

/// The revisions that are `owner`'s.
pub(crate) fn held<P: Projection>(context: &Context, owner: &P) -> Vec<Arc<ControllerRevision>> {
    let uid = owner.meta().uid.as_deref();
    context
        .caches
        .revisions
        .select(|revision| owner::controller_of(&revision.metadata).map(|owner| owner.uid.as_str()) == uid)
}

/// Writes what [`plan`] decided.
pub(crate) async fn apply(context: &Context, namespace: &str, steps: Vec<Step>) -> Result<(), Error> {
    let revisions = &context.caches.revisions;
    for step in steps {
        match step {
            Step::Create(object) => {
                let made = context.create::<ControllerRevision>(namespace, object).await?;
                revisions.settle(|revisions| revisions.get(&made).is_some()).await;
            }
            Step::Renumber(revision, number) => {
                let key = ObjectKey::of(&*revision);
                context
                    .patch::<ControllerRevision>(&key, None, json!({"revision": number}))
                    .await?;
                revisions
                    .settle(|revisions| revisions.get(&key).is_none_or(|now| now.revision == number))
                    .await;
            }
            Step::Delete(revision) => {
                let key = ObjectKey::of(&*revision);
                context
                    .delete::<ControllerRevision>(&key, revision.metadata.uid.as_deref())
                    .await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::DaemonSet;
    use crate::testing::decoded;
    use expect_test::{Expect, expect};

    fn set() -> DaemonSet {
        decoded(json!({"metadata": {"name": "agent", "namespace": "default", "uid": "u"}}))
    }

    fn template(image: &str) -> Value {
        json!({"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
    }

    fn stored(image: &str, number: i64) -> Arc<ControllerRevision> {
        let data = data(&template(image));
        let hash = hash(&data, 0);
        Arc::new(decoded(json!({
            "metadata": {"name": format!("agent-{hash}"), "labels": {HASH_LABEL: hash}}, "data": data, "revision": number,
        })))
    }

    fn check(
        image: &str,
        held: &[Arc<ControllerRevision>],
        used: &[&str],
        limit: Option<i32>,
        expected: Expect,
    ) {
        let used = used.iter().map(|hash| (*hash).to_owned()).collect();
        let (_, steps) = plan(&set(), &template(image), held, &used, limit);
        let image = |data: &Value| data["spec"]["template"]["spec"]["containers"][0]["image"].to_string();
        let text = |step: &Step| match step {
            Step::Create(object) => format!("create {} as {}", image(&object["data"]), object["revision"]),
            Step::Renumber(revision, number) => {
                format!("renumber {} to {number}", image(&revision.data))
            }
            Step::Delete(revision) => format!("delete {}", image(&revision.data)),
        };
        expected.assert_eq(&steps.iter().map(text).collect::<Vec<_>>().join("; "));
    }

    #[test]
    fn a_new_template_gets_the_next_number_and_a_known_one_becomes_the_newest_again() {
        let held = [stored("a", 1), stored("b", 2)];
        check("c", &held, &[], None, expect![[r#"create "c" as 3"#]]);
        check("a", &held, &[], None, expect![[r#"renumber "a" to 3"#]]);
        check("b", &held, &[], None, expect![""]);
    }

    #[test]
    fn the_oldest_that_no_pod_uses_are_forgotten() {
        let held = [stored("a", 1), stored("b", 2), stored("c", 3), stored("d", 4)];
        check("d", &held, &[], Some(1), expect![[r#"delete "a"; delete "b""#]]);
        let used = hash_of(&held[0]).to_owned();
        check("d", &held, &[&used], Some(1), expect![[r#"delete "b""#]]);
    }
}
