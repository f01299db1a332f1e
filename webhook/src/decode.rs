//! From the body of a POST to a [`Request`], keeping the uid of whatever cannot be understood.

use serde_json::{Map, Value};

use crate::refusal::Refusal;
use crate::review::{API_VERSION, GroupVersionKind, GroupVersionResource, Operation, Request};

const GROUP_PREFIX: &str = "admission.k8s.io/";

/// Why a body could not be decoded.
#[derive(Debug, PartialEq)]
pub(crate) enum Undecodable {
    /// Without a uid there is no review to answer with: an HTTP error.
    Anonymous(Refusal),
    /// The uid is known: a review that denies, with code 400.
    Review {
        /// The version of the request, so that the caller can decode the answer.
        api_version: String,
        uid: String,
        message: String,
    },
}

/// Decodes a body. Generically first, so that the uid is known even when the object is bad.
pub(crate) fn decode(body: &[u8]) -> Result<Request, Undecodable> {
    let anonymous = |message| Undecodable::Anonymous(Refusal::bad_request(message));
    let mut review: Value = serde_json::from_slice(body)
        .map_err(|error| anonymous(format!("the request's body is not JSON: {error}")))?;
    let uid = match review.pointer("/request/uid") {
        Some(Value::String(uid)) if !uid.is_empty() => uid.clone(),
        _ => {
            return Err(anonymous(
                "the request's body is no AdmissionReview: request.uid must be a string and not \
                 empty, because the answer repeats it"
                    .to_owned(),
            ));
        }
    };
    let asked = review
        .get("apiVersion")
        .and_then(Value::as_str)
        .map(str::to_owned);
    read(&mut review, asked.as_deref(), &uid).map_err(|message| Undecodable::Review {
        api_version: asked
            .filter(|version| version.starts_with(GROUP_PREFIX))
            .unwrap_or_else(|| API_VERSION.to_owned()),
        uid,
        message,
    })
}

/// Reads the request. The error names the wrong field but never its value, because errors are logged.
fn read(review: &mut Value, api_version: Option<&str>, uid: &str) -> Result<Request, String> {
    if review.get("kind").and_then(Value::as_str) != Some("AdmissionReview") {
        return Err("kind must be AdmissionReview".to_owned());
    }
    if api_version != Some(API_VERSION) {
        return Err(format!(
            "apiVersion must be {API_VERSION}, the only one this webhook speaks: set \
             admissionReviewVersions of the webhook configuration to [\"v1\"]"
        ));
    }
    let Some(request) = review.get_mut("request").and_then(Value::as_object_mut) else {
        return Err("request must be an object".to_owned());
    };
    let object = take_object(request, "object")?;
    let old_object = take_object(request, "oldObject")?;
    let fields = Fields {
        path: "request",
        map: request,
    };
    let user = match fields.object("userInfo", "request.userInfo")? {
        Some(user) => user.string("username")?.unwrap_or_default(),
        None => String::new(),
    };
    let kind = fields.required_object("kind", "request.kind")?;
    let kind = GroupVersionKind {
        group: kind.string("group")?.unwrap_or_default(),
        version: kind.required_string("version")?,
        kind: kind.required_string("kind")?,
    };
    let resource = fields.required_object("resource", "request.resource")?;
    let resource = GroupVersionResource {
        group: resource.string("group")?.unwrap_or_default(),
        version: resource.required_string("version")?,
        resource: resource.required_string("resource")?,
    };
    Ok(Request {
        uid: uid.to_owned(),
        kind,
        resource,
        sub_resource: fields
            .string("subResource")?
            .filter(|text| !text.is_empty()),
        name: fields.string("name")?.unwrap_or_default(),
        namespace: fields.string("namespace")?.filter(|text| !text.is_empty()),
        operation: operation(&fields.required_string("operation")?)?,
        object,
        old_object,
        dry_run: fields.boolean("dryRun")?,
        user,
    })
}

fn operation(text: &str) -> Result<Operation, String> {
    match text {
        "CREATE" => Ok(Operation::Create),
        "UPDATE" => Ok(Operation::Update),
        "DELETE" => Ok(Operation::Delete),
        "CONNECT" => Ok(Operation::Connect),
        _ => Err("request.operation must be CREATE, UPDATE, DELETE or CONNECT".to_owned()),
    }
}

/// Moves an object out rather than copying it: the two objects make up nearly the whole body.
fn take_object(request: &mut Map<String, Value>, key: &str) -> Result<Value, String> {
    match request.remove(key) {
        None | Some(Value::Null) => Ok(Value::Null),
        Some(object @ Value::Object(_)) => Ok(object),
        Some(_) => Err(format!("request.{key} must be an object")),
    }
}

/// Typed access to one JSON object. An absent field and null are the same, as in Go.
struct Fields<'a> {
    path: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn string(&self, key: &str) -> Result<Option<String>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("{}.{key} must be a string", self.path)),
        }
    }

    fn required_string(&self, key: &str) -> Result<String, String> {
        self.string(key)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| format!("{}.{key} must not be empty", self.path))
    }

    fn boolean(&self, key: &str) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(format!("{}.{key} must be true or false", self.path)),
        }
    }

    fn object(&self, key: &str, path: &'static str) -> Result<Option<Fields<'a>>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { path, map })),
            Some(_) => Err(format!("{path} must be an object")),
        }
    }

    fn required_object(&self, key: &str, path: &'static str) -> Result<Fields<'a>, String> {
        self.object(key, path)?
            .ok_or_else(|| format!("{path} must not be empty"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::too_many_lines)]
mod tests;
