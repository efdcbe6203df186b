//! Pure object machinery over JSON values: decoding, structure of types, patches, defaulting, validation, server-side
//! apply, custom resource schemas, tables and OpenAPI. No I/O, no clock, no store.

pub mod apply;
pub mod check;
pub mod crd;
pub mod decode;
pub mod defaults;
pub mod error;
pub mod expression;
pub mod json;
pub mod jsonpath;
pub mod model;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod path;
pub mod prepare;
pub mod table;
pub mod types;
pub mod validation;
