//! MCPServer's answers to the API server: defaults on the way in, then the rules.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use kube::Resource;
use serde_json::{Value, json};
use webhook::{Budget, Cause, Handler, Operation, Request, Verdict};

use crate::access::{self, Access, Need};
use crate::api::{FieldError, FieldPath, MCPServer, Platform, decode, defaults, nulls, read};
use crate::build;
use crate::metrics::{self, Metrics};
use crate::namespaces::Levels;
use crate::validation::{self, budget, pod_security};

/// Path of the mutating webhook.
pub const MUTATE_PATH: &str = "/mutate-mcp-example-com-v1alpha1-mcpserver";
/// Path of the validating webhook.
pub const VALIDATE_PATH: &str = "/validate-mcp-example-com-v1alpha1-mcpserver";
/// Name of the mutating webhook.
pub const MUTATE_NAME: &str = "mmcpserver.mcp.example.com";
/// Name of the validating webhook.
pub const VALIDATE_NAME: &str = "vmcpserver.mcp.example.com";

/// The timeout in seconds with which the webhooks are registered by default.
pub const TIMEOUT: u8 = 5;
/// The time limit of a verdict. Shorter than [`TIMEOUT`], because nobody reads a later one.
pub const VERDICT_LIMIT: Duration = Duration::from_secs(TIMEOUT as u64 - 1);

/// The most fields that are named when it is not known whether they may be set.
const SHOWN_FIELDS: usize = 10;

/// Fills in defaults.
pub struct Mutator {
    /// Counts the verdicts.
    pub metrics: Arc<Metrics>,
}

/// Refuses what breaks a rule.
pub struct Validator {
    /// Says what requesters may do; nothing where they are trusted with all that the operator can make.
    pub access: Option<Access>,
    /// What the namespaces enforce.
    pub levels: Arc<Levels>,
    /// Counts the verdicts.
    pub metrics: Arc<Metrics>,
}

impl Handler for Mutator {
    fn path(&self) -> &str {
        MUTATE_PATH
    }

    fn budget(&self) -> Option<Budget> {
        Some(budget::SPEC)
    }

    fn review(&self, request: Request) -> BoxFuture<'_, Verdict> {
        async move {
            let start = Instant::now();
            let verdict = mutate(&request);
            self.metrics.reviewed(
                metrics::MUTATE,
                request.operation,
                &verdict,
                start.elapsed(),
            );
            verdict
        }
        .boxed()
    }

    fn unheard(&self, operation: Option<Operation>) {
        self.metrics.unheard(metrics::MUTATE, operation);
    }
}

impl Handler for Validator {
    fn path(&self) -> &str {
        VALIDATE_PATH
    }

    fn budget(&self) -> Option<Budget> {
        Some(budget::SPEC)
    }

    fn review(&self, request: Request) -> BoxFuture<'_, Verdict> {
        async move {
            let start = Instant::now();
            let verdict = if request.sub_resource.as_deref() == Some("scale") {
                scale(&request)
            } else {
                self.validate(&request).await
            };
            self.metrics.reviewed(
                metrics::VALIDATE,
                request.operation,
                &verdict,
                start.elapsed(),
            );
            verdict
        }
        .boxed()
    }

    fn unheard(&self, operation: Option<Operation>) {
        self.metrics.unheard(metrics::VALIDATE, operation);
    }
}

