//! Paths of fields, like `field.Path` of k8s.io/apimachinery. A step is cheap; the text is made only for a fault.

use std::fmt;

use super::names::LONGEST_QUALIFIED_NAME;

/// The place of a value in an object. `Display` gives `spec.env[2].name`, `spec.config[SESSION_TIMEOUT]`.
///
/// A path borrows its parent and its keys, because a key may be as long as the object.
#[derive(Clone, Copy, Debug)]
pub struct FieldPath<'a>(Step<'a>);

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Object,
    Child(&'a FieldPath<'a>, &'a str),
    Index(&'a FieldPath<'a>, usize),
    Key(&'a FieldPath<'a>, &'a str),
}

impl FieldPath<'static> {
    /// The object itself, whose path is empty.
    pub const OBJECT: Self = Self(Step::Object);
    /// `metadata`
    pub const METADATA: Self = Self(Step::Child(&Self::OBJECT, "metadata"));
    /// `spec`
    pub const SPEC: Self = Self(Step::Child(&Self::OBJECT, "spec"));
    /// `spec.podTemplate`
    pub const POD_TEMPLATE: Self = Self(Step::Child(&Self::SPEC, "podTemplate"));
}

impl FieldPath<'_> {
    /// A field of this object.
    pub const fn child<'a>(&'a self, name: &'a str) -> FieldPath<'a> {
        FieldPath(Step::Child(self, name))
    }

    /// An item of this list.
    pub const fn index(&self, index: usize) -> FieldPath<'_> {
        FieldPath(Step::Index(self, index))
    }

    /// An entry of this map.
    pub const fn key<'a>(&'a self, key: &'a str) -> FieldPath<'a> {
        FieldPath(Step::Key(self, key))
    }
}

/// A key, cut off where it is longer than any that Kubernetes takes: each fault of an object has its own copy.
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(LONGEST_QUALIFIED_NAME) {
            Some((end, _)) => write!(f, "{}…", self.0.get(..end).unwrap_or_default()),
            None => f.write_str(self.0),
        }
    }
}

impl<'a> From<&FieldPath<'a>> for FieldPath<'a> {
    fn from(path: &FieldPath<'a>) -> Self {
        *path
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Step::Object => Ok(()),
            Step::Child(FieldPath(Step::Object), name) => write!(f, "{}", Short(name)),
            Step::Child(parent, name) => write!(f, "{parent}.{}", Short(name)),
            Step::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Step::Key(parent, key) => write!(f, "{parent}[{}]", Short(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_kubernetes_writes_it() {
        let (env, config) = (
            FieldPath::SPEC.child("env"),
            FieldPath::SPEC.child("config"),
        );
        let table = [
            (FieldPath::OBJECT.to_string(), ""),
            (FieldPath::OBJECT.child("kind").to_string(), "kind"),
            (
                FieldPath::METADATA.child("name").to_string(),
                "metadata.name",
            ),
            (env.index(2).child("name").to_string(), "spec.env[2].name"),
            (config.key("A.B").to_string(), "spec.config[A.B]"),
            (
                FieldPath::POD_TEMPLATE.child("spec").to_string(),
                "spec.podTemplate.spec",
            ),
        ];
        for (path, expected) in table {
            assert_eq!(path, expected);
        }
    }
}
