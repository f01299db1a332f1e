//! An MCPServer as a pass reads it.

use kube::core::ObjectMeta;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Parts, View};
use crate::api::{
    FieldError, FieldPath, MCPServer, MCPServerSpec, MCPServerStatus, decode, labels, nulls,
};
use crate::controller::key::Key;
use crate::validation::budget;

/// A larger spec, in bytes, is read when a pass needs it.
const LARGE_SPEC: usize = 64 << 10;

/// An MCPServer. Its spec and its status stay text, which takes a fifth of the memory, until a pass needs them.
#[derive(Clone, Debug)]
pub struct ServerView {
    /// Its name.
    pub key: Key,
    uid: Box<str>,
    version: u64,
    /// The generation of its spec.
    pub generation: i64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// All finalizers that it has.
    pub finalizers: Vec<String>,
    /// The annotation that asks for a try without a change of the spec.
    reconcile_at: Option<Box<str>>,
    spec: Option<Box<RawValue>>,
    is_spec_left_out: bool,
    status: Option<Box<RawValue>>,
}

/// Why an MCPServer cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub FieldError);

impl ServerView {
    /// Reads an MCPServer, but for a spec that is large: a tenant who has many of these is not to fill the memory. An
    /// error when its metadata is not an object's.
    pub fn read(text: &str) -> serde_json::Result<Self> {
        let mut view = Self::with_whole_spec(text)?;
        if view.spec_text().len() > LARGE_SPEC {
            // What a status tells of it stays.
            let told = rough(view.spec_text());
            let told =
                json!({"transport": told.transport, "replicas": told.replicas, "port": told.port});
            view.spec = Some(serde_json::value::to_raw_value(&told)?);
            view.is_spec_left_out = true;
        }
        Ok(view)
    }

    /// Reads all of an MCPServer, for the time of a pass.
    pub fn with_whole_spec(text: &str) -> serde_json::Result<Self> {
        let parts = Parts::of(text)?;
        let metadata = &parts.metadata;
        let annotations = metadata.annotations()?;
        Ok(Self {
            key: metadata.key(),
            uid: metadata.uid.as_ref().into(),
            version: metadata.version(),
            generation: metadata.generation.unwrap_or(0),
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone(),
            reconcile_at: annotations
                .get(labels::RECONCILE_AT)
                .map(|at| at.as_str().into()),
            spec: parts.spec.map(ToOwned::to_owned),
            is_spec_left_out: false,
            status: parts.status.map(ToOwned::to_owned),
        })
    }

    /// What changes whenever somebody asks for another try: the uid, the generation, and the annotation.
    pub fn wish_of(&self) -> WishOf {
        WishOf {
            uid: self.uid.clone(),
            generation: self.generation,
            reconcile_at: self.reconcile_at.clone(),
        }
    }

    /// Whether a pass that has seen `before` is to be followed by another one: not for the status.
    pub fn is_moved(&self, before: &Self) -> bool {
        self.wish_of() != before.wish_of()
            || self.deleting != before.deleting
            || self.finalizers != before.finalizers
    }

    /// Whether our finalizer keeps it.
    pub fn has_finalizer(&self) -> bool {
        self.finalizers.iter().any(|name| name == labels::FINALIZER)
    }

    /// The status that is stored, if it can be read: what somebody else wrote there may be anything.
    pub fn status(&self) -> Option<MCPServerStatus> {
        serde_json::from_str(self.status.as_ref()?.get()).ok()
    }

    /// Its metadata as far as a pass knows it.
    pub fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some((*self.key.name).to_owned()),
            namespace: Some((*self.key.namespace).to_owned()),
            uid: Some(self.uid.to_string()),
            generation: Some(self.generation),
            resource_version: Some(self.version.to_string()),
            finalizers: Some(self.finalizers.clone()).filter(|all| !all.is_empty()),
            ..ObjectMeta::default()
        }
    }

    /// The object, without its status. An error that names the field when the spec cannot be read.
    pub fn object(&self) -> Result<MCPServer, Unreadable> {
        let text = self.spec_text();
        // Before it is built: it may have been stored while no webhook ran.
        if let Some(fault) = budget::of_spec(text) {
            return Err(Unreadable(fault));
        }
        // The fast way has no words for what is wrong.
        let spec = serde_json::from_str::<MCPServerSpec>(text).or_else(|_| explained(text))?;
        Ok(self.with(spec))
    }

    /// The object; where its spec cannot be read, with what of it can, and why not.
    pub fn readable(&self) -> (MCPServer, Option<Unreadable>) {
        match self.object() {
            Ok(object) => (object, None),
            Err(unreadable) => (self.with(rough(self.spec_text())), Some(unreadable)),
        }
    }

    /// Whether the spec is too large to be held.
    pub fn is_spec_left_out(&self) -> bool {
        self.is_spec_left_out
    }

    fn spec_text(&self) -> &str {
        self.spec.as_ref().map_or("{}", |spec| spec.get())
    }

    fn with(&self, spec: MCPServerSpec) -> MCPServer {
        MCPServer {
            metadata: self.meta(),
            spec,
            status: None,
        }
    }

    /// The phase that the status tells, for counting.
    pub fn phase(&self) -> Option<crate::api::v1alpha1::Phase> {
        #[derive(serde::Deserialize)]
        struct Phased {
            phase: Option<crate::api::v1alpha1::Phase>,
        }
        let phased: Phased = serde_json::from_str(self.status.as_ref()?.get()).ok()?;
        phased.phase
    }
}

