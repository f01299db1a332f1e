//! What a handler is asked and what it may answer.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::budget::{Budget, OverBudget};

/// The one version of `AdmissionReview` that is spoken.
pub(crate) const API_VERSION: &str = "admission.k8s.io/v1";

/// One request, as decoded from `AdmissionReview.request` (admission.k8s.io/v1).
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The API server's name for this request; the answer repeats it. Never empty.
    pub uid: String,
    /// The kind of `object`: for a subresource its own, such as `autoscaling/v1` `Scale`.
    pub kind: GroupVersionKind,
    /// The resource that was asked for, such as `deployments`.
    pub resource: GroupVersionResource,
    /// The subresource, such as `scale`; `None` for the object itself.
    pub sub_resource: Option<String>,
    /// The object's name; empty on a create by `generateName`.
    pub name: String,
    /// The object's namespace; `None` for what is cluster-wide.
    pub namespace: Option<String>,
    /// What is being done.
    pub operation: Operation,
    /// The object as it would be stored: a JSON object, or `Null` when absent (Delete).
    pub object: Arc<Value>,
    /// The object as it is stored: a JSON object, or `Null` when absent (Create, Connect).
    pub old_object: Arc<Value>,
    /// Set when `object` is beyond [`Handler::budget`]; what is, is left out of it. Of `old_object` it is left out, too.
    pub over_budget: Option<OverBudget>,
    /// Nothing will be stored, whatever the verdict.
    pub dry_run: bool,
    /// Who asks.
    pub user: User,
    /// Where the request came from: mostly an API server's address, or a proxy's. Whoever shares something among requests
    /// shares it by this.
    pub peer: IpAddr,
}

/// Who asks, as in `authentication.k8s.io/v1` `UserInfo`.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// `username`; empty when the API server names nobody.
    pub name: String,
    /// All of it, a JSON object, as it came: a user may be in any number of groups, which few handlers look at. `None`
    /// when the API server names nobody.
    pub info: Option<Box<RawValue>>,
}

impl PartialEq for User {
    fn eq(&self, other: &Self) -> bool {
        let text = |user: &Self| user.info.as_ref().map(|info| info.get().to_owned());
        self.name == other.name && text(self) == text(other)
    }
}

/// A kind, as in `metav1.GroupVersionKind`; the core group is the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupVersionKind {
    /// API group, such as `apps`.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
}

/// A resource, as in `metav1.GroupVersionResource`; the core group is the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupVersionResource {
    /// API group, such as `apps`.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Plural resource name, such as `deployments`.
    pub resource: String,
}

/// The operations an API server asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `CREATE`
    Create,
    /// `UPDATE`, patches included
    Update,
    /// `DELETE`
    Delete,
    /// `CONNECT`, such as exec
    Connect,
}

/// One fault; becomes one entry of `status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A `metav1.CauseType`, such as `FieldValueInvalid`.
    pub reason: String,
    /// What is wrong, without the field's path.
    pub message: String,
    /// The field's path as Kubernetes writes it, such as `spec.env[2].name`; empty for the whole
    /// object.
    pub field: String,
}

/// A handler's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Let it through as it is.
    Allow {
        /// Shown to the user, one line each.
        warnings: Vec<String>,
    },
    /// Let it through and turn the object into this one. The answer is a JSON Patch (RFC 6902) from
    /// [`Request::object`], or no patch when nothing differs.
    Mutate {
        /// The whole object as it should be: a JSON object.
        object: Box<Value>,
        /// Shown to the user, one line each.
        warnings: Vec<String>,
    },
    /// Refuse a faulty object: code 422, reason `Invalid`.
    Invalid {
        /// Every fault found.
        causes: Vec<Cause>,
        /// Shown to the user, one line each.
        warnings: Vec<String>,
    },
    /// Refuse what the requester may not do: code 403, reason `Forbidden`.
    Forbidden {
        /// Everything that needs a right which the requester has not.
        causes: Vec<Cause>,
        /// Shown to the user, one line each.
        warnings: Vec<String>,
    },
    /// Refuse for another reason.
    Deny {
        /// HTTP status code, 400 to 599; anything else is answered as 500.
        code: u16,
        /// A `metav1.StatusReason` that goes with the code, such as `Forbidden`.
        reason: String,
        /// What is wrong and what to do.
        message: String,
    },
}

/// Judges the requests that come to one URL path.
///
/// A handler that panics denies its request with code 500; one that takes longer than
/// [`Limits::request_time`](crate::Limits::request_time) allows, with 504. The future is dropped
/// when that time passes and when the caller goes away, so it must be safe to stop at any `await`,
/// and must not block its thread.
pub trait Handler: Send + Sync + 'static {
    /// The URL path, such as `/validate-mcp-example-com-v1alpha1-mcpserver`.
    fn path(&self) -> &str;

    /// What the handler is ready to look at of an object. Without one, objects are built in memory as they come.
    fn budget(&self) -> Option<Budget> {
        None
    }

    /// Judges one request. Called many times at once.
    fn review(&self, request: Request) -> BoxFuture<'_, Verdict>;

    /// Called, for the handler's own statistics, when a request to its path was answered with an error in place of its
    /// verdict. Either the request was refused before the handler saw it (`operation` is `None`: it was not a review,
    /// or there were too many), or the handler panicked or took too long. Must neither block nor panic.
    fn unheard(&self, operation: Option<Operation>) {
        let _ = operation;
    }
}
