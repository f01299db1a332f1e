//! What the requester of a review may do: the operator makes pods and Services with rights of its own, and nobody is to
//! gain by asking it.

mod needs;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use http::Request;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReviewStatus};
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use webhook::{Cause, Shares, User};

pub use needs::{Need, Right, needs};

use crate::controller::cache::lock;
use crate::hash::Hash;

/// An answer is good for this long.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// The time limit of all questions about one request. Shorter than that of a verdict.
const LIMIT: Duration = Duration::from_secs(3);
/// The most answers that are remembered.
const MOST_ANSWERS: usize = 4_096;
/// The most rights that are asked for about one request. Who may create pods needs none of them.
const MOST_ASKED: usize = 64;
/// Questions at once, of all requests.
const AT_ONCE: usize = 16;
/// Of these, those of one peer are one part in so many of what is left to all others.
const ASKING_PARTS: usize = 2;
/// Old answers are looked for at most this often.
const SWEEP: Duration = Duration::from_secs(1);
/// The most causes of one refusal.
const MOST_CAUSES: usize = 100;

/// Asks what requesters may do, and remembers the answers for a while.
pub struct Access {
    client: Client,
    answers: Mutex<HashMap<Question, (Instant, bool)>>,
    asking: Arc<Shares>,
    /// When answers that are not good any more were last forgotten.
    swept: Mutex<Instant>,
}

/// May this user do that there?
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    /// Of all that the API server says of the user.
    user: Hash,
    namespace: String,
    right: Right,
}

/// The API server did not say what the requester may do.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// It says nothing of the requester, so there is nobody to ask about.
    #[error("the review names no requester")]
    Nobody,
    /// It did not answer in time.
    #[error("no answer within {} s", LIMIT.as_secs())]
    Slow,
    /// It refused the question, or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The question could not be put.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// What of `UserInfo` a `SubjectAccessReview` takes, as it came: there may be any number of groups.
#[derive(Deserialize)]
struct Identity<'a> {
    #[serde(borrow)]
    uid: Option<&'a RawValue>,
    #[serde(borrow)]
    groups: Option<&'a RawValue>,
    #[serde(borrow)]
    extra: Option<&'a RawValue>,
}

/// `SubjectAccessReview` of authorization.k8s.io/v1.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a RawValue>,
    resource_attributes: ResourceAttributes,
}

/// What is read of the answer.
#[derive(Deserialize)]
struct Answer {
    status: SubjectAccessReviewStatus,
}

