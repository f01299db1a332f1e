//! What a spec asks for beyond a plain server, and the rights that give as much: whoever has neither must not get there by
//! way of the operator, which makes the children with rights of its own. Pure.
//!
//! Only what a request adds is looked at. A plain server needs no right but the one to write it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::SecurityContext;
use serde_json::{Value, json};

use crate::api::v1alpha1::{CommonMetadata, MCPServerSpec, ServiceOptions};
use crate::api::{FieldPath, defaults};

/// A right within a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Right {
    /// The verb.
    pub verb: &'static str,
    /// The API group; the core group is empty.
    pub group: &'static str,
    /// The plural resource.
    pub resource: &'static str,
    /// The one object that it is about; empty for all.
    pub name: String,
}

impl Right {
    /// To make pods: who may do so may do all that a pod can.
    const CREATE_PODS: Self = Self::create("", "pods");
    const CREATE_SERVICES: Self = Self::create("", "services");
    const CREATE_BUDGETS: Self = Self::create("policy", "poddisruptionbudgets");

    const fn create(group: &'static str, resource: &'static str) -> Self {
        Self {
            verb: "create",
            group,
            resource,
            name: String::new(),
        }
    }

    fn on(verb: &'static str, resource: &'static str, name: &str) -> Self {
        Self {
            verb,
            group: "",
            resource,
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        let slash = if self.name.is_empty() { "" } else { "/" };
        let Self {
            verb,
            group,
            resource,
            name,
        } = self;
        write!(f, "{verb} {resource}{dot}{group}{slash}{name}")
    }
}

/// A field that goes beyond a plain server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its path, such as `spec.env[2].valueFrom.secretKeyRef`.
    pub field: String,
    /// One of these rights is enough.
    pub one_of: Vec<Right>,
}

impl Need {
    fn new(path: &FieldPath<'_>, one_of: impl IntoIterator<Item = Right>) -> Self {
        Self {
            field: path.to_string(),
            one_of: one_of.into_iter().collect(),
        }
    }
}

const SPEC: FieldPath<'_> = FieldPath::SPEC;

/// What `new` needs beyond what `old`, the stored spec of an update, had already.
pub fn needs(new: &MCPServerSpec, old: Option<&MCPServerSpec>) -> Vec<Need> {
    let nothing = MCPServerSpec::default();
    let old = old.unwrap_or(&nothing);
    let mut needs = Vec::new();
    account(new, old, &mut needs);
    secrets(new, old, &mut needs);
    security_context(new, old, &mut needs);
    pod_template(new, old, &mut needs);
    service(new, old, &mut needs);
    common_metadata(new, old, &mut needs);
    let budget = &new.disruption_budget;
    if budget.is_some() && *budget != old.disruption_budget {
        let path = SPEC.child("disruptionBudget");
        needs.push(Need::new(&path, [Right::CREATE_BUDGETS]));
    }
    // What keeps in check what is there is taken away together with that, or by who might have written it.
    if loosens(new, old) && !beyond_plain(new).is_empty() {
        needs.push(Need::new(&FieldPath::POD_TEMPLATE, [Right::CREATE_PODS]));
    }
    needs
}

/// Whether a pod template or a common label goes, which may have kept in check what stays: a runtime class, a user namespace,
/// a label that a `NetworkPolicy` chooses by.
fn loosens(new: &MCPServerSpec, old: &MCPServerSpec) -> bool {
    let labels = |spec: &MCPServerSpec| {
        let common = spec.common_metadata.as_ref();
        common
            .map(|common| common.labels.clone())
            .unwrap_or_default()
    };
    let template_goes = has_template(old) && !has_template(new);
    template_goes || adds(&labels(old), &labels(new))
}

/// What of a spec would need a right of whoever wrote it anew.
fn beyond_plain(spec: &MCPServerSpec) -> Vec<Need> {
    let nothing = MCPServerSpec::default();
    let mut needs = Vec::new();
    account(spec, &nothing, &mut needs);
    secrets(spec, &nothing, &mut needs);
    security_context(spec, &nothing, &mut needs);
    pod_template(spec, &nothing, &mut needs);
    needs
}

fn account(new: &MCPServerSpec, old: &MCPServerSpec, needs: &mut Vec<Need>) {
    let account = &new.service_account;
    if let Some(name) = account.as_ref().filter(|_| *account != old.service_account) {
        let impersonate = Right::on("impersonate", "serviceaccounts", name);
        let path = SPEC.child("serviceAccount");
        needs.push(Need::new(&path, [impersonate, Right::CREATE_PODS]));
    }
}

