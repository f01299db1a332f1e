//! What is the same for all servers of a cluster, and in no spec.

/// The cluster, as far as children and statuses depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The DNS domain in which Services are found, such as `cluster.local`.
    pub cluster_domain: String,
    /// Whether the cluster gives each pod a user out of its namespace's range, and refuses any other: OpenShift's
    /// `restricted-v2`. No user is set by default then.
    pub assigns_users: bool,
}

/// A cluster as most are.
impl Default for Platform {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            assigns_users: false,
        }
    }
}