impl Access {
    /// Asks by this client, whose user may create `SubjectAccessReview`s.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            answers: Mutex::default(),
            asking: Shares::new(AT_ONCE, ASKING_PARTS),
            swept: Mutex::new(Instant::now()),
        }
    }

    /// The needs that the user has no right for, as causes. None is let through that could not be asked about. `peer` is
    /// where the request came from: one that makes many waits for itself alone.
    pub async fn missing(
        &self,
        user: &User,
        peer: IpAddr,
        namespace: &str,
        needs: &[Need],
    ) -> Result<Vec<Cause>, Unknown> {
        if needs.is_empty() {
            return Ok(Vec::new());
        }
        let asked = tokio::time::timeout(LIMIT, self.granted(user, peer, namespace, needs));
        let granted = asked.await.map_err(|_| Unknown::Slow)??;
        let missing = |need: &&Need| !need.one_of.iter().any(|right| granted.contains(right));
        Ok(causes(user, namespace, needs.iter().filter(missing)))
    }

    /// The rights that the user has, of those that are needed.
    async fn granted<'a>(
        &self,
        user: &User,
        peer: IpAddr,
        namespace: &str,
        needs: &'a [Need],
    ) -> Result<BTreeSet<&'a Right>, Unknown> {
        let info = user.info.as_deref().ok_or(Unknown::Nobody)?;
        let who = Hash::of(info.get().as_bytes());
        let rights = |needs: &mut dyn Iterator<Item = &'a Need>| {
            let rights: BTreeSet<_> = needs.flat_map(|need| &need.one_of).collect();
            rights
        };
        // The right that most needs have in common is asked for first: mostly it is enough.
        let all = rights(&mut needs.iter());
        let (common, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|right| right.name.is_empty());
        let may = async |right: Right| {
            let question = Question {
                user: who,
                namespace: namespace.to_owned(),
                right,
            };
            self.may(user, peer, info, question).await
        };
        let ask = async |right: &'a Right| {
            let is_granted = may(right.clone()).await?;
            Ok::<_, Unknown>(is_granted.then_some(right))
        };
        let granted = try_join_all(common.into_iter().map(&ask)).await?;
        let mut granted: BTreeSet<_> = granted.into_iter().flatten().collect();
        let is_open = |need: &&Need| !need.one_of.iter().any(|right| granted.contains(right));
        let open = rights(&mut needs.iter().filter(is_open));
        let open: Vec<_> = others
            .into_iter()
            .filter(|right| open.contains(right))
            .collect();
        // Many of one kind: who has the right to all of them is asked about none by name.
        let secrets: Vec<_> = open
            .iter()
            .copied()
            .filter(|right| right.resource == "secrets")
            .collect();
        if let [first, _, ..] = secrets[..] {
            let all = Right {
                name: String::new(),
                ..first.clone()
            };
            if may(all).await? {
                granted.extend(secrets);
            }
        }
        let open = open.into_iter().filter(|right| !granted.contains(right));
        let open: Vec<_> = open.take(MOST_ASKED).collect();
        let more = try_join_all(open.into_iter().map(&ask)).await?;
        granted.extend(more.into_iter().flatten());
        Ok(granted)
    }

    async fn may(
        &self,
        user: &User,
        peer: IpAddr,
        info: &RawValue,
        question: Question,
    ) -> Result<bool, Unknown> {
        let known = lock(&self.answers).get(&question).copied();
        if let Some((_, may)) = known.filter(|(since, _)| since.elapsed() < GOOD_FOR) {
            return Ok(may);
        }
        let mut turn = self.asking.of(peer);
        turn.grow_when_free(1).await;
        let review = review(user, info, &question)?;
        let request = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
            .header("content-type", "application/json")
            .body(review)
            .map_err(kube::Error::HttpError)?;
        let answer: Answer = self.client.request(request).await?;
        let may = answer.status.allowed;
        drop(turn);
        let mut answers = lock(&self.answers);
        if answers.len() >= MOST_ANSWERS && self.is_sweep_due() {
            answers.retain(|_, (since, _)| since.elapsed() < GOOD_FOR);
        }
        if answers.len() < MOST_ANSWERS {
            answers.insert(question, (Instant::now(), may));
        }
        Ok(may)
    }
}

impl Access {
    /// Whether old answers are to be forgotten now. A look at all of them for each new one would take the time of others.
    fn is_sweep_due(&self) -> bool {
        let mut swept = lock(&self.swept);
        let is_due = swept.elapsed() >= SWEEP;
        if is_due {
            *swept = Instant::now();
        }
        is_due
    }
}

/// The text of a `SubjectAccessReview`.
fn review(user: &User, info: &RawValue, question: &Question) -> serde_json::Result<Vec<u8>> {
    let Identity { uid, groups, extra } = serde_json::from_str(info.get())?;
    let right = &question.right;
    serde_json::to_vec(&Review {
        api_version: "authorization.k8s.io/v1",
        kind: "SubjectAccessReview",
        spec: Spec {
            user: &user.name,
            uid,
            groups,
            extra,
            resource_attributes: ResourceAttributes {
                namespace: Some(question.namespace.clone()),
                verb: Some(right.verb.to_owned()),
                group: Some(right.group.to_owned()),
                version: Some("*".to_owned()),
                resource: Some(right.resource.to_owned()),
                name: Some(right.name.clone()),
                ..Default::default()
            },
        },
    })
}

/// A cause for each: the field, what is missing, and who can help.
fn causes<'a>(
    user: &User,
    namespace: &str,
    mut missing: impl Iterator<Item = &'a Need>,
) -> Vec<Cause> {
    let cause = |field: &str, message: String| Cause {
        reason: "FieldValueForbidden".to_owned(),
        message,
        field: field.to_owned(),
    };
    let mut causes: Vec<_> = missing
        .by_ref()
        .take(MOST_CAUSES)
        .map(|need| {
            let rights: Vec<_> = need.one_of.iter().map(ToString::to_string).collect();
            let message = format!(
                "Forbidden: user {:?} needs the right to {} in namespace {namespace:?}; whoever manages its Roles can grant it",
                user.name,
                rights.join(", or to ")
            );
            cause(&need.field, message)
        })
        .collect();
    let more = missing.count();
    if more > 0 {
        let message =
            format!("Forbidden: {more} more fields need a right, shown when these are granted");
        causes.push(cause("spec", message));
    }
    causes
}

#[cfg(test)]
mod tests;
