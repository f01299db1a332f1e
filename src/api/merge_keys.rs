//! The merge keys: the fields by which items of two lists are the same item. This is the only table of them.
//!
//! Source: `x-kubernetes-list-map-keys` of Kubernetes' kinds.

use std::collections::HashMap;

use serde_json::Value;

/// Names of the fields that are the key of a list's items; none for a list that is replaced whole.
pub type Keys = &'static [&'static str];

/// The keys of a list in a pod template.
pub fn of_pod_template(list: &str) -> Keys {
    match list {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets"
        | "resourceClaims" | "schedulingGates" => &["name"],
        "ports" => &["containerPort", "protocol"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "hostAliases" => &["ip"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        _ => &[],
    }
}

/// The keys of a list in a whole child; `first` is the first item of the list.
pub fn of_child(list: &str, first: Option<&Value>) -> Keys {
    match list {
        "ownerReferences" => &["uid"],
        // A Service's ports have another key than a container's.
        "ports" if first.is_some_and(|port| port.get("containerPort").is_none()) => {
            &["port", "protocol"]
        }
        _ => of_pod_template(list),
    }
}

/// The key of an item, equal for two items that are the same one. A port without a protocol is a TCP port.
pub fn item_key(keys: &[&str], item: &Value) -> String {
    let key_of = |key: &&str| match item.get(key) {
        Some(value) => value.to_string(),
        None if *key == "protocol" => "\"TCP\"".to_owned(),
        None => "null".to_owned(),
    };
    // A safe separator: these JSON texts are on one line, and a line break within a string is escaped.
    keys.iter().map(key_of).collect::<Vec<_>>().join("\n")
}

/// The index of the item of each key; the first one when two items have the same key.
pub fn places(keys: &[&str], items: &[Value]) -> HashMap<String, usize> {
    let mut places = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        places.entry(item_key(keys, item)).or_insert(at);
    }
    places
}
