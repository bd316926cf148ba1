use std::cmp::Ordering;

use contract::{Timestamp, Version, VersionFields};
use serde_json::Value;

fn fields(side: &Value) -> VersionFields {
    let text = |name: &str| side[name].as_str().unwrap();
    VersionFields {
        epoch: u32::try_from(side["epoch"].as_u64().unwrap()).unwrap(),
        sequence: text("sequence").parse().unwrap(),
        changed_at: text("changed_at").parse::<Timestamp>().unwrap(),
        rev: u32::try_from(side["rev"].as_u64().unwrap()).unwrap(),
        deleted: side["deleted"].as_bool().unwrap(),
        digest: u64::from_str_radix(text("digest"), 16).unwrap(),
    }
}

fn expected(case: &Value) -> Ordering {
    match case["incoming_is"].as_str().unwrap() {
        "newer" => Ordering::Greater,
        "equal" => Ordering::Equal,
        "older" => Ordering::Less,
        other => panic!("incoming_is: {other}"),
    }
}

#[test]
fn every_pair_of_the_fixtures_is_judged_by_the_string_as_by_the_fields() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../fixtures/versions.json")).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let (stored, incoming) = (fields(&case["stored"]), fields(&case["incoming"]));
        let name = case["name"].as_str().unwrap();
        assert_eq!(stored.encode().as_str(), case["stored"]["version"].as_str().unwrap(), "{name}");
        assert_eq!(incoming.encode().as_str(), case["incoming"]["version"].as_str().unwrap(), "{name}");
        assert_eq!(incoming.encode().cmp(&stored.encode()), expected(&case), "{name}, as strings");
        assert_eq!(incoming.cmp(&stored), expected(&case), "{name}, as fields");
        assert_eq!(incoming.encode().fields().unwrap(), incoming, "{name}, read back");
    }
}

#[test]
fn what_is_no_version_is_refused() {
    for text in ["", "00", &"0".repeat(65), &"0".repeat(67), &"F".repeat(66), &"g".repeat(66), &"é".repeat(33)] {
        assert!(text.parse::<Version>().is_err(), "{text:?}");
    }
}
