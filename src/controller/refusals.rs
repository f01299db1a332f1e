//! What was not taken, and when it is worth another try. Losing this costs a try, nothing else.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::cache::lock;
use super::error::{Class, Error, Subject};
use super::key::Key;
use super::view::View;
use super::view::child::{ChildKind, ChildView};
use super::view::server::WishOf;
use crate::hash::Hash;

/// A child by kind and name.
type Place = (&'static str, Key);

/// The children that could not be brought to where they are to be.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<Place, Refusal>>);

struct Refusal {
    attempt: Attempt,
    outcome: Outcome,
    tries: u32,
    until: Instant,
}

/// What was tried: the child that was wanted, the spec that wanted it, and the child as it was. If any of the three
/// changes, it is tried again at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    hash: Hash,
    of: WishOf,
    state: Option<(Box<str>, u64, u64)>,
}

impl Attempt {
    /// An attempt to make this of the child, or to create it.
    pub fn new<K: ChildKind>(hash: Hash, of: WishOf, live: Option<&ChildView<K>>) -> Self {
        Self {
            hash,
            of,
            state: live.map(|live| (live.uid().into(), live.names_digest, live.body_digest)),
        }
    }
}

#[derive(Clone, Debug)]
enum Outcome {
    Failed {
        text: String,
        class: Class,
        subject: Subject,
    },
    Conflict(String),
}

impl Refusals {
    /// What came of this attempt, if it was made and it is too soon for another one: an error, or the text of a
    /// name conflict.
    pub fn too_soon(
        &self,
        place: &Place,
        attempt: &Attempt,
        now: Instant,
    ) -> Option<Result<String, Error>> {
        let all = lock(&self.0);
        let found = all.get(place).filter(|found| found.attempt == *attempt)?;
        let left = found
            .until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())?;
        Some(match &found.outcome {
            Outcome::Conflict(text) => Ok(text.clone()),
            Outcome::Failed {
                text,
                class,
                subject,
            } => Err(Error::TooSoon {
                text: text.clone(),
                class: *class,
                subject: *subject,
                left,
            }),
        })
    }

    /// How long a name conflict is to wait yet, if this child has one.
    pub fn conflict_left(&self, place: &Place, now: Instant) -> Option<Duration> {
        let all = lock(&self.0);
        let found = all.get(place)?;
        matches!(found.outcome, Outcome::Conflict(_))
            .then(|| found.until.saturating_duration_since(now))
    }

    /// Notes that the attempt failed.
    pub fn failed(&self, place: Place, attempt: Attempt, error: &Error, now: Instant) {
        let outcome = Outcome::Failed {
            text: error.to_string(),
            class: error.class(),
            subject: error.subject(),
        };
        self.note(place, attempt, outcome, now, |tries| {
            error.retry_after(tries)
        });
    }

    /// Notes that an object of somebody else has the name, which no watch of ours shows.
    pub fn conflict(&self, place: Place, attempt: Attempt, text: String, now: Instant) {
        let pause =
            |tries| super::error::doubled(FIRST_LOOK, tries, super::error::CONFIGURATION_RETRY);
        self.note(place, attempt, Outcome::Conflict(text), now, pause);
    }

    fn note(
        &self,
        place: Place,
        attempt: Attempt,
        outcome: Outcome,
        now: Instant,
        pause: impl Fn(u32) -> Duration,
    ) {
        let mut all = lock(&self.0);
        let before = all.get(&place).filter(|before| before.attempt == attempt);
        let tries = before.map_or(1, |before| before.tries.saturating_add(1));
        let until = now + pause(tries);
        all.insert(
            place,
            Refusal {
                attempt,
                outcome,
                tries,
                until,
            },
        );
    }

    /// Forgets what was known of this child: it is as it is to be, or not wanted.
    pub fn forget(&self, place: &Place) {
        lock(&self.0).remove(place);
    }
}

/// An object in the way is looked at again after this long; then after twice as long, and so on up to 5 min.
const FIRST_LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::controller::view::server::ServerView;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(generation: i64) -> WishOf {
        let object = json!({"metadata": {"name": "a", "uid": "u", "generation": generation}});
        ServerView::read(&object.to_string()).unwrap().wish_of()
    }

    fn attempt(hash: &str, generation: i64, live: Option<&str>) -> Attempt {
        let view = live.map(|data| {
            let object = json!({"metadata": {"name": "a", "uid": "c"}, "data": {"k": data}});
            ChildView::<ConfigMap>::read(&object.to_string()).unwrap()
        });
        Attempt::new(Hash::of(hash.as_bytes()), of(generation), view.as_ref())
    }

    fn policy() -> Error {
        let message = "admission webhook \"x\" denied the request";
        let status = kube::core::Status::failure(message, "").with_code(403);
        Error::api("applying")(kube::Error::Api(status.boxed()))
    }

    #[test]
    fn only_the_same_attempt_is_held_back_and_only_for_a_time() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let place = || ("ConfigMap", Key::new("n", "a"));
        let made = attempt("h", 1, Some("v"));
        refusals.failed(place(), made.clone(), &policy(), now);
        let is_held = |attempt: &Attempt, after: Duration| {
            refusals.too_soon(&place(), attempt, now + after).is_some()
        };
        assert!(is_held(&made, 9 * SECOND));
        assert!(!is_held(&made, 10 * SECOND), "its time is over");
        for (what, other) in [
            ("another wish", attempt("i", 1, Some("v"))),
            ("another spec", attempt("h", 2, Some("v"))),
            ("another state", attempt("h", 1, Some("w"))),
            ("a state that went", attempt("h", 1, None)),
        ] {
            assert!(!is_held(&other, SECOND), "{what}");
        }
        refusals.failed(place(), made.clone(), &policy(), now);
        assert!(
            is_held(&made, 19 * SECOND),
            "the second time for twice as long"
        );
        refusals.failed(place(), attempt("i", 1, None), &policy(), now);
        assert!(
            !is_held(&attempt("i", 1, None), 10 * SECOND),
            "another attempt begins anew"
        );
        refusals.forget(&place());
        assert!(!is_held(&made, SECOND));
    }

    #[test]
    fn an_object_in_the_way_is_looked_at_now_and_then() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let place = || ("Service", Key::new("n", "a"));
        let made = attempt("h", 1, None);
        let mut at = now;
        let pauses = [10, 20, 40, 80, 160, 300, 300].map(|seconds| seconds * SECOND);
        for pause in pauses {
            refusals.conflict(place(), made.clone(), "it is there".to_owned(), at);
            assert_eq!(refusals.conflict_left(&place(), at), Some(pause));
            at += pause;
        }
        refusals.forget(&place());
        refusals.conflict(place(), made.clone(), "it is there".to_owned(), now);
        let text = refusals
            .too_soon(&place(), &made, now + SECOND)
            .unwrap()
            .unwrap();
        assert_eq!(text, "it is there");
        assert_eq!(
            refusals.conflict_left(&place(), now + SECOND),
            Some(9 * SECOND)
        );
        assert!(
            refusals
                .too_soon(&place(), &made, now + 10 * SECOND)
                .is_none()
        );
    }
}
