//! Where policy enters the request chain: authentication, authorization, admission, charging and list filters.
//! The chain calls them in this order: [`Authenticate`], impersonation, audit, [`Authorize`] (or a [`ListFilter`]
//! for lists and watches that were not allowed), decode, [`Admit::mutate`], validation, [`Admit::validate`],
//! [`Charge`], transaction. All see the world through [`World`], which waits only where it is asked to catch up.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use crate::info::RequestInfo;
use crate::object::Object;
use crate::query::Query;
use crate::status::ApiResult;
use crate::user::UserInfo;

/// What the server's watch caches hold, for policy decisions. Resources are named as in the store:
/// `core/pods`, `rbac.authorization.k8s.io/roles`. Reads are in memory and may be a moment behind the store.
#[async_trait]
pub trait World: Send + Sync {
    /// Looks up one object; `namespace` is empty for cluster-scoped resources.
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// Lists a resource, of one namespace or of all (`None`), in key order.
    fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>>;
    /// The pods of a namespace that are bound to a node, in key order.
    fn pods_of(&self, node: &str, namespace: &str) -> Vec<Arc<Object>> {
        let mut pods = self.list("core/pods", Some(namespace));
        pods.retain(|pod| pod.scalar("spec.nodeName") == node);
        pods
    }
    /// A number that changes whenever an object of the resource changes: compile rules once per generation.
    fn generation(&self, resource: &str) -> u64;
    /// Waits until everything is seen that was stored before, also by other servers over the same store; as far as the
    /// store answers in time.
    async fn catch_up(&self) {}
}

/// What a request wants to do, as the authorizer sees it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// Resource verb (`get`, `list`, `watch`, `create`, ...) or lower-case HTTP method for other paths.
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural resource name; empty when `path` is meant.
    pub resource: &'a str,
    /// For example `status`; empty for none.
    pub subresource: &'a str,
    /// Empty for cluster scope or all namespaces.
    pub namespace: &'a str,
    /// Empty where the request names no object.
    pub name: &'a str,
    /// The URL path (also set for resource requests).
    pub path: &'a str,
    /// Whether this is a request for a resource, not for a plain path.
    pub is_resource: bool,
    /// The label selector of a list, watch or deletecollection, unparsed.
    pub label_selector: &'a str,
    /// The field selector of a list, watch or deletecollection, unparsed.
    pub field_selector: &'a str,
}

impl RequestInfo {
    /// What an authorizer is asked.
    pub fn attributes<'a>(&'a self, user: &'a UserInfo, query: &'a Query) -> Attributes<'a> {
        let selects = matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        let selector = |key: &str| query.get(key).filter(|_| selects).unwrap_or_default();
        Attributes {
            user,
            verb: &self.verb,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: &self.path,
            is_resource: self.is_resource,
            label_selector: selector("labelSelector"),
            field_selector: selector("fieldSelector"),
        }
    }
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, nobody else is asked.
    Allow,
    /// No, nobody else is asked; the reason is shown.
    Deny(String),
    /// Ask the next; nobody's opinion is a no. The reason may be empty.
    NoOpinion(String),
}

/// The peer of a connection, put into the request's extensions by the accept loop.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The client's certificate chain, verified against the client CA; empty without one.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// The client's address.
    pub address: Option<std::net::SocketAddr>,
    /// Whom the certificate names, read once per connection.
    pub user: Arc<std::sync::OnceLock<Result<Arc<UserInfo>, String>>>,
}

/// Finds out who makes a request that came over a socket. In-process requests carry their [`UserInfo`] already.
#[async_trait]
pub trait Authenticate: Send + Sync {
    /// Tells the user, `None` when the request shows no credentials at all.
    ///
    /// # Errors
    /// 401 when credentials are shown but not valid.
    async fn authenticate(&self, request: &Parts, peer: &Peer) -> ApiResult<Option<Arc<UserInfo>>>;
}

/// Decides whether a request may go on.
#[async_trait]
pub trait Authorize: Send + Sync {
    /// Decides. Must be quick: it is called for every request.
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change, by PUT or any patch.
    Update,
    /// A deletion.
    Delete,
    /// A subresource that opens a connection: exec, attach, portforward, proxy.
    Connect,
}

/// One write on its way through admission.
#[derive(Debug, Clone)]
pub struct Review {
    /// What is done.
    pub operation: Operation,
    /// API group, empty for core.
    pub group: String,
    /// The version of the request.
    pub version: String,
    /// Plural resource.
    pub resource: String,
    /// Empty for none.
    pub subresource: String,
    /// The kind of `object`.
    pub kind: String,
    /// Empty for cluster scope.
    pub namespace: String,
    /// May be empty on create with generateName until the name is made.
    pub name: String,
    /// Who does it.
    pub user: Arc<UserInfo>,
    /// The new object (with defaults), `Value::Null` for deletes.
    pub object: Value,
    /// The object as it is stored, `Value::Null` for creates.
    pub old: Value,
    /// Create, update, patch or delete options as the client gave them.
    pub options: Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

impl Review {
    /// Names the resource as the store does, for example `core/pods`.
    pub fn store_resource(&self) -> String {
        store_resource(&self.group, &self.resource)
    }

