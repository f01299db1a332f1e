//! What can fail in a pass, and when it is worth another try.

use std::time::Duration;

use kube::core::Status;

use crate::fence::NotLeading;

/// A failed step of a pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("{action}: {}", describe(source))]
    Api {
        /// What was tried, such as `applying Deployment a`.
        action: String,
        /// What came of it.
        source: kube::Error,
    },
    /// The API server did not take this before, nothing has changed since, and it is too soon for another try.
    #[error("{text}")]
    TooSoon {
        /// What it said then.
        text: String,
        /// The class of that.
        class: Class,
        /// What it was about.
        subject: Subject,
        /// When it is worth another try.
        left: Duration,
    },
    /// The pass panicked.
    #[error(
        "the operator failed at this MCPServer (a fault of the operator; please report it): {text}"
    )]
    Panicked {
        /// What the panic said.
        text: String,
    },
    /// The spec breaks rules; it was stored while no webhook ran.
    #[error("{}", faults.join("; "))]
    Invalid {
        /// What is wrong, a rule each.
        faults: Vec<String>,
    },
    /// An object could not be turned into JSON or back.
    #[error("{action}: {source}")]
    Json {
        /// What was tried.
        action: String,
        /// What came of it.
        source: serde_json::Error,
    },
}

/// How an error is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Goes away by itself: tried again after 1, 2, 4 … 60 s.
    Transient,
    /// Somebody has to change the object: looked at again after 5 min, or on change.
    Configuration,
    /// Somebody has to change the operator's rights: looked at again after 30 min, or on change.
    Permanent,
    /// A policy of the cluster does not allow it: tried again after 10, 20, 40 s … 5 min, or on change.
    Policy,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Transient,
        Self::Configuration,
        Self::Permanent,
        Self::Policy,
    ];

    /// Its name, as metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Configuration => "configuration",
            Self::Permanent => "permanent",
            Self::Policy => "policy",
        }
    }

    /// Whether it says that the spec cannot be had as it is.
    pub fn is_of_the_spec(self) -> bool {
        matches!(self, Self::Configuration | Self::Policy)
    }
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The transport and what belongs to it: replicas, sessions, origins, the Service.
    Transport,
    /// The image or its pulling.
    Image,
    /// CPU, memory, quota.
    Resource,
    /// Anything else.
    Other,
}

/// Again after an invalid configuration.
pub const CONFIGURATION_RETRY: Duration = Duration::from_mins(5);
const PERMANENT_RETRY: Duration = Duration::from_mins(30);
const MOST_TRANSIENT_RETRY: Duration = Duration::from_mins(1);
const FIRST_POLICY_RETRY: Duration = Duration::from_secs(10);

