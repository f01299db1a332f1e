//! What a request to the API server is about, read from its method and its address.

use http::{Method, Uri};

/// A request, in the words of Kubernetes' access rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, or the method in lower case.
    pub verb: String,
    /// The kind's plural name, such as `deployments`; the path of what is no object.
    pub resource: String,
    /// Such as `status`; empty for the object itself.
    pub sub_resource: String,
    /// Empty for what is in no namespace, or in all.
    pub namespace: String,
    /// Empty when a collection is asked for.
    pub name: String,
}

impl Request {
    /// Reads it.
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let path = uri.path();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        // /api/v1/…, /apis/GROUP/VERSION/…
        let below = match parts[..] {
            ["api", _, ref below @ ..] | ["apis", _, _, ref below @ ..] => below,
            _ => &[],
        };
        let (namespace, below) = match *below {
            ["namespaces", namespace, ref below @ ..] if !below.is_empty() => (namespace, below),
            _ => ("", below),
        };
        let word = |at: usize| below.get(at).copied().unwrap_or_default().to_owned();
        let query = uri.query().unwrap_or_default();
        let is_watch = query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"));
        let verb = match (method.as_str(), is_watch, below.len()) {
            ("GET", true, _) => "watch".to_owned(),
            ("GET", false, 1) => "list".to_owned(),
            ("POST", ..) => "create".to_owned(),
            ("PUT", ..) => "update".to_owned(),
            (method, ..) => method.to_lowercase(),
        };
        let resource = match below {
            [] => path.to_owned(),
            _ => word(0),
        };
        Self {
            verb,
            resource,
            sub_resource: word(2),
            namespace: namespace.to_owned(),
            name: word(1),
        }
    }

    /// Whether it is to change something.
    pub fn is_write(&self) -> bool {
        matches!(&*self.verb, "create" | "update" | "patch" | "delete")
    }
}

/// As in `patch mcpservers/status a`.
impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.sub_resource.is_empty() {
            write!(f, "/{}", self.sub_resource)?;
        }
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_access_rules_name_them() {
        for (method, uri, expected, namespace) in [
            (
                "GET",
                "/apis/apps/v1/namespaces/n/deployments/a",
                "get deployments a",
                "n",
            ),
            ("GET", "/api/v1/namespaces/n/pods?limit=1", "list pods", "n"),
            (
                "GET",
                "/apis/mcp.example.com/v1alpha1/mcpservers?a=b&watch=true",
                "watch mcpservers",
                "",
            ),
            (
                "PATCH",
                "/apis/mcp.example.com/v1alpha1/namespaces/n/mcpservers/a/status?fieldManager=x",
                "patch mcpservers/status a",
                "n",
            ),
            (
                "POST",
                "/apis/events.k8s.io/v1/namespaces/n/events",
                "create events",
                "n",
            ),
            ("DELETE", "/api/v1/namespaces/n", "delete namespaces n", ""),
            ("PUT", "/api/v1/nodes/a", "update nodes a", ""),
            ("GET", "/version", "get /version", ""),
        ] {
            let request = Request::of(&method.parse().unwrap(), &uri.parse().unwrap());
            assert_eq!(request.to_string(), expected, "{method} {uri}");
            assert_eq!(request.namespace, namespace, "{method} {uri}");
        }
    }
}
