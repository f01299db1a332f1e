//! Who may read the metrics over TLS: whom the API server says that a token names, and who may `get` the path `/metrics`.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use crate::controller::cache::lock;
use crate::hash::Hash;

/// What is read, as a rule of a `ClusterRole` names it.
pub const PATH: &str = "/metrics";
/// An answer is good for this long; Prometheus asks twice a minute.
const GOOD_FOR: Duration = Duration::from_mins(1);
/// The time limit of the questions about one request. Prometheus waits for 10 s.
const LIMIT: Duration = Duration::from_secs(5);
/// The most answers that are remembered.
const MOST_ANSWERS: usize = 256;
/// Questions at once.
const AT_ONCE: usize = 4;
/// The longest token that is asked about, in bytes; those of accounts have about 1,000.
const LONGEST_TOKEN: usize = 16 * 1024;

/// Asks who callers are, and remembers the answers for a while.
pub struct Scrapers {
    client: Client,
    answers: Mutex<HashMap<Hash, (Instant, Answer)>>,
    asking: Semaphore,
}

/// What the API server says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    MayRead,
    /// Not this user.
    MayNot(String),
    /// It names nobody.
    Nobody,
}

/// Why the metrics are not shown.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// 401
    #[error(
        "send \"Authorization: Bearer TOKEN\", with the token of a ServiceAccount of this cluster"
    )]
    NoToken,
    /// 401
    #[error("the API server does not know this token, or it has expired")]
    UnknownToken,
    /// 403
    #[error(
        "user {0:?} may not get {PATH}; a ClusterRole with this nonResourceURL has to allow it"
    )]
    Forbidden(String),
    /// 503
    #[error("the API server did not say who this is: {0}")]
    Unknown(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = self.to_string();
        match self {
            Self::NoToken | Self::UnknownToken => {
                let challenge = [(WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, challenge, text).into_response()
            }
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, text).into_response(),
            Self::Unknown(_) => (StatusCode::SERVICE_UNAVAILABLE, text).into_response(),
        }
    }
}

impl Scrapers {
    /// Asks by this client, whose user may create `TokenReview`s and `SubjectAccessReview`s.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            answers: Mutex::default(),
            asking: Semaphore::new(AT_ONCE),
        }
    }

    /// Lets whoever sends these headers read the metrics, or says why not.
    pub async fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = bearer(headers).ok_or(Refusal::NoToken)?;
        let asked = tokio::time::timeout(LIMIT, self.answer(token));
        let answer = asked
            .await
            .map_err(|_| Refusal::Unknown(format!("no answer within {} s", LIMIT.as_secs())))?
            .map_err(|error| Refusal::Unknown(error.to_string()))?;
        match answer {
            Answer::MayRead => Ok(()),
            Answer::MayNot(user) => Err(Refusal::Forbidden(user)),
            Answer::Nobody => Err(Refusal::UnknownToken),
        }
    }

    async fn answer(&self, token: &str) -> kube::Result<Answer> {
        let who = Hash::of(token.as_bytes());
        let known = |answers: &HashMap<Hash, (Instant, Answer)>| {
            let (since, answer) = answers.get(&who)?;
            (since.elapsed() < GOOD_FOR).then(|| answer.clone())
        };
        if let Some(answer) = known(&lock(&self.answers)) {
            return Ok(answer);
        }
        // It is never closed.
        let _turn = self.asking.acquire().await.ok();
        let answer = self.ask(token).await?;
        let mut answers = lock(&self.answers);
        if answers.len() >= MOST_ANSWERS {
            answers.retain(|_, (since, _)| since.elapsed() < GOOD_FOR);
        }
        if answers.len() < MOST_ANSWERS {
            answers.insert(who, (Instant::now(), answer.clone()));
        }
        Ok(answer)
    }

    async fn ask(&self, token: &str) -> kube::Result<Answer> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..Default::default()
        };
        let api = Api::<TokenReview>::all(self.client.clone());
        let told = api.create(&PostParams::default(), &review).await?;
        let status = told.status.unwrap_or_default();
        let Some(user) = status
            .user
            .filter(|_| status.authenticated.unwrap_or_default())
        else {
            return Ok(Answer::Nobody);
        };
        let name = user.username.clone().unwrap_or_default();
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let told = api.create(&PostParams::default(), &access(user)).await?;
        let may = told.status.is_some_and(|status| status.allowed);
        Ok(if may {
            Answer::MayRead
        } else {
            Answer::MayNot(name)
        })
    }
}

fn access(user: UserInfo) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(PATH.to_owned()),
                verb: Some("get".to_owned()),
            }),
            resource_attributes: None,
        },
        ..Default::default()
    }
}

/// The token in these headers; none when there is not one only, or it is longer than any.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else {
        return None;
    };
    let (scheme, token) = given.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = scheme.eq_ignore_ascii_case("bearer") && (1..=LONGEST_TOKEN).contains(&token.len());
    fits.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_one_header_says_behind_bearer() {
        let long = format!("Bearer {}", "a".repeat(LONGEST_TOKEN + 1));
        for (given, expected) in [
            (&[][..], None),
            (&["Bearer abc"], Some("abc")),
            (&["bearer  abc "], Some("abc")),
            (&["Bearer "], None),
            (&["Bearer"], None),
            (&["Basic abc"], None),
            (&["abc"], None),
            (&["Bearer abc", "Bearer abc"], None),
            (&[long.as_str()], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(bearer(&headers), expected, "{given:?}");
        }
    }
}
