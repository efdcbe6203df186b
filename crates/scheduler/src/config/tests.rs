//! Configurations as they stand in books and clusters, and the errors of broken ones.

use super::*;
use expect_test::expect;

/// The Policy as printed in the course, `comma` being what stands before `managedResources`.
fn printed(comma: &str) -> String {
    format!(
        r#"{{
  "kind": "Policy",
  "apiVersion": "v1",
  "predicates": [
    {{"name": "PodFitsHostPorts"}},
    {{"name": "PodFitsResources"}},
    {{"name": "NoDiskConflict"}},
    {{"name": "MatchNodeSelector"}},
    {{"name": "HostName"}}
  ],
  "priorities": [
    {{"name": "LeastRequestedPriority", "weight": 1}},
    {{"name": "BalancedResourceAllocation", "weight": 1}},
    {{"name": "ServiceSpreadingPriority", "weight": 1}},
    {{"name": "EqualPriority", "weight": 1}}
  ],
  "extenders": [
    {{
      "urlPrefix": "http://127.0.0.1:12346/scheduler",
      "filterVerb": "filter",
      "bindVerb": "bind",
      "prioritizeVerb": "prioritize",
      "weight": 5,
      "enableHttps": false,
      "nodeCacheCapable": false{comma}
      "managedResources": [
        {{"name": "example.com/foo", "ignoredByScheduler": true}}
      ]
    }}
  ],
  "hardPodAffinitySymmetricWeight": 10
}}"#
    )
}

#[test]
fn the_printed_policy_has_one_error_with_its_place() {
    let error = Config::parse(&printed("")).expect_err("a comma is missing");
    expect!["line 26 column 7: expected `,` or `}`"].assert_eq(&error.to_string());
}

#[test]
fn with_the_comma_it_loads() {
    let config = Config::parse(&printed(",")).expect("it loads");
    let weights = &config.profiles[0].weights;
    assert_eq!(
        (
            weights.resources,
            weights.balanced,
            weights.spread,
            weights.taints
        ),
        (1, 1, 1, 0)
    );
    assert_eq!(weights.hard_pod_affinity, 10);
    assert_eq!(config.options(0).ignored_resources, ["example.com/foo"]);
    assert_eq!(config.extenders[0].weight, 5);
}

#[test]
fn todays_form_loads_from_yaml() {
    let config = Config::parse(
        "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
podMaxBackoffSeconds: 20
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated}}
  plugins:
    score:
      disabled: [{name: NodeResourcesBalancedAllocation}]
      enabled: [{name: NodeResourcesFit, weight: 7}]
extenders:
- urlPrefix: http://localhost:8888/x
  filterVerb: filter
  httpTimeout: 300ms
",
    )
    .expect("it loads");
    let packing = &config.profiles[config.profile("packing").expect("the profile")].weights;
    assert_eq!((packing.resources, packing.balanced), (7, 0));
    assert_eq!(
        packing.strategy,
        mainstay_placement::score::Strategy::MostAllocated
    );
    assert_eq!(config.extenders[0].timeout, Some(Duration::from_millis(300)));
    assert_eq!(config.max_backoff, Duration::from_secs(20));
}

#[test]
fn wrong_values_name_their_field() {
    let rows = [
        (
            r#"{"kind":"Policy","apiVersion":"v1","predicates":[{"name":"Nonsense"}]}"#,
            "predicates[0].name: \"Nonsense\" is not a known predicate",
        ),
        (
            r#"{"kind":"Policy","apiVersion":"v1","hardPodAffinitySymmetricWeight":101}"#,
            "hardPodAffinitySymmetricWeight: must be from 0 to 100",
        ),
        (
            r#"{"kind":"Policy","apiVersion":"v1","extenders":[{"urlPrefix":"http://x/y","managedResources":[{"name":"cpu"}]}]}"#,
            "extenders[0].managedResources[0].name: \"cpu\" is not an extended resource name",
        ),
        (
            "kind: KubeSchedulerConfiguration\napiVersion: kubescheduler.config.k8s.io/v1\nprofiles: [{}, {}]\n",
            "profiles[1].schedulerName: \"default-scheduler\" is used twice",
        ),
        (
            "kind: Pod\napiVersion: v1\n",
            "kind: v1 Pod is not known: expected v1 Policy or kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration",
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(
            Config::parse(text).expect_err("it is wrong").to_string(),
            expected
        );
    }
}