impl Error {
    /// An error of a request.
    pub fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api { action, source }
    }

    fn status(&self) -> Option<&Status> {
        match self {
            Self::Api {
                source: kube::Error::Api(status),
                ..
            } => Some(status),
            _ => None,
        }
    }

    /// Whether something was tried: not when it was too soon.
    pub fn is_new(&self) -> bool {
        !matches!(self, Self::TooSoon { .. })
    }

    /// Whether it was not sent, as this replica leads no more.
    pub fn is_not_leading(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Service(error), .. } if error.is::<NotLeading>())
    }

    /// By the API server's answer; whatever is unknown may go away by itself.
    pub fn class(&self) -> Class {
        match self.status() {
            Some(status) => match status.code {
                400..500 if is_policy(status) => Class::Policy,
                400 | 422 => Class::Configuration,
                // Of two items with one key the API server knows no other way to say it.
                500 if status
                    .message
                    .contains("failed to create typed patch object") =>
                {
                    Class::Configuration
                }
                // A full quota is forbidden too, but becomes free again. There is no reason of its own.
                403 if is_quota(status) => Class::Transient,
                401 | 403 => Class::Permanent,
                _ => Class::Transient,
            },
            None => match self {
                Self::Json { .. } | Self::Invalid { .. } | Self::Panicked { .. } => {
                    Class::Configuration
                }
                Self::TooSoon { class, .. } => *class,
                Self::Api { .. } => Class::Transient,
            },
        }
    }

    /// Which part of the object the error is about, by the fields that the API server names.
    pub fn subject(&self) -> Subject {
        if let Self::TooSoon { subject, .. } = self {
            return *subject;
        }
        let Some(status) = self.status() else {
            return Subject::Other;
        };
        if is_quota(status) {
            return Subject::Resource;
        }
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes
            .map(|cause| subject_of_field(&cause.field))
            .find(|subject| *subject != Subject::Other)
            .unwrap_or(Subject::Other)
    }

    /// What tells it from other errors, without words that change from one time to the next.
    pub fn cause(&self) -> String {
        match self {
            Self::Api { action, .. } => {
                let code = self.status().map(|status| status.code);
                format!("{action} {code:?}")
            }
            Self::TooSoon { .. } | Self::Invalid { .. } | Self::Panicked { .. } => self.to_string(),
            Self::Json { action, .. } => action.clone(),
        }
    }

    /// Whether the API server found the object invalid.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(|status| status.code == 422)
    }

    /// Whether there is an object of this name already.
    pub fn is_there_already(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// Whether somebody changed the object since it was read.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(Status::is_conflict)
    }

    /// Whether the object in question is no longer there.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// When to try again, after this number of failures in a row (1 or more).
    pub fn retry_after(&self, failures: u32) -> Duration {
        if let Self::TooSoon { left, .. } = self {
            return *left;
        }
        match self.class() {
            Class::Transient => doubled(Duration::from_secs(1), failures, MOST_TRANSIENT_RETRY),
            Class::Configuration => CONFIGURATION_RETRY,
            Class::Permanent => PERMANENT_RETRY,
            Class::Policy => doubled(FIRST_POLICY_RETRY, failures, CONFIGURATION_RETRY),
        }
    }
}

/// The errors of one pass: one or more. What may pass soonest says when to try again, and each is told.
#[derive(Debug)]
pub struct Failed(Vec<Error>);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl Failed {
    /// The errors of a pass that has some.
    pub fn of(errors: Vec<Error>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// Those that were found now; the others are too soon for another try.
    pub fn new_ones(&self) -> impl Iterator<Item = &Error> {
        self.0.iter().filter(|error| error.is_new())
    }

    /// The class that is hardest to get rid of, among those that were found now; else among all.
    pub fn class(&self) -> Class {
        let hardest = |classes: &mut dyn Iterator<Item = Class>| {
            classes.max_by_key(|class| match class {
                Class::Transient => 0,
                Class::Policy => 1,
                Class::Configuration => 2,
                Class::Permanent => 3,
            })
        };
        hardest(&mut self.new_ones().map(Error::class))
            .or_else(|| hardest(&mut self.0.iter().map(Error::class)))
            .unwrap_or(Class::Transient)
    }

    /// When to try again, after this number of failures in a row.
    pub fn retry_after(&self, failures: u32) -> Duration {
        let times = self.0.iter().map(|error| error.retry_after(failures));
        times.min().unwrap_or(MOST_TRANSIENT_RETRY)
    }
}

/// The first pause, doubled with each failure after the first, up to the most.
pub fn doubled(first: Duration, failures: u32, most: Duration) -> Duration {
    let times = 1u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    first.saturating_mul(times).min(most)
}

/// An admission webhook or policy of the cluster said no, which RBAC, quota and the API server itself word otherwise.
fn is_policy(status: &Status) -> bool {
    let message = &status.message;
    message.contains("admission webhook") || message.contains("ValidatingAdmissionPolicy")
}

fn is_quota(status: &Status) -> bool {
    status.code == 403 && status.message.contains("exceeded quota")
}

/// Which part of an object a field belongs to (`spec.template.spec.containers[0].image`).
pub fn subject_of_field(field: &str) -> Subject {
    let has = |words: &[&str]| words.iter().any(|word| field.contains(word));
    if has(&[".image"]) {
        Subject::Image
    } else if has(&["resources"]) {
        Subject::Resource
    } else if has(&[
        "transport",
        "replicas",
        "port",
        "SESSION_TIMEOUT",
        "CORS_ORIGINS",
        "sessionAffinity",
        "service",
    ]) {
        Subject::Transport
    } else {
        Subject::Other
    }
}

/// The answer's own message; kube adds the whole answer in its debug form.
fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("{} ({})", status.message, status.code)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::StatusDetails;
    use serde_json::json;