/// A place in which a Secret of this name is named.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// One key, as a variable.
    Key(String, String),
    /// All keys, as variables.
    All(String),
    /// To pull the image.
    Pull(String),
}

/// Each use of a Secret, with its path.
fn uses(spec: &MCPServerSpec, see: &mut dyn FnMut(&FieldPath<'_>, Use)) {
    let env = SPEC.child("env");
    for (index, entry) in spec.env.iter().enumerate() {
        let source = entry.value_from.as_ref();
        if let Some(of) = source.and_then(|source| source.secret_key_ref.as_ref()) {
            let path = env.index(index);
            let path = path.child("valueFrom");
            let key = Use::Key(of.name.clone(), of.key.clone());
            see(&path.child("secretKeyRef"), key);
        }
    }
    let env_from = SPEC.child("envFrom");
    for (index, source) in spec.env_from.iter().enumerate() {
        if let Some(secret) = &source.secret_ref {
            let path = env_from.index(index);
            see(&path.child("secretRef"), Use::All(secret.name.clone()));
        }
    }
    let pull = SPEC.child("imagePullSecrets");
    for (index, secret) in spec.image_pull_secrets.iter().enumerate() {
        see(&pull.index(index), Use::Pull(secret.name.clone()));
    }
}

fn secrets(new: &MCPServerSpec, old: &MCPServerSpec, needs: &mut Vec<Need>) {
    let mut had = BTreeSet::new();
    uses(old, &mut |_, of| {
        had.insert(of);
    });
    uses(new, &mut |path, of| {
        let (Use::Key(name, _) | Use::All(name) | Use::Pull(name)) = &of;
        let has_all = matches!(of, Use::Key(..)) && had.contains(&Use::All(name.clone()));
        if !has_all && !had.contains(&of) {
            let get = Right::on("get", "secrets", name);
            needs.push(Need::new(path, [get, Right::CREATE_PODS]));
        }
    });
}

/// Fields of a security context by which it is weaker than the operator's own, with their values: one of the six fields
/// of that is missing, or gives more; or another one gives more than it has by default.
fn weaker(context: &SecurityContext) -> Vec<(&'static str, Value)> {
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let drops_all = capabilities.drop.iter().flatten().any(|name| name == "ALL");
    let seccomp = context.seccomp_profile.as_ref();
    // What a profile of the node's own lets through is written on the node.
    let unconfined = |type_: &str| type_ != "RuntimeDefault";
    // Where it is weak or not, with one value: leaving it out is as weak as saying so.
    let weak = Value::Null;
    let mut table = vec![
        (
            "allowPrivilegeEscalation",
            context.allow_privilege_escalation != Some(false),
            weak.clone(),
        ),
        ("capabilities", !drops_all, weak.clone()),
        (
            "readOnlyRootFilesystem",
            context.read_only_root_filesystem != Some(true),
            weak.clone(),
        ),
        ("runAsNonRoot", context.run_as_non_root != Some(true), weak),
        (
            "runAsUser",
            context.run_as_user.is_none_or(|user| user == 0),
            json!(context.run_as_user),
        ),
        (
            "seccompProfile",
            seccomp.is_none_or(|profile| unconfined(&profile.type_)),
            json!(context.seccomp_profile),
        ),
        (
            "privileged",
            context.privileged == Some(true),
            json!(context.privileged),
        ),
        (
            "procMount",
            context
                .proc_mount
                .as_deref()
                .is_some_and(|mount| mount != "Default"),
            json!(context.proc_mount),
        ),
        (
            "seLinuxOptions",
            context.se_linux_options.is_some(),
            json!(context.se_linux_options),
        ),
        (
            "appArmorProfile",
            context
                .app_armor_profile
                .as_ref()
                .is_some_and(|profile| unconfined(&profile.type_)),
            json!(context.app_armor_profile),
        ),
    ];
    // Each by itself: one that is left out of several is no more than before.
    let added = capabilities.add.iter().flatten();
    let added: Vec<_> = added
        .map(|name| ("capabilities", true, json!(name)))
        .collect();
    table.splice(2..2, added);
    let weaker = table.into_iter().filter(|(_, is_weaker, _)| *is_weaker);
    weaker.map(|(field, _, value)| (field, value)).collect()
}

fn security_context(new: &MCPServerSpec, old: &MCPServerSpec, needs: &mut Vec<Need>) {
    let of = |spec: &MCPServerSpec| {
        spec.security_context
            .as_ref()
            .map(weaker)
            .unwrap_or_default()
    };
    let had = of(old);
    let mut fields: Vec<_> = of(new)
        .into_iter()
        .filter(|weaker| !had.contains(weaker))
        .map(|(field, _)| field)
        .collect();
    // Of capabilities there may be several.
    fields.dedup();
    for field in fields {
        let path = SPEC.child("securityContext");
        needs.push(Need::new(&path.child(field), [Right::CREATE_PODS]));
    }
}

fn pod_template(new: &MCPServerSpec, old: &MCPServerSpec, needs: &mut Vec<Need>) {
    if has_template(new) && new.pod_template != old.pod_template {
        needs.push(Need::new(&FieldPath::POD_TEMPLATE, [Right::CREATE_PODS]));
    }
}

fn has_template(spec: &MCPServerSpec) -> bool {
    let is_empty = |template: &Value| template.as_object().is_some_and(serde_json::Map::is_empty);
    spec.pod_template
        .as_ref()
        .is_some_and(|template| !is_empty(template))
}

/// Whether there is a key that was not there, or had another value.
fn adds(now: &BTreeMap<String, String>, before: &BTreeMap<String, String>) -> bool {
    now.iter()
        .any(|(key, value)| before.get(key) != Some(value))
}

/// What takes a restriction away is something more, too: the ranges of a load balancer, or an annotation that makes it an
/// internal one.
fn service(new: &MCPServerSpec, old: &MCPServerSpec, needs: &mut Vec<Need>) {
    let path = SPEC.child("service");
    let (type_, old_type) = (defaults::service_type(new), defaults::service_type(old));
    let is_outside = type_ != "ClusterIP";
    let none = ServiceOptions::default();
    let (now, before) = (
        new.service.as_ref().unwrap_or(&none),
        old.service.as_ref().unwrap_or(&none),
    );
    let changed = [
        ("type", is_outside && type_ != old_type),
        (
            "annotations",
            adds(&now.annotations, &before.annotations)
                || is_outside && now.annotations != before.annotations,
        ),
        // Pools of addresses, meshes and exports choose Services by them.
        (
            "labels",
            adds(&now.labels, &before.labels) || is_outside && now.labels != before.labels,
        ),
        (
            "loadBalancerClass",
            now.load_balancer_class.is_some()
                && now.load_balancer_class != before.load_balancer_class,
        ),
        (
            "loadBalancerSourceRanges",
            is_outside && now.load_balancer_source_ranges != before.load_balancer_source_ranges,
        ),
        (
            "externalTrafficPolicy",
            now.external_traffic_policy.is_some()
                && now.external_traffic_policy != before.external_traffic_policy,
        ),
    ];
    for (field, _) in changed.into_iter().filter(|(_, changed)| *changed) {
        needs.push(Need::new(&path.child(field), [Right::CREATE_SERVICES]));
    }
}

/// They stand on the pods and on the Service: a label may put the pods behind a Service of somebody else, an annotation may
/// ask a node, a mesh or a cloud for anything.
fn common_metadata(new: &MCPServerSpec, old: &MCPServerSpec, needs: &mut Vec<Need>) {
    let none = CommonMetadata::default();
    let (now, before) = (
        new.common_metadata.as_ref().unwrap_or(&none),
        old.common_metadata.as_ref().unwrap_or(&none),
    );
    let path = SPEC.child("commonMetadata");
    let outside = defaults::service_type(new) != "ClusterIP";
    for (field, now, before) in [
        ("labels", &now.labels, &before.labels),
        ("annotations", &now.annotations, &before.annotations),
    ] {
        if adds(now, before) {
            needs.push(Need::new(&path.child(field), [Right::CREATE_PODS]));
        }
        // Where there was no Service, there was nothing on it.
        let nothing = BTreeMap::new();
        let on_service = if old.transport.is_network() {
            before
        } else {
            &nothing
        };
        let changes = adds(now, on_service) || outside && now != on_service;
        if new.transport.is_network() && changes {
            needs.push(Need::new(&path.child(field), [Right::CREATE_SERVICES]));
        }
    }
}

#[cfg(test)]
mod tests;