/// Applies the defaults to the object that was sent, and changes nothing else of it.
pub fn mutate(request: &Request) -> Verdict {
    if let Some(verdict) = not_ours(request).or_else(|| over_budget(request)) {
        return verdict;
    }
    let object = &request.object;
    let deleted = is_being_deleted(object);
    if deleted && leaves_spec_alone(request) {
        return allow();
    }
    let mut server = match server(request) {
        Ok(server) => server,
        Err(verdict) => return verdict,
    };
    let before = server.spec.resources.clone().unwrap_or_default().requests;
    let old = old_server(request);
    defaults::default(&mut server, old.as_ref());
    // The API server would show what the schema says, and ask for the rest no more.
    if validation::is_refused_by_schema(&server, old.as_ref()) {
        return refuse(&validation::faults(&server, old.as_ref()), Vec::new());
    }
    if deleted {
        return allow();
    }
    let mut mutated = nulls::without(object).into_owned();
    for (name, request) in server.spec.resources.unwrap_or_default().requests {
        if before.get(&name) != Some(&request) {
            ensure_object(&mut mutated["spec"], "resources");
            ensure_object(&mut mutated["spec"]["resources"], "requests");
            mutated["spec"]["resources"]["requests"][name] = json!(request);
        }
    }
    if request.operation == Operation::Create {
        server.spec = Default::default();
        defaults::add_finalizer(&mut server);
        mutated["metadata"]["finalizers"] = json!(server.metadata.finalizers);
    }
    Verdict::Mutate {
        object: Box::new(mutated),
        warnings: Vec::new(),
    }
}

fn ensure_object(parent: &mut Value, key: &str) {
    if !parent[key].is_object() {
        parent[key] = json!({});
    }
}

/// A server that breaks no rule.
struct Valid {
    server: MCPServer,
    needs: Vec<Need>,
    warnings: Vec<String>,
}

/// Checks the rules. An error is the verdict on what breaks one, or on what no rule applies to.
fn check(request: &Request) -> Result<Valid, Verdict> {
    if let Some(verdict) = not_ours(request).or_else(|| over_budget(request)) {
        return Err(verdict);
    }
    // Such a change is let through: the finalizers of what is being deleted, for example.
    if leaves_spec_alone(request) {
        return Err(allow());
    }
    let server = server(request)?;
    let old = old_server(request);
    let faults = validation::faults(&server, old.as_ref());
    let warnings = validation::warnings(&server);
    if !faults.is_empty() {
        return Err(refuse(&faults, warnings));
    }
    let needs = access::needs(&server.spec, old.as_ref().map(|old| &old.spec));
    Ok(Valid {
        server,
        needs,
        warnings,
    })
}

/// The verdict on an object whose spec is too large to be looked at, if it is.
fn over_budget(request: &Request) -> Option<Verdict> {
    let over = request.over_budget.as_ref()?;
    // It was stored while no webhook ran, and this request is not about it.
    if request.operation == Operation::Update && over.is_stored {
        return Some(allow());
    }
    Some(Verdict::Invalid {
        causes: vec![over.cause.clone()],
        warnings: Vec::new(),
    })
}

fn leaves_spec_alone(request: &Request) -> bool {
    let (object, old) = (&request.object, &request.old_object);
    request.operation == Operation::Update && object.get("spec") == old.get("spec")
}

fn is_being_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The server of a request, or the verdict on an object that cannot be decoded: all that is wrong with it, the rules
/// included.
fn server(request: &Request) -> Result<MCPServer, Verdict> {
    let (server, faults) = read::server(&request.object, false);
    if let Some(server) = server.filter(|_| faults.is_empty()) {
        return Ok(server);
    }
    // Whoever writes a status must not be judged by it: the controller builds from the spec, whatever the status is.
    let (server, mut faults) = read::server(&without_status(&request.object), false);
    let server = match server {
        Some(server) if faults.is_empty() => return Ok(server),
        server => server,
    };
    if request.operation == Operation::Update {
        // The stored object has the same faults, from the time of an older schema: let them through. Nothing is built of
        // a spec that cannot be read.
        let (_, known) = read::server(&without_status(&request.old_object), false);
        faults.retain(|fault| !known.contains(fault));
        if faults.is_empty() {
            return Err(allow());
        }
    }
    let rules = server.map(|server| validation::faults(&server, old_server(request).as_ref()));
    validation::add_rules(&mut faults, rules.unwrap_or_default());
    Err(refuse(&faults, Vec::new()))
}

fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object
}

