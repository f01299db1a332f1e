//! From a [`Verdict`] to the `AdmissionReview` that carries it.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::review::{API_VERSION, Cause, GroupVersionKind, Operation, Request, Verdict};
use crate::status::failure;

/// The longest name that Kubernetes gives an object.
const LONG_NAME: usize = 253;

/// A way of refusing with causes.
struct Why {
    code: u16,
    reason: &'static str,
    word: &'static str,
}

const INVALID: Why = Why {
    code: 422,
    reason: "Invalid",
    word: "invalid",
};
const FORBIDDEN: Why = Why {
    code: 403,
    reason: "Forbidden",
    word: "forbidden",
};

/// What the answer and the log need of a request; kept aside because the handler takes the request.
pub(crate) struct Asked {
    pub uid: String,
    pub operation: Operation,
    pub namespace: Option<String>,
    /// The object's name, or its `generateName` while the API server has not generated one.
    pub name: String,
    kind: GroupVersionKind,
    object: Arc<Value>,
}

impl Asked {
    pub(crate) fn of(request: &Request) -> Self {
        let name = [
            Some(request.name.as_str()),
            request
                .object
                .pointer("/metadata/name")
                .and_then(Value::as_str),
            request
                .object
                .pointer("/metadata/generateName")
                .and_then(Value::as_str),
        ];
        Self {
            uid: request.uid.clone(),
            operation: request.operation,
            namespace: request.namespace.clone(),
            kind: request.kind.clone(),
            name: name
                .into_iter()
                .flatten()
                .find(|name| !name.is_empty())
                .unwrap_or("")
                .chars()
                .take(LONG_NAME)
                .collect(),
            object: request.object.clone(),
        }
    }

    /// The whole answer.
    pub(crate) fn answer(&self, verdict: Verdict) -> Value {
        let mut response = json!({ "uid": self.uid });
        match verdict {
            Verdict::Allow { warnings } => allow(&mut response, &warnings),
            Verdict::Mutate { object, .. }
                if *object != *self.object && !self.patchable(&object) =>
            {
                // A bug in the handler: one of the two is not an object, so there is no patch between them.
                let message = "the handler's mutation is not from one object to another";
                deny(&mut response, failure(500, "InternalError", message));
            }
            Verdict::Mutate { object, warnings } => {
                allow(&mut response, &warnings);
                let patch = json_patch::diff(&self.object, &object);
                if !patch.0.is_empty() {
                    response["patchType"] = json!("JSONPatch");
                    response["patch"] = json!(STANDARD.encode(json!(patch).to_string()));
                }
            }
            Verdict::Invalid { causes, warnings } => {
                deny(&mut response, self.refused(&INVALID, &causes));
                warn(&mut response, &warnings);
            }
            Verdict::Forbidden { causes, warnings } => {
                deny(&mut response, self.refused(&FORBIDDEN, &causes));
                warn(&mut response, &warnings);
            }
            Verdict::Deny {
                code,
                reason,
                message,
            } => {
                let code = if (400..600).contains(&code) {
                    code
                } else {
                    500
                };
                deny(&mut response, failure(code, &reason, &message));
            }
        }
        review(API_VERSION, &response)
    }

    fn patchable(&self, mutated: &Value) -> bool {
        self.object.is_object() && mutated.is_object()
    }

    /// As `NewInvalid` and `NewForbidden` of k8s.io/apimachinery word it.
    fn refused(&self, why: &Why, causes: &[Cause]) -> Value {
        let GroupVersionKind { group, kind, .. } = &self.kind;
        let dot = if group.is_empty() { "" } else { "." };
        let (mut faults, mut seen) = (Vec::new(), HashSet::new());
        for Cause { field, message, .. } in causes {
            let fault = if field.is_empty() {
                message.clone()
            } else {
                format!("{field}: {message}")
            };
            // NewInvalid's aggregate leaves out duplicates too.
            if seen.insert(fault.clone()) {
                faults.push(fault);
            }
        }
        let faults = match faults.as_slice() {
            [] => String::new(),
            [fault] => format!(": {fault}"),
            _ => format!(": [{}]", faults.join(", ")),
        };
        let causes: Vec<Value> = causes
            .iter()
            .map(
                |Cause {
                     reason,
                     message,
                     field,
                 }| {
                    json!({ "reason": reason, "message": message, "field": field })
                },
            )
            .collect();
        let Why { code, reason, word } = why;
        let message = format!("{kind}{dot}{group} {:?} is {word}{faults}", self.name);
        let mut status = failure(*code, reason, &message);
        status["details"] =
            json!({ "name": self.name, "group": group, "kind": kind, "causes": causes });
        status
    }
}

/// The answer to a request that could not be decoded, in the version it was asked in.
pub(crate) fn undecodable(api_version: &str, uid: &str, message: &str) -> Value {
    let mut response = json!({ "uid": uid });
    deny(&mut response, failure(400, "BadRequest", message));
    review(api_version, &response)
}

fn review(api_version: &str, response: &Value) -> Value {
    json!({ "kind": "AdmissionReview", "apiVersion": api_version, "response": response })
}

fn allow(response: &mut Value, warnings: &[String]) {
    response["allowed"] = json!(true);
    warn(response, warnings);
}

fn deny(response: &mut Value, status: Value) {
    response["allowed"] = json!(false);
    response["status"] = status;
}

fn warn(response: &mut Value, warnings: &[String]) {
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::too_many_lines)]
mod tests;
