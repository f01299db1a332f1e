//! The name of a server, of a child or of a pod: namespace and name.

use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;

/// Names one object of a kind. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

impl Key {
    /// A name within a namespace.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of this object.
    pub fn of(object: &impl ResourceExt) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }

    /// Another name in the same namespace.
    #[must_use]
    pub fn beside(&self, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: name.into(),
        }
    }

    /// Whatever is logged of a server is logged in this span, so that its name is found in one place.
    pub fn span(&self) -> tracing::Span {
        // The highest level, because a filter that drops a span drops the name from the warnings in it. The field is
        // not called `name`, because in JSON that is the span's own name.
        tracing::error_span!(
            "reconcile",
            namespace = &*self.namespace,
            mcpserver = &*self.name
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