/// What a status tells of a spec, field by field.
fn rough(text: &str) -> MCPServerSpec {
    #[derive(serde::Deserialize)]
    struct Rough<'a> {
        #[serde(borrow)]
        transport: Option<&'a RawValue>,
        #[serde(borrow)]
        replicas: Option<&'a RawValue>,
        #[serde(borrow)]
        port: Option<&'a RawValue>,
    }
    fn of<T: serde::de::DeserializeOwned>(field: Option<&RawValue>) -> Option<T> {
        serde_json::from_str(field?.get()).ok()
    }
    let Ok(rough) = serde_json::from_str::<Rough<'_>>(text) else {
        return MCPServerSpec::default();
    };
    MCPServerSpec {
        transport: of(rough.transport).unwrap_or_default(),
        replicas: of(rough.replicas).unwrap_or(1),
        port: of(rough.port).unwrap_or(crate::api::v1alpha1::DEFAULT_PORT),
        ..MCPServerSpec::default()
    }
}

fn explained(text: &str) -> Result<MCPServerSpec, Unreadable> {
    let unreadable = |error| Unreadable(FieldError::invalid(FieldPath::SPEC, "object", error));
    let mut value: Value = serde_json::from_str(text).map_err(unreadable)?;
    nulls::take_out_of_spec(&mut value);
    decode::lenient(&value, &FieldPath::SPEC).map_err(Unreadable)
}

impl View for ServerView {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn same(&self, other: &Self) -> bool {
        fn text(part: Option<&RawValue>) -> Option<&str> {
            part.map(RawValue::get)
        }
        self.wish_of() == other.wish_of()
            && self.deleting == other.deleting
            && self.finalizers == other.finalizers
            && text(self.spec.as_deref()) == text(other.spec.as_deref())
            && text(self.status.as_deref()) == text(other.status.as_deref())
    }
}

/// Which wish of a user is meant: it changes with the spec, and with the annotation that asks for another try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WishOf {
    uid: Box<str>,
    generation: i64,
    reconcile_at: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(object: &Value) -> ServerView {
        ServerView::read(&object.to_string()).unwrap()
    }

    fn server(change: Value) -> Value {
        let mut object = json!({
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "5", "generation": 2,
                "labels": {"x": "y"}, "finalizers": [labels::FINALIZER]},
            "spec": {"image": "x:1"}, "status": {"phase": "Ready", "observedGeneration": 2},
        });
        json_patch::merge(&mut object, &change);
        object
    }

    #[test]
    fn a_pass_is_due_for_what_it_reads_and_for_nothing_else() {
        let before = read(&server(json!({})));
        let table = [
            (
                "another version",
                json!({"metadata": {"resourceVersion": "6"}}),
                true,
            ),
            ("a label", json!({"metadata": {"labels": {"x": "z"}}}), true),
            (
                "an annotation",
                json!({"metadata": {"annotations": {"a": "b"}}}),
                true,
            ),
            (
                "another spec",
                json!({"metadata": {"generation": 3}, "spec": {"image": "x:2"}}),
                false,
            ),
            (
                "a status of somebody else",
                json!({"status": {"phase": "Failed"}}),
                false,
            ),
            (
                "a deletion",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                false,
            ),
            (
                "a finalizer less",
                json!({"metadata": {"finalizers": null}}),
                false,
            ),
            (
                "a wish to be tried again",
                json!({"metadata": {"annotations": {labels::RECONCILE_AT: "now"}}}),
                false,
            ),
            (
                "another object of the name",
                json!({"metadata": {"uid": "v"}}),
                false,
            ),
        ];
        for (what, change, same) in table {
            let after = read(&server(change));
            assert_eq!(before.same(&after), same, "{what}");
        }
    }

    #[test]
    fn a_large_spec_is_not_held() {
        let env =
            |value: usize| json!({"spec": {"env": [{"name": "A", "value": "x".repeat(value)}]}});
        let small = read(&server(env(1000)));
        assert!(!small.is_spec_left_out() && small.object().is_ok());
        let text = server(env(LARGE_SPEC)).to_string();
        let large = ServerView::read(&text).unwrap();
        assert!(large.is_spec_left_out() && large.spec_text().len() < 100);
        assert_eq!(large.readable().0.spec.replicas, 1);
        assert_eq!(large.wish_of(), small.wish_of());
        let whole = ServerView::with_whole_spec(&text).unwrap();
        assert!(!whole.is_spec_left_out() && whole.object().is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_named_and_its_metadata_is_known() {
        let deep = format!("{}{}{}", "{\"a\":".repeat(220), "{}", "}".repeat(220));
        let text = server(json!({}))
            .to_string()
            .replace("\"x:1\"", &format!("\"x:1\",\"podTemplate\":{deep}"));
        let view = ServerView::read(&text).unwrap();
        assert!(view.has_finalizer());
        assert_eq!(view.status().unwrap().observed_generation, Some(2));
        let told = view.object().unwrap_err().0.to_string();
        assert_eq!(
            told,
            "spec: Invalid value: \"object\": its lists and maps are nested 222 levels deep, must be at most 64"
        );
        let (rough, _) = view.readable();
        assert_eq!((rough.spec.replicas, rough.spec.port), (1, 8080));
        let nulls = server(json!({})).to_string().replace(
            "\"x:1\"",
            "\"x:1\",\"args\":null,\"health\":{\"type\":null}",
        );
        assert!(ServerView::read(&nulls).unwrap().object().is_ok());
        let wrong = read(&server(json!({"spec": {"port": "http"}})));
        let told = wrong.object().unwrap_err().0.to_string();
        assert!(
            told.starts_with("spec.port: Invalid value: \"http\""),
            "{told}"
        );
    }
}
