//! Bringing one child to where it is to be, in as few requests as that takes.
//!
//! | the child | requests |
//! |---|---|
//! | is known to be as wished | none |
//! | is not known | create; if there is one already, read it |
//! | was made from another wish, or was changed | read, hand its fields over if it was just created, apply |
//! | was changed so that apply cannot put it back | replace, hand over, apply |

use std::time::Instant;

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use super::cache::Cache;
use super::context::{Built, Context};
use super::drift::{self, Ownership};
use super::error::{Class, Error};
use super::item::Item;
use super::key::Key;
use super::managed_fields::handed_over;
use super::observed::Child;
use super::refusals::Attempt;
use super::view::View;
use super::view::child::{ChildKind, ChildView};
use super::view::server::ServerView;
use super::wish::Wish;
use crate::api::labels;

/// How many times the fields of a child are handed over, when its own controllers write to it at the same time.
const HANDOVERS: usize = 5;

/// A write in our name that is no apply.
pub fn as_manager() -> PatchParams {
    PatchParams {
        field_manager: Some(labels::MANAGER.to_owned()),
        ..Default::default()
    }
}

/// A POST or PUT in our name.
fn as_author() -> PostParams {
    PostParams {
        field_manager: Some(labels::MANAGER.to_owned()),
        ..Default::default()
    }
}

/// One child of one server, and the way to it.
struct Place<'a, K: Built> {
    context: &'a Context,
    server: &'a ServerView,
    wish: &'a Wish<K>,
    key: Key,
    api: Api<Item<K>>,
    cache: &'a Cache<ChildView<K>>,
}

/// A child as it is found by a request.
struct Live<K: ChildKind> {
    view: ChildView<K>,
    object: Value,
}

/// Makes the child as wished, if it is not.
pub async fn apply<K: Built>(
    context: &Context,
    server: &ServerView,
    wish: &Wish<K>,
) -> Result<Child<K>, Error> {
    let place = Place {
        context,
        server,
        wish,
        key: server.key.beside(wish.name.as_str()),
        api: context.api(&server.key),
        cache: K::cache(context),
    };
    let known = place.cache.get(&place.key);
    if let Some(known) = &known {
        if let Some(child) = place.not_to_be_touched(known) {
            context.refusals.forget(&place.name());
            return Ok(child);
        }
        if known.equal_to == Some(wish.hash) {
            context.refusals.forget(&place.name());
            return Ok(Child::Present(known.clone()));
        }
    }
    let attempt = Attempt::new(wish.hash, server.wish_of(), known.as_deref());
    let (name, now) = (place.name(), Instant::now());
    match context.refusals.too_soon(&name, &attempt, now) {
        Some(Ok(text)) => return Ok(Child::Conflict(text)),
        Some(Err(error)) => return Err(error),
        None => {}
    }
    // An object that was in the way is looked for before another one is sent.
    let tried = if known.is_some() || context.refusals.conflict_left(&name, now).is_some() {
        match place.update().await {
            Ok(None) => place.create().await,
            updated => updated.map(|child| child.unwrap_or(Child::Absent)),
        }
    } else {
        place.create().await
    };
    match &tried {
        // Nothing was asked of the API server.
        Err(error) if error.is_not_leading() => {}
        Err(error) => context
            .refusals
            .failed(name, attempt, error, Instant::now()),
        Ok(Child::Conflict(text)) => {
            context
                .refusals
                .conflict(name, attempt, text.clone(), Instant::now());
        }
        Ok(_) => context.refusals.forget(&name),
    }
    tried
}

