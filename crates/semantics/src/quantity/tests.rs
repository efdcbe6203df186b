//! Quantities against upstream's answers.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn rows(file: &str) -> Vec<Value> {
    mainstay_base::testdata::rows(&format!("oracle/{file}"))
}

#[test]
fn parsing_equals_upstream() {
    for row in rows("kubelet/quantity_parse.json") {
        let input = row["in"].as_str().expect("in");
        let quantity = match (Quantity::parse(input), row["err"].as_str()) {
            (Err(error), Some(expected)) => {
                assert_eq!(error.to_string(), expected, "{input}");
                continue;
            }
            (Ok(quantity), None) => quantity,
            other => panic!("{input}: {other:?}"),
        };
        let wraps = |field: &str| {
            ["overflow", "go_quirk"].iter().any(|list| {
                row[*list]
                    .as_array()
                    .is_some_and(|names| names.iter().any(|name| name == field))
            })
        };
        assert_eq!(
            quantity.to_string(),
            row["string"].as_str().expect("string"),
            "{input}"
        );
        assert_eq!(
            format!("{:?}", quantity.format()),
            row["format"].as_str().expect("format"),
            "{input}"
        );
        assert_eq!(
            i64::from(quantity.sign()),
            row["sign"].as_i64().expect("sign"),
            "{input}"
        );
        assert_eq!(quantity.as_i64().is_some(), row["as_int64_ok"] == true, "{input}");
        assert_eq!(
            quantity.as_i64().unwrap_or(0),
            row["as_int64"].as_i64().expect("as_int64"),
            "{input}"
        );
        assert_eq!(
            quantity.to_decimal(),
            row["as_dec"].as_str().expect("as_dec"),
            "{input}"
        );
        let float: f64 = row["approx_float64"]
            .as_str()
            .expect("float")
            .parse()
            .expect("float");
        assert_eq!(quantity.as_f64(), float, "{input}");
        for (field, scale) in [("value_ceil", 0), ("milli_ceil", -3), ("nano_ceil", -9)] {
            let expected = row[field]
                .as_str()
                .map(str::to_owned)
                .unwrap_or_else(|| row[field].to_string());
            if !wraps(field) {
                assert_eq!(
                    quantity.scaled_value(scale).to_string(),
                    expected,
                    "{input} {field}"
                );
            }
        }
    }
}

#[test]
fn canonical_forms_equal_upstream() {
    for row in rows("api/quantities.json") {
        let input = row["in"].as_str().expect("in");
        let parsed = Quantity::parse(input);
        assert_eq!(parsed.is_ok(), row["valid"] == true, "{input}");
        let Ok(quantity) = parsed else { continue };
        assert_eq!(
            quantity.to_string(),
            row["canonical"].as_str().expect("canonical"),
            "{input}"
        );
        // 1e400 does not fit: upstream gives 0, ours saturates (docs/oracle-deviations.md).
        if quantity.as_f64().is_finite() {
            assert_eq!(
                quantity.milli_value(),
                row["milli"].as_i64().expect("milli"),
                "{input}"
            );
            assert_eq!(
                quantity.value(),
                row["value_rounded_up"].as_i64().expect("value"),
                "{input}"
            );
        } else {
            assert_eq!((quantity.milli_value(), quantity.value()), (i64::MAX, i64::MAX));
        }
    }
}

#[test]
fn json_equals_upstream() {
    for row in rows("kubelet/quantity_json.json") {
        let input = row["json_in"].as_str().expect("json_in");
        let value: Value = serde_json::from_str(input).expect("JSON");
        match Quantity::from_json(&value) {
            Err(error) => assert_eq!(Some(error.to_string().as_str()), row["err"].as_str(), "{input}"),
            Ok(quantity) => {
                let out = serde_json::to_string(&quantity).expect("text");
                assert_eq!(Some(out.as_str()), row["json_out"].as_str(), "{input}");
            }
        }
    }
}

#[test]
fn arithmetic_equals_upstream() {
    for row in rows("kubelet/quantity_arith.json") {
        let text = |field: &str| row[field].as_str().expect("text").to_owned();
        let parse = |field: &str| Quantity::parse(&text(field)).expect("quantity");
        let with = |change: &dyn Fn(&mut Quantity)| {
            let mut q = parse("a");
            change(&mut q);
            q.to_string()
        };
        let b = parse("b");
        assert_eq!(with(&|q| q.add(&b)), text("add"), "{row}");
        assert_eq!(with(&|q| q.sub(&b)), text("sub"), "{row}");
        assert_eq!(with(&|q| q.neg()), text("neg_a"), "{row}");
        assert_eq!(with(&|q| assert!(q.mul(3))), text("a_mul_3"), "{row}");
        assert_eq!(
            parse("a").cmp(&b) as i64,
            row["cmp"].as_i64().expect("cmp"),
            "{row}"
        );
        assert_eq!(parse("a") == b, row["equal"] == true, "{row}");
    }
}

#[test]
fn formats_equal_upstream() {
    for row in rows("kubelet/quantity_format.json") {
        let format = match row["format"].as_str().expect("format") {
            "BinarySI" => Format::BinarySI,
            "DecimalSI" => Format::DecimalSI,
            _ => Format::DecimalExponent,
        };
        let number: i64 = row["int64"].as_str().expect("int64").parse().expect("number");
        assert_eq!(
            Some(Quantity::new(number, format).to_string().as_str()),
            row["new_quantity"].as_str()
        );
        assert_eq!(
            Some(Quantity::from_milli(number, format).to_string().as_str()),
            row["new_milli_quantity"].as_str()
        );
    }
}

#[test]
fn hashes_and_compares_by_value() {
    let parse = |text| Quantity::parse(text).expect("quantity");
    let set: std::collections::HashSet<_> = ["1", "1000m", "1.0", "+1"].map(parse).into();
    assert_eq!(set.len(), 1);
    assert!(parse("1e400") > parse("1Ei") && parse("-1e400") < parse("1n"));
    assert!(parse("1.2") > parse("1199m") && parse("-1.2") < parse("-1199m"));
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,24}") {
        let _ = Quantity::parse(&text);
    }

    #[test]
    fn what_parses_prints_and_parses_again(text in "[+-]?[0-9]{0,22}(\\.[0-9]{0,12})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-?[0-9]{1,3})?") {
        if let Ok(quantity) = Quantity::parse(&text) {
            let again = Quantity::parse(&quantity.canonical()).expect("canonical text parses");
            prop_assert_eq!(&again, &quantity);
            prop_assert_eq!(again.canonical(), quantity.canonical());
            let _ = (quantity.value(), quantity.milli_value(), quantity.as_f64(), quantity.is_integer());
        }
    }
}