    fn answer(code: u16, message: &str, field: &str) -> Error {
        let details: StatusDetails =
            serde_json::from_value(json!({"causes": [{"field": field}]})).unwrap();
        let status = Status {
            code,
            message: message.to_owned(),
            details: Some(details),
            ..Default::default()
        };
        Error::Api {
            action: "applying".to_owned(),
            source: kube::Error::Api(status.boxed()),
        }
    }

    #[test]
    fn the_answer_decides_the_class() {
        let table = [
            ("not found", 404, "", Class::Transient),
            ("conflict", 409, "", Class::Transient),
            ("timeout", 504, "", Class::Transient),
            ("too many requests", 429, "", Class::Transient),
            ("server error", 500, "", Class::Transient),
            ("bad request", 400, "", Class::Configuration),
            ("invalid", 422, "", Class::Configuration),
            ("not logged in", 401, "", Class::Permanent),
            ("forbidden", 403, "cannot patch", Class::Permanent),
            (
                "a webhook's no",
                403,
                "admission webhook \"x.example.com\" denied the request: no",
                Class::Policy,
            ),
            (
                "a policy's no",
                422,
                "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                Class::Policy,
            ),
            (
                "a webhook that cannot be reached",
                500,
                "Internal error occurred: failed calling webhook \"x\": admission webhook \"x\" timed out",
                Class::Transient,
            ),
            (
                "quota",
                403,
                "pods \"a\" is forbidden: exceeded quota: q",
                Class::Transient,
            ),
        ];
        for (what, code, message, expected) in table {
            assert_eq!(answer(code, message, "").class(), expected, "{what}");
        }
        let network = Error::api("x")(kube::Error::LinesCodecMaxLineLengthExceeded);
        assert_eq!(network.class(), Class::Transient, "anything unknown");
    }

    #[test]
    fn the_subject_is_told_by_field_or_reason() {
        let table = [
            (
                "an image",
                422,
                "",
                "spec.template.spec.containers[0].image",
                Subject::Image,
            ),
            (
                "a request",
                422,
                "",
                "spec.template.spec.containers[0].resources.requests",
                Subject::Resource,
            ),
            ("a port", 422, "", "spec.ports[0].port", Subject::Transport),
            (
                "a full quota",
                403,
                "exceeded quota: q",
                "",
                Subject::Resource,
            ),
            ("a label", 422, "", "metadata.labels", Subject::Other),
        ];
        for (what, code, message, field, expected) in table {
            assert_eq!(answer(code, message, field).subject(), expected, "{what}");
        }
    }

    #[test]
    fn transient_errors_are_retried_at_doubling_times_up_to_a_minute() {
        let error = answer(500, "", "");
        let seconds: Vec<_> = (1..=8).map(|n| error.retry_after(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(error.retry_after(u32::MAX).as_secs(), 60);
        assert_eq!(answer(422, "", "").retry_after(3), Duration::from_mins(5));
        assert_eq!(answer(403, "", "").retry_after(3), Duration::from_mins(30));
        let policy = answer(403, "ValidatingAdmissionPolicy 'p'", "");
        let seconds: Vec<_> = (1..=7).map(|n| policy.retry_after(n).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300]);
    }
}