/// The verdict on a request to which no rule applies, without looking at the object.
fn not_ours(request: &Request) -> Option<Verdict> {
    if !matches!(request.operation, Operation::Create | Operation::Update)
        || request.sub_resource.is_some()
    {
        return Some(allow());
    }
    let (kind, group) = (MCPServer::kind(&()), MCPServer::group(&()));
    if request.kind.kind != kind || request.kind.group != group {
        let asked = &request.kind;
        let message = format!(
            "this webhook answers for {kind} of {group}, not for {} of {:?}; correct the rules of the webhook configuration",
            asked.kind, asked.group
        );
        return Some(Verdict::Deny {
            code: 400,
            reason: "BadRequest".to_owned(),
            message,
        });
    }
    None
}

fn old_server(request: &Request) -> Option<MCPServer> {
    if request.operation != Operation::Update {
        return None;
    }
    let old = without_status(&request.old_object);
    let stored = nulls::without(&old);
    decode::lenient(&stored, &FieldPath::OBJECT).ok()
}

fn allow() -> Verdict {
    Verdict::Allow {
        warnings: Vec::new(),
    }
}

fn refuse(faults: &[FieldError], warnings: Vec<String>) -> Verdict {
    let cause = |fault: &FieldError| Cause {
        reason: fault.reason.to_owned(),
        message: fault.message.clone(),
        field: fault.field.clone(),
    };
    Verdict::Invalid {
        causes: faults.iter().map(cause).collect(),
        warnings,
    }
}

impl Validator {
    /// Checks the rules, then what the requester may do.
    async fn validate(&self, request: &Request) -> Verdict {
        let Valid {
            server,
            needs,
            mut warnings,
        } = match check(request) {
            Ok(valid) => valid,
            Err(verdict) => return verdict,
        };
        let namespace = request.namespace.as_deref().unwrap_or_default();
        warnings.extend(self.refused_pods(namespace, &server));
        let Some(access) = &self.access else {
            return Verdict::Allow { warnings };
        };
        match access
            .missing(&request.user, request.peer, namespace, &needs)
            .await
        {
            Ok(causes) if causes.is_empty() => Verdict::Allow { warnings },
            Ok(causes) => Verdict::Forbidden { causes, warnings },
            Err(unknown) => {
                tracing::warn!("what a requester may do is not known: {unknown}");
                let fields: BTreeSet<_> = needs.iter().map(|need| need.field.as_str()).collect();
                let fields: Vec<_> = fields.into_iter().take(SHOWN_FIELDS).collect();
                unavailable(format!(
                    "the API server did not say whether user {:?} may set {}; try again: {unknown}",
                    request.user.name,
                    fields.join(", ")
                ))
            }
        }
    }

    /// The warning about pods that the namespace will refuse. It is none to refuse the server for: who is exempt is
    /// written where it cannot be seen.
    fn refused_pods(&self, namespace: &str, server: &MCPServer) -> Option<String> {
        let level = self.levels.of(namespace)?;
        let template = build::deployment::template(server, &Platform::default()).ok()?;
        let violations = pod_security::violations(level, &template)?;
        Some(format!(
            "{violations}; namespace {namespace:?} refuses such pods"
        ))
    }
}

/// What has to be known is not known now.
fn unavailable(message: String) -> Verdict {
    Verdict::Deny {
        code: 503,
        reason: "ServiceUnavailable".to_owned(),
        message,
    }
}

/// The verdict on a request to the scale subresource, which holds a number only: `kubectl scale` and autoscalers. The rule
/// about it is the schema's, too, which the API server asks first; nothing is left but the warning about a scale that
/// leaves nothing running, unless nothing ran before.
fn scale(request: &Request) -> Verdict {
    let replicas = |object: &Value| object["spec"]["replicas"].as_i64().unwrap_or(0);
    let (after, before) = (replicas(&request.object), replicas(&request.old_object));
    let warning = i32::try_from(after).ok().filter(|_| after != before);
    Verdict::Allow {
        warnings: warning
            .and_then(validation::no_replicas)
            .into_iter()
            .collect(),
    }
}

#[cfg(test)]
mod tests;
