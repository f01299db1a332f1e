//! Being a service account, as a pod is.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};

use crate::control_plane::{self, Cluster};

/// How long a token is good for: longer than any cluster of a test lives.
const EXPIRATION: i64 = 7 * 24 * 60 * 60;

impl Cluster {
    /// A kubeconfig with a token of a service account, which has to be there already. Its user is
    /// `system:serviceaccount:NAMESPACE:NAME`, with the rights that are bound to it and no others.
    ///
    /// The token is good for a week, and is bound to no pod.
    pub async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.new_client().await?, namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(EXPIRATION),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("asking for a token of {user}"))?;
        let token = answer
            .status
            .and_then(|status| status.token)
            .with_context(|| format!("the API server gave no token of {user}"))?;
        let content = self
            .authority()
            .kubeconfig_with_token(self.url(), &user, &token);
        control_plane::write_user(self.folder(), &user, &content)
    }
}
