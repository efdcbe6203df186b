//! The rows of the oracle's pod security table, the wording, and the reading of labels.

use serde_json::json;

use super::*;

#[test]
fn verdicts_are_those_of_the_table() {
    let text = mainstay_base::testdata::read("oracle/tenancy/pod-security.json");
    let table: Value = serde_json::from_str(&text).expect("the table is JSON");
    let outcome = crate::oracle::run_pod_security(&table);
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert!(outcome.passed >= 2052, "{}", outcome.passed);
}

#[test]
fn a_refusal_names_what_to_change() {
    let spec = json!({"containers": [{"name": "main"}]});
    let standard = Standard {
        level: Level::Restricted,
        version: Version::LATEST,
    };
    let text = describe(&violations(standard, &Value::Null, &spec));
    expect_test::expect![[r#"allowPrivilegeEscalation != false (container "main" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "main" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "main" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "main" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#]].assert_eq(&text);
}

#[test]
fn a_malformed_enforce_label_restricts() {
    let labels =
        json!({"pod-security.kubernetes.io/enforce": "lax", "pod-security.kubernetes.io/warn-version": "v1"});
    let defaults = Standard {
        level: Level::Baseline,
        version: Version::LATEST,
    };
    let (policy, wrong) = Policy::of_labels(&labels, defaults);
    assert_eq!(policy.enforce.to_string(), "restricted:latest");
    assert_eq!(policy.warn.to_string(), "restricted:latest");
    assert_eq!(wrong.len(), 2);
    let (policy, wrong) = Policy::of_labels(&Value::Null, defaults);
    assert_eq!(
        (policy.enforce.to_string().as_str(), wrong.len()),
        ("baseline:latest", 0)
    );
    assert_eq!(policy.audit.level, Level::Privileged);
}