impl<K: Built> Place<'_, K> {
    fn name(&self) -> (&'static str, Key) {
        (kind::<K>(), self.key.clone())
    }

    fn error(&self, doing: &str) -> impl FnOnce(kube::Error) -> Error + use<K> {
        Error::api(format!("{doing} {} {}", kind::<K>(), self.key.name))
    }

    /// What is said of a live object that is somebody else's, or on its way out.
    fn not_to_be_touched(&self, live: &ChildView<K>) -> Option<Child<K>> {
        let (kind, name) = (kind::<K>(), &self.key.name);
        match drift::ownership(&self.server.key.name, self.server.uid(), &live.whose) {
            Ownership::Foreign => Some(Child::Conflict(format!(
                "{kind} {name:?} exists and is not this MCPServer's; delete or rename one of the two"
            ))),
            Ownership::Leftover => Some(Child::Leaving(format!(
                "{kind} {name} of a deleted MCPServer is being removed"
            ))),
            Ownership::Ours | Ownership::Orphan if live.deleting => {
                Some(Child::Leaving(format!("{kind} {name} is being deleted")))
            }
            Ownership::Ours | Ownership::Orphan => None,
        }
    }

    /// Creates the child. An object of the name that is there already is never written to by this.
    async fn create(&self) -> Result<Child<K>, Error> {
        let item = Item::new(&self.wish.body).map_err(not_json("building", self.wish))?;
        match self
            .api
            .create(&as_author(), &item)
            .await
            .map_err(self.error("creating"))
        {
            Ok(created) => self.settled(&created, "created"),
            // When it has gone in this moment, the next try makes it.
            Err(error) if error.is_there_already() => self.update().await?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Looks at the child, and writes to it if it differs. Nothing when it is not there.
    async fn update(&self) -> Result<Option<Child<K>>, Error> {
        // Before the request: what is known after it may be a successor.
        let known = self.cache.get(&self.key);
        let Some(live) = self.read().await? else {
            if let Some(known) = known {
                self.cache.gone(&self.key, known.uid());
            }
            return Ok(None);
        };
        self.change(live).await.map(Some)
    }

    async fn change(&self, live: Live<K>) -> Result<Child<K>, Error> {
        if let Some(child) = self.not_to_be_touched(&live.view) {
            return Ok(child);
        }
        if !drift::differs(&self.wish.body, &live.object) {
            let view = live.view.equal_to(self.wish.hash);
            return Ok(Child::Present(self.cache.wrote(&self.key, view)));
        }
        let live = self.hand_over(live).await?;
        match self.apply_to(&live).await {
            // A policy that says no says so to a repair, too.
            Err(error) if error.is_invalid() && error.class() != Class::Policy => {
                match self.repair(live).await {
                    Ok(child) => Ok(child),
                    // Somebody else wrote to it at this moment.
                    Err(error) if error.class() == Class::Transient => Err(error),
                    // What the API server said first is what the user has to know.
                    Err(second) => {
                        tracing::debug!("{second}");
                        Err(error)
                    }
                }
            }
            applied => applied.and_then(|applied| self.settled(&applied, "updated")),
        }
    }

    async fn read(&self) -> Result<Option<Live<K>>, Error> {
        let found = self
            .api
            .get_opt(&self.key.name)
            .await
            .map_err(self.error("reading"))?;
        found.map(|item| self.live(&item)).transpose()
    }

    fn live(&self, item: &Item<K>) -> Result<Live<K>, Error> {
        let read = |text| Ok((ChildView::read(text)?, serde_json::from_str(text)?));
        let (view, object) = read(item.text()).map_err(not_json("reading", self.wish))?;
        Ok(Live { view, object })
    }

    /// Makes the fields that we created, or replaced, those of our applies; see [`handed_over`].
    async fn hand_over(&self, mut live: Live<K>) -> Result<Live<K>, Error> {
        let mut conflict = None;
        for _ in 0..HANDOVERS {
            let Some(entries) = handed_over(&live.object["metadata"]["managedFields"]) else {
                return Ok(live);
            };
            let version = &live.object["metadata"]["resourceVersion"];
            let owners =
                json!({"metadata": {"resourceVersion": version, "managedFields": entries}});
            let patch = Patch::Merge(&owners);
            let patched = self.api.patch(&self.key.name, &as_manager(), &patch).await;
            live = match patched.map_err(self.error("applying")) {
                Ok(patched) => self.live(&patched)?,
                // Its controllers write to it as well; each conflict means that one of them got on.
                Err(error) if error.is_conflict() => match self.read().await? {
                    Some(live) => {
                        conflict = Some(error);
                        live
                    }
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            };
        }
        // What is not handed over could not be taken away later.
        conflict.map_or(Ok(live), Err)
    }

    /// Applies the wish to just this object, not to one of the same name that somebody put in its place meanwhile.
    async fn apply_to(&self, live: &Live<K>) -> Result<Item<K>, Error> {
        let mut body = self.wish.body.clone();
        body["metadata"]["uid"] = live.view.uid().into();
        let params = PatchParams::apply(labels::MANAGER).force();
        let applied = self
            .api
            .patch(&self.key.name, &params, &Patch::Apply(&body))
            .await;
        applied.map_err(self.error("applying"))
    }

    /// Puts back what server-side apply cannot: a child in which somebody put something else in the place of ours.
    /// The hash, which tells that all is done, is written by the last step.
    async fn repair(&self, live: Live<K>) -> Result<Child<K>, Error> {
        if live.object["immutable"] == true {
            delete(self.context, &self.key, &live.view).await?;
            let kind = kind::<K>();
            return Ok(Child::Leaving(format!(
                "{kind} {} cannot be changed; it is replaced by a new one",
                self.key.name
            )));
        }
        let mut repaired = drift::repaired(&self.wish.body, &live.object);
        if let Value::Object(annotations) = &mut repaired["metadata"]["annotations"] {
            annotations.remove(labels::APPLIED_HASH);
        }
        let item = Item::new(&repaired).map_err(not_json("repairing", self.wish))?;
        let replaced = self.api.replace(&self.key.name, &as_author(), &item).await;
        let replaced = self.live(&replaced.map_err(self.error("replacing"))?)?;
        let live = self.hand_over(replaced).await?;
        let applied = self.apply_to(&live).await?;
        self.settled(&applied, "repaired")
    }

    /// Notes what the API server made of the wish: as long as nobody changes that, there is nothing to do.
    fn settled(&self, answer: &Item<K>, verb: &'static str) -> Result<Child<K>, Error> {
        let view = ChildView::<K>::read(answer.text()).map_err(not_json("reading", self.wish))?;
        let kind = kind::<K>();
        tracing::info!(%kind, child = &*self.key.name, "{verb} {kind}");
        let view = view.equal_to(self.wish.hash);
        Ok(Child::Present(self.cache.wrote(&self.key, view)))
    }
}

fn not_json<K>(doing: &str, wish: &Wish<K>) -> impl FnOnce(serde_json::Error) -> Error + use<K> {
    let action = format!("{doing} {}", wish.name);
    move |source| Error::Json { action, source }
}

fn kind<K: ChildKind>() -> &'static str {
    // A static kind has a static name.
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "child",
    }
}

