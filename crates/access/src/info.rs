//! Reads what a request is about from its method, path and query: verb, group, version, resource, name.

use http::Method;

use crate::query::Query;

/// What a request is about, as upstream's RequestInfo.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// Resource verb, or the HTTP method in lower case.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Empty for none.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Empty for none.
    pub subresource: String,
    /// Empty for none.
    pub name: String,
    /// What follows the subresource (proxy paths), without leading slash.
    pub rest: String,
    /// The URL's path.
    pub path: String,
}

/// Subresources of namespaces; everything else behind a namespace's name is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads a request's method, path and query.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = RequestInfo {
            verb: method.as_str().to_ascii_lowercase(),
            path: path.to_string(),
            ..RequestInfo::default()
        };
        let decoded: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(crate::query::decode)
            .collect();
        let mut parts: &[String] = &decoded;
        match parts.first().map(String::as_str) {
            Some("api") if parts.len() >= 3 => parts = &parts[1..],
            Some("apis") if parts.len() >= 4 => {
                info.group = parts[1].clone();
                parts = &parts[2..];
            }
            _ => return info,
        }
        info.version = parts[0].clone();
        parts = &parts[1..];
        info.is_resource = true;
        info.read_resource(method, parts, query);
        info
    }

    fn read_resource(&mut self, method: &Method, mut parts: &[String], query: &Query) {
        let legacy_watch = parts.len() > 1 && parts[0] == "watch";
        if legacy_watch {
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].clone();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
                parts = &parts[2..];
            }
        }
        self.resource = parts[0].clone();
        self.name = parts.get(1).cloned().unwrap_or_default();
        self.subresource = parts.get(2).cloned().unwrap_or_default();
        self.rest = parts.get(3..).unwrap_or_default().join("/");
        if self.resource == "namespaces" && self.name.is_empty() {
            self.namespace.clear();
        }
        self.verb = self.resource_verb(method, legacy_watch, query).to_string();
        if self.name.is_empty() && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            self.name = name_in_selector(query.get("fieldSelector").unwrap_or_default());
        }
    }

    fn resource_verb(&self, method: &Method, legacy_watch: bool, query: &Query) -> &'static str {
        let named = !self.name.is_empty();
        match method.as_str() {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if named => "delete",
            "DELETE" => "deletecollection",
            _ if legacy_watch => "watch",
            _ if named => "get",
            _ if query.flag("watch") => "watch",
            _ => "list",
        }
    }

    /// Whether the request names one object by its path.
    pub fn is_named(&self) -> bool {
        !matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") && !self.name.is_empty()
    }

    /// Whether the path goes to one object or below it.
    pub fn is_named_path(&self) -> bool {
        self.is_named() || !self.subresource.is_empty()
    }
}

fn name_in_selector(selector: &str) -> String {
    let parsed = mainstay_semantics::selector::FieldSelector::parse(selector).unwrap_or_default();
    parsed.exact("metadata.name").unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn shown(method: &str, uri: &str) -> String {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let info = RequestInfo::parse(&method, path, &Query::parse(query));
        format!(
            "{} g={} v={} ns={} r={} n={} s={} rest={}\n",
            info.verb,
            info.group,
            info.version,
            info.namespace,
            info.resource,
            info.name,
            info.subresource,
            info.rest
        )
    }

    #[test]
    fn paths_are_read_as_upstream_does() {
        let text: String = [
            ("GET", "/api/v1/namespaces"),
            ("GET", "/api/v1/namespaces/a"),
            ("PUT", "/api/v1/namespaces/a/finalize"),
            ("GET", "/api/v1/namespaces/a/pods?&watch=1"),
            ("GET", "/api/v1/watch/namespaces/a/pods"),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments"),
            ("GET", "/apis/apps/v1/deployments?fieldSelector=metadata.name%3Dx"),
            ("GET", "/api/v1/nodes/n/proxy/a/b"),
            ("GET", "/apis/apps/v1"),
            ("GET", "/healthz"),
        ]
        .iter()
        .map(|(method, uri)| shown(method, uri))
        .collect();
        expect![[r#"
            list g= v=v1 ns= r=namespaces n= s= rest=
            get g= v=v1 ns=a r=namespaces n=a s= rest=
            update g= v=v1 ns=a r=namespaces n=a s=finalize rest=
            watch g= v=v1 ns=a r=pods n= s= rest=
            watch g= v=v1 ns=a r=pods n= s= rest=
            deletecollection g=apps v=v1 ns=a r=deployments n= s= rest=
            list g=apps v=v1 ns= r=deployments n=x s= rest=
            get g= v=v1 ns= r=nodes n=n s=proxy rest=a/b
            get g= v= ns= r= n= s= rest=
            get g= v= ns= r= n= s= rest=
        "#]]
        .assert_eq(&text);
    }
}