    /// Tells whether this is about `group/resource` itself or, when `subresource` is given, that subresource.
    pub fn is(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource == subresource
    }
}

/// Names a resource as the store does: `core/pods`, `apps/deployments`.
pub fn store_resource(group: &str, resource: &str) -> String {
    match group {
        "" => format!("core/{resource}"),
        _ => format!("{group}/{resource}"),
    }
}

/// One admission plugin, or a chain of them.
#[async_trait]
pub trait Admit: Send + Sync {
    /// May change `review.object`. Called before validation; the object is defaulted again afterwards.
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()>;
    /// Accepts or refuses. Called after validation, with the final object.
    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()>;
}

/// Another object that must change in the same transaction as the write, for example a ResourceQuota.
#[derive(Debug, Clone)]
pub struct Charged {
    /// As the store names it: `core/resourcequotas`.
    pub resource: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision that the charge was computed from ([`Object::revision`]).
    pub revision: u64,
    /// The object as it will be.
    pub value: Value,
}

/// Charges a write. Called again, with fresh objects, when another write came first; so concurrent writes never
/// overshoot and clients never see the conflict.
#[async_trait]
pub trait Charge: Send + Sync {
    /// Tells what else must be written, or refuses.
    async fn charge(&self, review: &Review, world: &dyn World) -> ApiResult<Vec<Charged>>;
}

/// Tells which objects a filtered list or watch may show.
pub type Visible = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// Lets users list what is theirs where they may not list everything.
pub trait ListFilter: Send + Sync {
    /// Asked for lists and watches that [`Authorize`] did not allow; `None` keeps the refusal.
    fn filter(&self, attributes: &Attributes<'_>, world: &Arc<dyn World>) -> Option<Visible>;
}

/// A request that is answered, not stored: access reviews, token reviews, token requests.
pub struct Ask<'a> {
    /// What the request is about.
    pub info: &'a RequestInfo,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The body, decoded.
    pub object: Value,
    /// The world.
    pub world: &'a dyn World,
    /// The authorizers, for reviews.
    pub authorize: &'a dyn Authorize,
}

/// Answers creates of resources that are not stored (`create` of `subjectaccessreviews`, of
/// `serviceaccounts/token`, ...).
#[async_trait]
pub trait Answer: Send + Sync {
    /// Answers with the object that goes back to the client; `None` = not mine.
    async fn answer(&self, ask: &Ask<'_>) -> Option<ApiResult<Value>>;

    /// The JSON document at a path outside the API groups; `None` = not mine.
    fn document(&self, _path: &str) -> Option<Value> {
        None
    }
}

/// How far a request has come when it is noted, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditStage {
    /// It has been read and its user is known.
    RequestReceived,
    /// A stream begins; other answers skip this stage.
    ResponseStarted,
    /// The answer is complete; for a stream, it has ended.
    ResponseComplete,
}

/// One request as the audit log sees it.
#[derive(Debug)]
pub struct Audited<'a> {
    /// `Audit-Id`.
    pub id: &'a str,
    /// How far it has come.
    pub stage: AuditStage,
    /// What it is about.
    pub info: &'a RequestInfo,
    /// The full request URI.
    pub uri: &'a str,
    /// Who, after impersonation.
    pub user: &'a UserInfo,
    /// Who really, when `user` is impersonated.
    pub impersonator: Option<&'a UserInfo>,
    /// The client's address, if it came over a socket.
    pub source: Option<std::net::SocketAddr>,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// Whether it was allowed, once that is known.
    pub allowed: Option<bool>,
    /// The HTTP status of the answer; 0 while there is none.
    pub code: u16,
    /// When it came.
    pub received: jiff::Timestamp,
    /// When it came to this stage.
    pub reached: jiff::Timestamp,
    /// The request's body, empty for none.
    pub request_body: &'a [u8],
    /// The answer's body in pieces; empty for streams.
    pub response_body: &'a [Bytes],
}

/// Writes the audit log.
pub trait Audit: Send + Sync {
    /// Called at each stage of a request. Must not block.
    fn log(&self, event: &Audited<'_>);
}

/// Everything policy adds to a server; each list is asked in order. [`Hooks::default`] lets everybody do everything
/// and is for tests only.
#[derive(Clone, Default)]
pub struct Hooks {
    /// The first that tells a user wins.
    pub authenticate: Vec<Arc<dyn Authenticate>>,
    /// The first decision wins; an empty list allows everything.
    pub authorize: Vec<Arc<dyn Authorize>>,
    /// All are asked.
    pub admit: Vec<Arc<dyn Admit>>,
    /// All are asked.
    pub charge: Vec<Arc<dyn Charge>>,
    /// The first filter wins.
    pub list_filter: Vec<Arc<dyn ListFilter>>,
    /// The first answer wins.
    pub answer: Vec<Arc<dyn Answer>>,
    /// All are told.
    pub audit: Vec<Arc<dyn Audit>>,
    /// Whether requests without credentials go on as `system:anonymous`.
    pub anonymous: bool,
}

#[async_trait]
impl Authorize for Hooks {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if self.authorize.is_empty() {
            return Decision::Allow;
        }
        let mut reasons = Vec::new();
        for authorizer in &self.authorize {
            match authorizer.authorize(attributes).await {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join(", "))
    }
}
