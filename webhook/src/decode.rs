//! From the body of a POST to a [`Request`], keeping the uid of whatever cannot be understood.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::budget::{self, Budget};
use crate::refusal::Refusal;
use crate::review::{
    API_VERSION, GroupVersionKind, GroupVersionResource, Operation, Request, User,
};

const GROUP_PREFIX: &str = "admission.k8s.io/";
const NO_UID: &str = "the request's body is no AdmissionReview: request.uid must be a string and not empty, because the \
                      answer repeats it";

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

/// The answer repeats the uid, which is 36 characters long.
const LONG_UID: usize = 256;
/// The text of a part of a request that is no object, such as its kind, is at most this long, in bytes.
const SMALL: usize = 64 << 10;

/// The text of the user is at most this long, in bytes: an API server takes no more in the headers or the token that it
/// comes from.
const LONG_USER: usize = 1 << 20;

/// A review whose parts are text yet: nothing is built in memory before its size is known.
#[derive(Deserialize)]
struct Review<'a> {
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, rename = "apiVersion")]
    api_version: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts<'a> {
    #[serde(borrow)]
    uid: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    #[serde(borrow)]
    sub_resource: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    namespace: Option<&'a RawValue>,
    #[serde(borrow)]
    operation: Option<&'a RawValue>,
    #[serde(borrow)]
    user_info: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
    #[serde(borrow)]
    dry_run: Option<&'a RawValue>,
}

/// Decodes a body. The uid comes first, so that it is known even when all else is bad. Of an object that is beyond the
/// budget only a part is built, see [`OverBudget`](crate::OverBudget).
pub(crate) fn decode(body: &[u8], budget: Option<&Budget>) -> Result<Request, Undecodable> {
    let anonymous = |message| Undecodable::Anonymous(Refusal::bad_request(message));
    let not_json =
        |error: &dyn Display| anonymous(format!("the request's body is not JSON: {error}"));
    let text = str::from_utf8(body).map_err(|error| not_json(&error))?;
    // A list would do for a struct, too.
    let review: Option<Review<'_>> = if text.trim_ascii_start().starts_with('{') {
        let review = serde_json::from_str(text);
        Some(review.map_err(|error| not_json(&error))?)
    } else {
        serde_json::from_str::<&RawValue>(text).map_err(|error| not_json(&error))?;
        None
    };
    let request = review.as_ref().and_then(|review| review.request);
    let parts: Option<Parts<'_>> = match request {
        Some(request) => object(request).map_err(|error| not_json(&error))?,
        None => None,
    };
    let (Some(review), Some(parts)) = (review, parts) else {
        return Err(anonymous(NO_UID.to_owned()));
    };
    let Some(uid) = parts.uid.and_then(string).filter(|uid| !uid.is_empty()) else {
        return Err(anonymous(NO_UID.to_owned()));
    };
    if uid.len() > LONG_UID {
        let length = uid.len();
        let message = format!("request.uid must not be longer than {LONG_UID} bytes ({length})");
        return Err(anonymous(message));
    }
    let asked = review.api_version.and_then(string);
    let is_review = review.kind.and_then(string).as_deref() == Some("AdmissionReview");
    read(&parts, is_review, asked.as_deref(), &uid, budget).map_err(|message| Undecodable::Review {
        api_version: asked
            .filter(|version| version.starts_with(GROUP_PREFIX) && version.len() < LONG_UID)
            .unwrap_or_else(|| API_VERSION.to_owned()),
        uid,
        message,
    })
}

/// The fields of a JSON object; nothing when it is none. A list would do for a struct, too.
fn object<'a, T: Deserialize<'a>>(text: &'a RawValue) -> serde_json::Result<Option<T>> {
    if text.get().starts_with('{') {
        serde_json::from_str(text.get()).map(Some)
    } else {
        Ok(None)
    }
}

fn string(text: &RawValue) -> Option<String> {
    serde_json::from_str(text.get()).ok()
}

/// Reads the request. The error names the wrong field but never its value, because errors are logged.
fn read(
    parts: &Parts<'_>,
    is_review: bool,
    api_version: Option<&str>,
    uid: &str,
    budget: Option<&Budget>,
) -> Result<Request, String> {
    if !is_review {
        return Err("kind must be AdmissionReview".to_owned());
    }
    if api_version != Some(API_VERSION) {
        return Err(format!(
            "apiVersion must be {API_VERSION}, the only one this webhook speaks: set \
             admissionReviewVersions of the webhook configuration to [\"v1\"]"
        ));
    }
    let small = small_parts(parts)?;
    let fields = Fields {
        path: "request",
        map: &small,
    };
    let user = match fields.object("userInfo", "request.userInfo")? {
        Some(user) => User {
            name: user.string("username")?.unwrap_or_default(),
            info: parts.user_info.map(ToOwned::to_owned),
        },
        None => User::default(),
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
    let operation = operation(&fields.required_string("operation")?)?;
    let objects = budget::objects(
        an_object("object", parts.object)?,
        an_object("oldObject", parts.old_object)?,
        budget,
    )?;
    Ok(Request {
        uid: uid.to_owned(),
        kind,
        resource,
        sub_resource: fields
            .string("subResource")?
            .filter(|text| !text.is_empty()),
        name: fields.string("name")?.unwrap_or_default(),
        namespace: fields.string("namespace")?.filter(|text| !text.is_empty()),
        operation,
        object: Arc::new(objects.object),
        old_object: Arc::new(objects.old_object),
        over_budget: objects.over_budget,
        dry_run: fields.boolean("dryRun")?,
        user,
        // A body does not say.
        peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    })
}

/// All parts of a request but the objects.
fn small_parts(parts: &Parts<'_>) -> Result<Map<String, Value>, String> {
    let all = [
        ("kind", parts.kind),
        ("resource", parts.resource),
        ("subResource", parts.sub_resource),
        ("name", parts.name),
        ("namespace", parts.namespace),
        ("operation", parts.operation),
        ("dryRun", parts.dry_run),
    ];
    let mut small = Map::new();
    // A user may be in any number of groups, which stay text.
    if let Some(user) = parts.user_info {
        let length = user.get().len();
        if length > LONG_USER {
            return Err(format!(
                "request.userInfo must not be longer than {LONG_USER} bytes ({length})"
            ));
        }
        let name = budget::field(user, "username");
        let name = name.map_err(|error| format!("request.userInfo cannot be read: {error}"))?;
        let name = match name {
            Some(name) if name.get().len() > SMALL => {
                return Err(format!(
                    "request.userInfo.username must not be longer than {SMALL} bytes"
                ));
            }
            Some(name) => serde_json::from_str(name.get()).unwrap_or_default(),
            None => Value::Null,
        };
        let is_object = user.get().starts_with('{');
        let user = is_object.then(|| Map::from_iter([("username".to_owned(), name)]));
        small.insert(
            "userInfo".to_owned(),
            user.map_or(false.into(), Value::from),
        );
    }
    for (key, text) in all {
        let Some(text) = text else { continue };
        let length = text.get().len();
        if length > SMALL {
            return Err(format!(
                "request.{key} must not be longer than {SMALL} bytes ({length})"
            ));
        }
        let value = serde_json::from_str(text.get());
        let value = value.map_err(|error| format!("request.{key} cannot be read: {error}"))?;
        small.insert(key.to_owned(), value);
    }
    Ok(small)
}

fn an_object<'a>(key: &str, text: Option<&'a RawValue>) -> Result<Option<&'a RawValue>, String> {
    match text {
        Some(text) if !text.get().starts_with('{') => {
            Err(format!("request.{key} must be an object"))
        }
        text => Ok(text),
    }
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
