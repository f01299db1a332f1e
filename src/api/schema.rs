//! The CustomResourceDefinition: what the derive makes of the types, and what it cannot make: rules of more than one field
//! (CEL), keys of lists, and the bounds that Kubernetes sets itself.
//!
//! The rules hold where no webhook runs, and through the scale subresource. Each of them is in `validation`, too, which
//! marks its faults as [in the schema](super::FieldError::is_in_schema).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{MCPServer, names};

/// A rule in CEL.
struct Rule {
    /// JSON pointer from the object's schema to the part that the rule is about; `self` in it.
    of: &'static str,
    /// What has to hold.
    holds: &'static str,
    /// The field that is named, below that part.
    field: &'static str,
    /// A `metav1.CauseType`.
    reason: &'static str,
    /// What is said when it does not hold.
    says: Says,
}

enum Says {
    Text(&'static str),
    /// The API server takes no path of metadata, so that the text names the field.
    OfName(&'static str),
    Expression(&'static str),
}

const FORBIDDEN: &str = "FieldValueForbidden";
const INVALID: &str = "FieldValueInvalid";
const SPEC: &str = "/properties/spec";

const RULES: [Rule; 11] = [
    Rule {
        of: "",
        // Of one that was stored before there was this rule, the status and the finalizers are still written.
        holds: "oldSelf.hasValue() || size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        field: "",
        reason: INVALID,
        says: Says::OfName(names::DNS_1035),
    },
    Rule {
        of: SPEC,
        holds: "self.transport != 'stdio' || self.replicas <= 1",
        field: ".replicas",
        reason: INVALID,
        // string() would have no bound that the API server could reckon with.
        says: Says::Expression(
            "'stdio transport does not support multiple replicas (requested: %d); \
             set it to 1, or use the transport http or streamable-http'.format([self.replicas])",
        ),
    },
    Rule {
        of: SPEC,
        holds: "self.transport != 'stdio' || !has(self.service) || !(has(self.service.type) || has(self.service.sessionAffinity) \
               || has(self.service.annotations) && size(self.service.annotations) > 0 \
               || has(self.service.labels) && size(self.service.labels) > 0 \
               || has(self.service.port) || has(self.service.appProtocol) || has(self.service.loadBalancerClass) \
               || has(self.service.loadBalancerSourceRanges) && size(self.service.loadBalancerSourceRanges) > 0 \
               || has(self.service.externalTrafficPolicy) || has(self.service.ipFamilyPolicy))",
        field: ".service",
        reason: FORBIDDEN,
        says: Says::Text(
            "a stdio server has no Service; remove it, or use the transport http or streamable-http",
        ),
    },
    Rule {
        of: SPEC,
        holds: "self.transport != 'stdio' || !has(self.path)",
        field: ".path",
        reason: FORBIDDEN,
        says: Says::Text(
            "a stdio server has no address; remove it, or use the transport http or streamable-http",
        ),
    },
    Rule {
        of: SPEC,
        holds: "self.transport != 'stdio' || !has(self.strategy)",
        field: ".strategy",
        reason: FORBIDDEN,
        says: Says::Text(
            "a stdio server is always recreated; remove it, or use the transport http or streamable-http",
        ),
    },
    Rule {
        of: "/properties/spec/properties/health",
        holds: "!has(self.type) || self.type == 'HTTP' || !has(self.livenessPath)",
        field: ".livenessPath",
        reason: FORBIDDEN,
        says: Says::Text("it is for spec.health.type HTTP; remove it, or use HTTP"),
    },
    Rule {
        of: "/properties/spec/properties/health",
        holds: "!has(self.type) || self.type == 'HTTP' || !has(self.readinessPath)",
        field: ".readinessPath",
        reason: FORBIDDEN,
        says: Says::Text("it is for spec.health.type HTTP; remove it, or use HTTP"),
    },
    Rule {
        of: "/properties/spec/properties/strategy",
        holds: "!has(self.type) || self.type != 'Recreate' || !has(self.rollingUpdate)",
        field: ".rollingUpdate",
        reason: FORBIDDEN,
        says: Says::Text(
            "it is for spec.strategy.type RollingUpdate, not Recreate; remove one of the two",
        ),
    },
    Rule {
        of: "/properties/spec/properties/disruptionBudget",
        holds: "has(self.minAvailable) || has(self.maxUnavailable)",
        field: "",
        reason: "FieldValueRequired",
        says: Says::Text("set one of minAvailable and maxUnavailable, or remove disruptionBudget"),
    },
    Rule {
        of: "/properties/spec/properties/disruptionBudget",
        holds: "!has(self.minAvailable) || !has(self.maxUnavailable)",
        field: "",
        reason: INVALID,
        says: Says::Text(
            "minAvailable and maxUnavailable cannot be used together; remove one of the two",
        ),
    },
    Rule {
        of: "/properties/spec/properties/path",
        holds: "self.startsWith('/')",
        field: "",
        reason: INVALID,
        says: Says::Text("must start with '/'"),
    },
];

/// Lists whose items have a name: two appliers may each own one of them.
const NAMED: [&str; 2] = ["env", "imagePullSecrets"];

/// The most characters of a text, by JSON pointer below the spec: what Kubernetes sets for it.
const LENGTHS: [(&str, usize); 7] = [
    ("/serviceAccount", names::LONGEST_SUBDOMAIN),
    (
        "/imagePullSecrets/items/properties/name",
        names::LONGEST_SUBDOMAIN,
    ),
    (
        "/service/properties/appProtocol",
        names::LONGEST_QUALIFIED_NAME,
    ),
    (
        "/service/properties/loadBalancerClass",
        names::LONGEST_QUALIFIED_NAME,
    ),
    (
        "/service/properties/labels/additionalProperties",
        names::LONGEST_LABEL_VALUE,
    ),
    (
        "/commonMetadata/properties/labels/additionalProperties",
        names::LONGEST_LABEL_VALUE,
    ),
    ("/path", names::LONGEST_PATH),
];

/// The CustomResourceDefinition. An error when the types and this file do not go together, which a test shows.
pub fn crd() -> anyhow::Result<CustomResourceDefinition> {
    let mut crd = serde_json::to_value(MCPServer::crd())?;
    let schema = part(&mut crd, "/spec/versions/0/schema/openAPIV3Schema")?;
    for rule in &RULES {
        let mut cel = json!({"rule": rule.holds, "reason": rule.reason});
        match rule.says {
            Says::Text(text) => cel["message"] = json!(text),
            Says::OfName(text) => cel["message"] = json!(format!("metadata.name {text}")),
            Says::Expression(expression) => cel["messageExpression"] = json!(expression),
        }
        if rule.holds.contains("oldSelf") {
            cel["optionalOldSelf"] = json!(true);
        }
        if !rule.field.is_empty() {
            cel["fieldPath"] = json!(rule.field);
        }
        let rules = &mut part(schema, rule.of)?["x-kubernetes-validations"];
        match rules {
            Value::Array(rules) => rules.push(cel),
            none => *none = json!([cel]),
        }
    }
    let spec = part(schema, "/properties/spec/properties")?;
    for list in NAMED {
        let list = &mut spec[list];
        list["x-kubernetes-list-type"] = json!("map");
        list["x-kubernetes-list-map-keys"] = json!(["name"]);
    }
    for (of, most) in LENGTHS {
        part(spec, of)?["maxLength"] = json!(most);
    }
    Ok(serde_json::from_value(crd)?)
}

fn part<'a>(schema: &'a mut Value, pointer: &str) -> anyhow::Result<&'a mut Value> {
    let missing = || anyhow::anyhow!("the schema has no {pointer}");
    schema.pointer_mut(pointer).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_has_all_that_is_added_to_it() {
        let crd = super::crd().unwrap();
        assert_eq!(crd.spec.names.kind, "MCPServer");
    }
}
