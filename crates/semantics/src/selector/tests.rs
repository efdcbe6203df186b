//! Selectors against upstream's answers.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn rows(file: &str) -> Vec<Value> {
    mainstay_base::testdata::rows(&format!("oracle/{file}"))
}

fn check(row: &Value, selector: Result<Selector, SelectorError>, sets: &[Value]) {
    let selector = match (selector, row["err"].as_str()) {
        (Err(error), Some(expected)) => return assert_eq!(error.to_string(), expected, "{row}"),
        (Ok(selector), None) => selector,
        (other, _) => panic!("{row}: {other:?}"),
    };
    assert_eq!(
        Some(selector.to_string().as_str()),
        row["canonical"].as_str(),
        "{row}"
    );
    let matches: Vec<Value> = sets.iter().map(|set| selector.matches(set).into()).collect();
    assert_eq!(Value::Array(matches), row["matches"], "{row}");
}

#[test]
fn label_texts_equal_upstream() {
    let sets = rows("kubelet/label_selector_sets.json");
    for row in rows("kubelet/label_selector_parse.json") {
        check(
            &row,
            Selector::parse(row["selector"].as_str().expect("selector")),
            &sets,
        );
    }
    for row in rows("api/label-selectors.json") {
        let parsed = Selector::parse(row["selector"].as_str().expect("selector"));
        assert_eq!(parsed.is_ok(), row["valid"] == true, "{row}");
        let Ok(selector) = parsed else { continue };
        assert_eq!(selector.matches(&row["labels"]), row["matches"] == true, "{row}");
        assert_eq!(
            selector.to_string(),
            row["canonical"].as_str().unwrap_or_default(),
            "{row}"
        );
    }
}

#[test]
fn label_objects_equal_upstream() {
    let sets = rows("kubelet/label_selector_sets.json");
    for row in rows("kubelet/label_selector_object.json") {
        let object: Option<LabelSelector> =
            serde_json::from_value(row["label_selector"].clone()).expect("selector object");
        assert_eq!(
            Some(LabelSelector::formatted(object.as_ref()).as_str()),
            row["formatted"].as_str(),
            "{row}"
        );
        check(&row, LabelSelector::optional(object.as_ref()), &sets);
    }
}

#[test]
fn field_texts_equal_upstream() {
    for row in rows("kubelet/field_selector.json") {
        let fields = [("metadata.name", "n1"), ("status.phase", "Running")];
        match FieldSelector::parse(row["field_selector"].as_str().expect("selector")) {
            Err(error) => assert_eq!(Some(error.to_string().as_str()), row["err"].as_str(), "{row}"),
            Ok(selector) => {
                assert_eq!(
                    Some(selector.to_string().as_str()),
                    row["canonical"].as_str(),
                    "{row}"
                );
                assert_eq!(
                    selector.matches(|key| fields[..].label(key)),
                    row["matches"] == true,
                    "{row}"
                );
            }
        }
    }
    for row in rows("api/field-selectors.json") {
        let parsed = FieldSelector::parse(row["selector"].as_str().expect("selector"));
        assert_eq!(parsed.is_ok(), row["valid"] == true, "{row}");
        let matches = parsed.is_ok_and(|selector| selector.matches(|key| row["fields"][key].as_str()));
        assert_eq!(matches, row["matches"] == true, "{row}");
    }
}

proptest! {
    #[test]
    fn label_parser_never_panics(text in "[ab!=<>(), inot\\PC]{0,24}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).map(|s| s.to_string()), Ok(selector.to_string()));
        }
    }

    #[test]
    fn field_parser_never_panics(text in "[ab!=\\\\,\\PC]{0,24}") {
        if let Ok(selector) = FieldSelector::parse(&text) {
            let again = FieldSelector::parse(&selector.to_string()).expect("canonical text parses");
            prop_assert_eq!(again.to_string(), selector.to_string());
        }
    }
}
