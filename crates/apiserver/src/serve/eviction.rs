//! Eviction: a delete that disruption budgets may refuse. The budget's count goes down in a transaction of its own,
//! before the pod goes, as upstream does.

use std::sync::Arc;

use http::{Response, StatusCode};
use mainstay_semantics::selector::LabelSelector;
use serde_json::{Value, json};

use super::options::{DeleteOptions, WriteOptions};
use super::{Call, read, write};
use crate::body::Body;
use crate::registry::update::{self, Made};
use crate::registry::{Write, delete as registry_delete, meta_text};
use crate::resources::{Gvk, Resource};
use crate::respond;
use crate::schema;
use crate::server::Server;
use mainstay_access::hooks::World as _;
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult, Cause};
use mainstay_access::user::UserInfo;

const BUDGETS: &str = "policy/poddisruptionbudgets";

/// Answers `POST pods/NAME/eviction`.
///
/// # Errors
/// 404, 400 for another pod's name, 429 when a budget does not allow it.
pub async fn evict(server: &Arc<Server>, pods: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let kind = Gvk {
        group: "policy".into(),
        version: "v1".into(),
        kind: "Eviction".into(),
    };
    let content = crate::negotiate::content(&call.parts.headers)?;
    let eviction = schema::decode(pods, &kind, &call.body, content, options.validation)?.value;
    let named = meta_text(&eviction, "name");
    if !named.is_empty() && named != call.info.name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    read::reach(server, None).await?;
    let pod = read::find(server, pods, call.namespace(pods), &call.info.name)?;
    let mut delete = DeleteOptions::parse(&call.query, &eviction["deleteOptions"])?;
    delete.dry_run |= options.dry_run;
    if !is_free_to_go(&pod) {
        charge(server, &pod, delete.dry_run).await?;
    }
    let frame = write::frame(
        server,
        pods,
        call,
        WriteOptions {
            dry_run: delete.dry_run,
            ..options
        },
    );
    registry_delete::delete(
        &Write {
            subresource: "",
            ..frame
        },
        &delete,
    )
    .await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::encoded(
        StatusCode::CREATED,
        &status,
        read::wanted(call, pods)?.format,
    ))
}

/// Pods that have ended, have not started or are going anyway need no budget.
fn is_free_to_go(pod: &Object) -> bool {
    matches!(&*pod.scalar("status.phase"), "Succeeded" | "Failed" | "Pending")
        || !pod.scalar("metadata.deletionTimestamp").is_empty()
}

async fn charge(server: &Arc<Server>, pod: &Object, dry_run: bool) -> ApiResult<()> {
    let namespace = pod.namespace().into_owned();
    let covering: Vec<Arc<Object>> = server
        .caches()
        .list(BUDGETS, Some(&namespace))
        .into_iter()
        .filter(|budget| covers(budget, pod))
        .collect();
    match covering.as_slice() {
        [] => Ok(()),
        [budget] => take_one(server, &namespace, budget, pod, dry_run).await,
        _ => Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

fn covers(budget: &Object, pod: &Object) -> bool {
    let value = budget.value();
    LabelSelector::from_json(&value["spec"]["selector"]).is_ok_and(|selector| selector.matches(pod))
}

async fn take_one(
    server: &Arc<Server>,
    namespace: &str,
    budget: &Object,
    pod: &Object,
    dry_run: bool,
) -> ApiResult<()> {
    let budgets = server
        .catalog()
        .find("policy", "v1", "poddisruptionbudgets")
        .cloned();
    let budgets = budgets.ok_or_else(ApiError::no_resource)?;
    let name = budget.name().into_owned();
    let user = Arc::new(UserInfo::component("system:apiserver"));
    let options = WriteOptions::parse(&mainstay_access::query::Query::default(), "UpdateOptions", false)?;
    let write = Write {
        server,
        resource: &budgets,
        subresource: "status",
        namespace,
        name: &name,
        user: &user,
        options: WriteOptions { dry_run, ..options },
        manager: "mainstay".into(),
    };
    let now = mainstay_base::clock::rfc3339_seconds(server.clock.now());
    let change = |old: Option<&Value>| {
        let mut budget = old.cloned().unwrap_or_default();
        let status = &budget["status"];
        let seen = status["observedGeneration"].as_i64().unwrap_or(0);
        if seen < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            return Err(blocked(
                &name,
                &format!("The disruption budget {name} is still being processed by the server."),
            ));
        }
        let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            let (healthy, wanted) = (
                status["currentHealthy"].as_i64(),
                status["desiredHealthy"].as_i64(),
            );
            let text = format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                wanted.unwrap_or(0),
                healthy.unwrap_or(0)
            );
            return Err(blocked(&name, &text));
        }
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        budget["status"]["disruptedPods"][&*pod.name()] = now.as_str().into();
        Ok(Made {
            object: budget,
            warnings: Vec::new(),
            tracked: false,
        })
    };
    update::update(&write, &change, false).await.map(drop)
}

fn blocked(_budget: &str, text: &str) -> ApiError {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    ApiError::too_many_requests(message, 10).cause(Cause::new("DisruptionBudget", "", text))
}
