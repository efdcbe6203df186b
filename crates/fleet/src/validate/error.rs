//! What can be wrong with a manifest, and how it is told.

/// Which rule is broken; each has a stable id that `mainstay explain` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A value of the wrong form, or one that contradicts another.
    Value,
    /// A kind or version that nothing serves.
    Kind,
    /// A field that the kind does not have, misses, or has with another type.
    Form,
    /// A SKU that no host has.
    Sku,
    /// Address ranges that overlap.
    Overlap,
    /// More machines than hosts or addresses.
    Capacity,
    /// An OSImage that does not exist.
    Image,
    /// A reference to something else that does not exist.
    Reference,
    /// Two objects that claim the same name or place.
    Twice,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 9] = [
        Rule::Value,
        Rule::Kind,
        Rule::Form,
        Rule::Sku,
        Rule::Overlap,
        Rule::Capacity,
        Rule::Image,
        Rule::Reference,
        Rule::Twice,
    ];

    /// The id that messages carry.
    pub fn id(self) -> &'static str {
        match self {
            Rule::Value => "MS-CFG-0002",
            Rule::Kind => "MS-CFG-0004",
            Rule::Form => "MS-CFG-0005",
            Rule::Sku => "MS-CFG-0010",
            Rule::Overlap => "MS-CFG-0011",
            Rule::Capacity => "MS-CFG-0012",
            Rule::Image => "MS-CFG-0013",
            Rule::Reference => "MS-CFG-0014",
            Rule::Twice => "MS-CFG-0015",
        }
    }
}

/// One thing that is wrong, with the field it is wrong in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The rule it breaks.
    pub rule: Rule,
    /// Path of the field.
    pub field: String,
    /// What was expected.
    pub message: String,
}

impl FieldError {
    /// Makes one.
    pub fn new(rule: Rule, field: impl Into<String>, message: impl Into<String>) -> Self {
        FieldError {
            rule,
            field: field.into(),
            message: message.into(),
        }
    }
}
