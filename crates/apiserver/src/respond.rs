//! Turns results into HTTP responses: JSON, YAML, tables, metadata only, pretty, gzip, and Status errors.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::Body;
use crate::convert;
use crate::listing::{self, LARGE, Listing};
use crate::negotiate::{Format, Shape, Syntax};
use crate::proto;
use crate::resources::Resource;
use crate::shape::{partial, tables};
use mainstay_access::object::Object;
use mainstay_access::status::ApiError;

/// How one request wants its answer.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// From the Accept header.
    pub format: Format,
    /// `includeObject` of tables: None, Metadata (default) or Object.
    pub include_object: tables::Include,
    /// When the request came; ages in tables are counted from it.
    pub now: jiff::Timestamp,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

impl Wanted {
    /// How tables are made.
    pub fn look(&self) -> tables::Look {
        tables::Look {
            include: self.include_object,
            version: self.format.meta_version,
            now: self.now,
        }
    }
}

/// Answers with one stored object.
pub fn object(
    code: StatusCode,
    resource: &Resource,
    object: &Arc<Object>,
    wanted: &Wanted,
) -> Response<Body> {
    if wanted.format != Format::JSON {
        return value(code, resource, convert::served(resource, object), wanted);
    }
    let mut out = Vec::with_capacity(object.bytes().len() + 64);
    convert::write_served(resource, object, &mut out);
    let mut response = plain(code, "application/json", Bytes::from(out));
    warn(&mut response, &wanted.warnings);
    response
}

/// Answers with an object that is not stored as such.
pub fn value(code: StatusCode, resource: &Resource, object: Value, wanted: &Wanted) -> Response<Body> {
    let shaped = match wanted.format.shape {
        _ if object["kind"] == "Status" => object,
        Shape::Object => object,
        Shape::Partial | Shape::PartialList => partial::object(&object, wanted.format.meta_version),
        Shape::Table => {
            let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            tables::table(resource, &[object], meta, wanted.look())
        }
    };
    let mut response = encoded(code, &shaped, wanted.format);
    warn(&mut response, &wanted.warnings);
    response
}

/// What stands around the items of a list.
#[derive(Debug, Default)]
pub struct ListMeta {
    /// The revision of the list.
    pub revision: u64,
    /// The token of the next page.
    pub continues: Option<String>,
    /// How many objects follow, where that is known.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continues {
            meta["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// Answers with a list.
pub fn list(
    resource: &Arc<Resource>,
    objects: Vec<Arc<Object>>,
    meta: &ListMeta,
    wanted: &Wanted,
) -> Response<Body> {
    if wanted.format.syntax == Syntax::Protobuf
        && let Some(response) = protobuf_list(resource, &objects, meta, wanted)
    {
        return response;
    }
    if wanted.format != Format::JSON {
        return shaped_list(resource, &objects, meta, wanted);
    }
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        resource.list_kind,
        resource.api_version(),
        meta.to_value()
    );
    let listing = Listing::new(resource.clone(), objects, head);
    let mut response = Response::new(listing.into_body());
    set_type(&mut response, "application/json");
    warn(&mut response, &wanted.warnings);
    response
}

/// Parses and writes one object after the other: a list of values would be many times as large.
fn protobuf_list(
    resource: &Resource,
    objects: &[Arc<Object>],
    meta: &ListMeta,
    wanted: &Wanted,
) -> Option<Response<Body>> {
    let (kind, list_kind) = (&resource.gvk.kind, &resource.list_kind);
    let api_version = resource.api_version();
    let mut list = proto::List::start(&api_version, kind, list_kind, &meta.to_value())?;
    for object in objects {
        list.push(&convert::served(resource, object));
    }
    let bytes = list.finish(&api_version, list_kind);
    let mut response = plain(StatusCode::OK, Syntax::Protobuf.media_type(), bytes);
    warn(&mut response, &wanted.warnings);
    Some(response)
}

fn shaped_list(
    resource: &Resource,
    objects: &[Arc<Object>],
    meta: &ListMeta,
    wanted: &Wanted,
) -> Response<Body> {
    let items: Vec<Value> = objects
        .iter()
        .map(|object| convert::served(resource, object))
        .collect();
    let (meta, version) = (meta.to_value(), wanted.format.meta_version);
    let shaped = match wanted.format.shape {
        Shape::Table => tables::table(resource, &items, meta, wanted.look()),
        Shape::Partial | Shape::PartialList => partial::list(&items, meta, version),
        Shape::Object => json!({
            "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": meta, "items": items,
        }),
    };
    let mut response = encoded(StatusCode::OK, &shaped, wanted.format);
    warn(&mut response, &wanted.warnings);
    response
}

/// Answers with a JSON value in the wanted syntax; in JSON where the kind has no protobuf form.
pub fn encoded(code: StatusCode, value: &Value, mut format: Format) -> Response<Body> {
    if format.syntax == Syntax::Protobuf {
        match proto::from_json(value) {
            Some(bytes) => return plain(code, format.syntax.media_type(), bytes),
            None => format.syntax = Syntax::Json,
        }
    }
    let text = match (format.syntax, format.pretty) {
        (Syntax::Yaml, _) => serde_yaml_ng::to_string(value).unwrap_or_default(),
        (Syntax::Json, true) => serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
        _ => value.to_string(),
    };
    plain(code, format.syntax.media_type(), text)
}

/// Answers with bytes of a type.
pub fn plain(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = code;
    set_type(&mut response, content_type);
    response
}

/// Answers with plain text.
pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = plain(code, "text/plain; charset=utf-8", body);
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// Answers with an error.
pub fn error(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = encoded(code, &error.to_status(), Format::JSON);
    let seconds = error
        .details
        .as_ref()
        .map_or(0, |details| details.retry_after_seconds);
    if seconds > 0 {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning` headers.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Whether a client takes compressed answers.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::ACCEPT_ENCODING).iter();
    codings
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|coding| coding.trim().split(';').next() == Some("gzip"))
}

/// Compresses a large answer.
pub fn gzip(mut response: Response<Body>) -> Response<Body> {
    let large = match response.body() {
        Body::Whole(buffers) => buffers.iter().map(Bytes::len).sum::<usize>() >= LARGE,
        Body::Made(_) => true,
        Body::Sent(_) | Body::Stream(_) => false,
    };
    if !large {
        return response;
    }
    let body = std::mem::take(response.body_mut());
    *response.body_mut() = listing::packed(body);
    response
        .headers_mut()
        .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
        .headers_mut()
        .append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

fn set_type(response: &mut Response<Body>, content_type: &'static str) {
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
}
