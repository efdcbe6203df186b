//! Chooses how an answer is written from the Accept header, and reads what a request's body is from Content-Type.

use http::{HeaderMap, StatusCode, header};

use mainstay_access::status::{ApiError, ApiResult};

/// The concrete syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`; built-in kinds only.
    Protobuf,
}

impl Syntax {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Syntax::Json => "application/json",
            Syntax::Yaml => "application/yaml",
            Syntax::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What objects are turned into on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object itself.
    Object,
    /// A server-side table for kubectl.
    Table,
    /// Metadata only, one object.
    Partial,
    /// Metadata only, a list.
    PartialList,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The syntax.
    pub syntax: Syntax,
    /// The shape.
    pub shape: Shape,
    /// `v1` or `v1beta1` of meta.k8s.io for tables and metadata.
    pub meta_version: &'static str,
    /// Indented.
    pub pretty: bool,
}

impl Format {
    /// Plain JSON objects.
    pub const JSON: Format = Format {
        syntax: Syntax::Json,
        shape: Shape::Object,
        meta_version: "v1",
        pretty: false,
    };
}

/// One media type of an Accept header with its parameters.
#[derive(Debug)]
pub struct Accepted<'a> {
    /// For example `application/json`.
    pub media: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Accepted<'a> {
    /// A parameter such as `as`, `v`, `g`; empty when absent.
    pub fn param(&self, key: &str) -> &'a str {
        self.params
            .iter()
            .find(|(own, _)| *own == key)
            .map_or("", |(_, value)| value)
    }

    fn quality(&self) -> f32 {
        match self.param("q") {
            "" => 1.0,
            text => text.parse().unwrap_or(0.0),
        }
    }
}

/// Splits an Accept header into its media types, best first; everything is accepted without one.
pub fn accepted(headers: &HeaderMap) -> Vec<Accepted<'_>> {
    let mut found: Vec<Accepted<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(media)
        .filter(|accepted| !accepted.media.is_empty())
        .collect();
    if found.is_empty() {
        found.push(media("*/*"));
    }
    found.sort_by(|a, b| b.quality().total_cmp(&a.quality()));
    found
}

fn media(text: &str) -> Accepted<'_> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    Accepted {
        media,
        params: parts.filter_map(|part| part.split_once('=')).collect(),
    }
}

/// What can be had besides plain JSON and YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Tables and metadata only.
    pub shapes: bool,
    /// Protobuf.
    pub protobuf: bool,
}

/// Chooses a format: the first that the client accepts and that is offered.
///
/// # Errors
/// 406 when nothing that the client accepts can be had.
pub fn format(headers: &HeaderMap, pretty: bool, offer: Offer) -> ApiResult<Format> {
    accepted(headers)
        .iter()
        .find_map(|accepted| offered(accepted, offer))
        .map(|format| Format {
            pretty: pretty || format.pretty,
            ..format
        })
        .ok_or_else(not_acceptable)
}

/// 406, naming what there is.
pub fn not_acceptable() -> ApiError {
    let message = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    ApiError::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
}

fn offered(accepted: &Accepted<'_>, offer: Offer) -> Option<Format> {
    let syntax = match accepted.media {
        "application/json" | "*/*" | "application/*" => Syntax::Json,
        "application/yaml" => Syntax::Yaml,
        "application/vnd.kubernetes.protobuf" if offer.protobuf => Syntax::Protobuf,
        _ => return None,
    };
    let pretty = accepted.param("pretty") == "1";
    let plain = Format {
        syntax,
        pretty,
        ..Format::JSON
    };
    let shape = match accepted.param("as") {
        "" => return Some(plain),
        _ if !offer.shapes || syntax == Syntax::Protobuf => return None,
        _ if accepted.param("g") != "meta.k8s.io" => return None,
        "Table" => Shape::Table,
        "PartialObjectMetadata" => Shape::Partial,
        "PartialObjectMetadataList" => Shape::PartialList,
        _ => return None,
    };
    let meta_version = match accepted.param("v") {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    Some(Format {
        shape,
        meta_version,
        ..plain
    })
}

/// What a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An object as JSON.
    Json,
    /// An object as YAML.
    Yaml,
    /// An object of a built-in kind as protobuf.
    Protobuf,
    /// RFC 6902.
    JsonPatch,
    /// RFC 7386.
    MergePatch,
    /// Kubernetes' own merge patch.
    StrategicPatch,
    /// Server-side apply (YAML or JSON).
    Apply,
}

/// Reads Content-Type; without one, JSON is meant.
///
/// # Errors
/// 415 for anything that cannot be read.
pub fn content(headers: &HeaderMap) -> ApiResult<Content> {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("application/json");
    let media = text.split(';').next().unwrap_or_default().trim();
    Ok(match media {
        "application/json" | "" | "*/*" => Content::Json,
        "application/yaml" | "text/yaml" | "application/x-yaml" => Content::Yaml,
        "application/vnd.kubernetes.protobuf" => Content::Protobuf,
        "application/json-patch+json" => Content::JsonPatch,
        "application/merge-patch+json" => Content::MergePatch,
        "application/strategic-merge-patch+json" => Content::StrategicPatch,
        "application/apply-patch+yaml" => Content::Apply,
        other => return Err(unsupported(other)),
    })
}

/// 415 about a media type.
pub fn unsupported(media: &str) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml (got {media:?})"
    );
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "UnsupportedMediaType",
        message,
    )
}
