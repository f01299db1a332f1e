//! What is counted, and what is left out.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const BUDGET: Budget = Budget {
    field: "spec",
    values: 5,
    depth: 3,
};

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn of(object: &Value, old: &Value) -> Objects {
    objects(Some(&raw(object)), Some(&raw(old)), Some(&BUDGET)).unwrap()
}

#[test]
fn values_and_levels_are_counted_in_the_text() {
    let table = [
        ("1", 1, 0),
        (" null ", 1, 0),
        (r#""a\"b:{""#, 1, 0),
        ("{}", 1, 1),
        (r#"{"a" : 1, "b": [true, "x", {}]}"#, 6, 3),
        (r#"{"a\\": "b\\", "c:": ":"}"#, 3, 1),
        ("[[[]],[-1.5e3]]", 5, 3),
    ];
    for (text, values, depth) in table {
        let size = Size {
            values,
            depth,
            is_private: false,
        };
        assert_eq!(Size::of(text), size, "{text}");
    }
}

#[test]
fn a_map_that_is_text_to_serde_json_is_refused() {
    let hidden = |key: &str| format!(r#"{{"spec":{{"a":{{"{key}":"[1,2,3,4,5,6,7,8,9]"}}}}}}"#);
    let table = [
        ("as it is", "$serde_json::private::RawValue", true),
        ("of numbers", "$serde_json::private::Number", true),
        ("escaped", "\\u0024serde_json::private::RawValue", true),
        (
            "escaped at its end",
            "$serde_json::private::RawValu\\u0065",
            true,
        ),
        ("another key", "$serde_json::public", false),
        ("another escaped key", "\\u0024serde_json", false),
    ];
    for (what, key, is_refused) in table {
        let object = RawValue::from_string(hidden(key)).unwrap();
        let found = objects(Some(&object), None, Some(&BUDGET)).unwrap();
        assert_eq!(found.over_budget.is_some(), is_refused, "{what}");
        assert_eq!(
            objects(Some(&object), None, None).is_err(),
            is_refused,
            "{what}"
        );
        let elsewhere = object.get().replace("spec", "status");
        let elsewhere = RawValue::from_string(elsewhere).unwrap();
        let found = objects(Some(&elsewhere), None, Some(&BUDGET));
        assert_eq!(found.is_err(), is_refused, "{what}");
    }
    let long =
        "\\u0024".to_owned() + &"serde_json::private::".replace(':', "\\u003a") + &"x".repeat(1000);
    assert!(is_private(&format!("\"{long}\"")));
}

#[test]
fn what_is_beyond_the_budget_is_left_out_and_named() {
    let good = json!({"spec": {"a": [1, 2, 3], "b": 4}});
    let many = json!({"metadata": {"name": "x"}, "spec": {"a": [1, 2, 3, 4], "b": 4}});
    let deep = json!({"spec": {"a": {"b": [[]]}}});
    let found = of(&good, &many);
    assert_eq!(found.over_budget, None);
    assert_eq!(
        (&found.object, &found.old_object),
        (&good, &json!({"metadata": {"name": "x"}}))
    );

    let found = of(&many, &good);
    let over = found.over_budget.unwrap();
    assert_eq!(over.cause.field, "spec");
    assert_eq!(
        over.cause.message,
        "Too many: 6: must have at most 5 JSON values"
    );
    assert!(!over.is_stored);
    assert_eq!(found.object, json!({"metadata": {"name": "x"}}));
    assert!(of(&many, &many).over_budget.unwrap().is_stored);

    let over = of(&deep, &good).over_budget.unwrap();
    let expected =
        "Invalid value: \"object\": its lists and maps are nested 4 levels deep, must be at most 3";
    assert_eq!(over.cause.message, expected);
}

#[test]
fn managed_fields_are_left_out_and_all_else_has_a_limit() {
    let managed: Vec<_> = (0..100_000).map(Value::from).collect();
    let object = json!({"metadata": {"name": "x", "managedFields": managed}, "status": {"a": 1}});
    let expected = json!({"metadata": {"name": "x"}, "status": {"a": 1}});
    assert_eq!(of(&object, &json!({})).object, expected);
    let object = json!({"metadata": {"labels": managed}});
    let refused = objects(Some(&raw(&object)), None, Some(&BUDGET))
        .err()
        .unwrap();
    assert_eq!(
        refused,
        "request.object must have at most 60000 JSON values beside spec (100003)"
    );
}

fn counted(value: &Value) -> Size {
    let below: Vec<Size> = match value {
        Value::Array(items) => items.iter().map(counted).collect(),
        Value::Object(fields) => fields.values().map(counted).collect(),
        _ => {
            return Size {
                values: 1,
                ..Size::default()
            };
        }
    };
    Size {
        values: 1 + below.iter().map(|size| size.values).sum::<usize>(),
        depth: 1 + below.iter().map(|size| size.depth).max().unwrap_or(0),
        is_private: false,
    }
}

proptest! {
    #[test]
    fn the_text_is_counted_as_the_value_is(value in values(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        prop_assert_eq!(Size::of(&text.unwrap()), counted(&value));
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[\"\\\\:{}\\[\\], a\u{e9}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[\"\\\\:{} a]{0,4}", inner), 0..6)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}