/// Deletes the child that is no longer wanted, if it is there and ours.
pub async fn prune<K: Built>(
    context: &Context,
    server: &ServerView,
    key: &Key,
) -> Result<(), Error> {
    context.refusals.forget(&(kind::<K>(), key.clone()));
    let Some(live) = K::cache(context).get(key) else {
        return Ok(());
    };
    let ownership = drift::ownership(&server.key.name, server.uid(), &live.whose);
    if !matches!(ownership, Ownership::Ours | Ownership::Orphan) || live.deleting {
        return Ok(());
    }
    delete(context, key, &live).await
}

/// Deletes just this object; what it owns goes after it.
pub async fn delete<K: Built>(
    context: &Context,
    key: &Key,
    live: &ChildView<K>,
) -> Result<(), Error> {
    let (kind, cache) = (kind::<K>(), K::cache(context));
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: Some(live.uid().to_owned()),
            resource_version: None,
        }),
        ..Default::default()
    };
    let api = context.api::<K>(key);
    match api
        .delete(&key.name, &params)
        .await
        .map_err(Error::api(format!("deleting {kind} {}", key.name)))
    {
        Ok(answer) => {
            tracing::info!(%kind, child = &*key.name, "deleted {kind}");
            // Somebody's finalizer may keep it.
            let left = answer
                .left()
                .and_then(|item| ChildView::<K>::read(item.text()).ok());
            if let Some(left) = left.filter(|left| left.deleting) {
                cache.wrote(key, left);
                return Ok(());
            }
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    cache.gone(key, live.uid());
    Ok(())
}
