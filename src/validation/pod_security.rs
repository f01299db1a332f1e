//! What Pod Security will refuse in the pods of a server, in the standard's own words. The API server takes the Deployment
//! all the same, and refuses each pod later.
//!
//! Source: k8s.io/pod-security-admission `policy`, as of Kubernetes 1.36; a test holds the texts against the API server's.
//! An older version that a namespace names in `enforce-version` may ask for less.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, LifecycleHandler, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    SELinuxOptions, SecurityContext, Volume,
};
use serde_json::Value;

/// The label of a namespace that names the level which its pods must keep to.
pub const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// A level of the Pod Security Standards that refuses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Refuses known ways to more privileges.
    Baseline,
    /// Asks for what makes a pod hard to break out of.
    Restricted,
}

impl Level {
    /// The level of this name; none for `privileged`, which refuses nothing.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A reason, and what it is about.
type Violation = (String, String);
type Check = fn(&Pod<'_>) -> Option<Violation>;

/// From which level on a check is made, to which one, and the check: a stricter one takes the place of some.
const CHECKS: [(Level, Level, Check); 19] = [
    (Level::Baseline, Level::Restricted, app_armor),
    (Level::Baseline, Level::Baseline, added_capabilities),
    (Level::Baseline, Level::Restricted, host_namespaces),
    (Level::Baseline, Level::Baseline, host_path_volumes),
    (Level::Baseline, Level::Restricted, host_ports),
    (Level::Baseline, Level::Restricted, hosts_of_probes),
    (Level::Baseline, Level::Restricted, privileged),
    (Level::Baseline, Level::Baseline, proc_mount_of_host_users),
    (Level::Baseline, Level::Restricted, se_linux_options),
    (Level::Baseline, Level::Baseline, seccomp_profile),
    (Level::Baseline, Level::Restricted, sysctls),
    (Level::Baseline, Level::Restricted, windows_host_process),
    (Level::Restricted, Level::Restricted, privilege_escalation),
    (Level::Restricted, Level::Restricted, capabilities),
    (Level::Restricted, Level::Restricted, proc_mount),
    (Level::Restricted, Level::Restricted, volumes),
    (Level::Restricted, Level::Restricted, run_as_non_root),
    (Level::Restricted, Level::Restricted, run_as_user),
    (Level::Restricted, Level::Restricted, seccomp_profile_set),
];

/// What a namespace of this level will refuse in pods of this template, as the API server says it; nothing when it takes
/// them.
pub fn violations(level: Level, template: &PodTemplateSpec) -> Option<String> {
    let pod = Pod::of(template)?;
    let of_level = CHECKS
        .iter()
        .filter(|(from, to, _)| *from <= level && level <= *to);
    let found: Vec<_> = of_level
        .filter_map(|(_, _, check)| check(&pod))
        .map(|(reason, detail)| format!("{reason} ({detail})"))
        .collect();
    let level = level.as_str();
    (!found.is_empty()).then(|| {
        format!(
            "would violate PodSecurity \"{level}:latest\": {}",
            found.join(", ")
        )
    })
}

struct Pod<'a> {
    template: &'a PodTemplateSpec,
    spec: &'a PodSpec,
    context: PodSecurityContext,
    /// Init containers first.
    containers: Vec<(&'a Container, SecurityContext)>,
}

impl<'a> Pod<'a> {
    fn of(template: &'a PodTemplateSpec) -> Option<Self> {
        let spec = template.spec.as_ref()?;
        let init = spec.init_containers.iter().flatten();
        let containers = init.chain(&spec.containers);
        Some(Self {
            template,
            spec,
            context: spec.security_context.clone().unwrap_or_default(),
            containers: containers
                .map(|container| {
                    (
                        container,
                        container.security_context.clone().unwrap_or_default(),
                    )
                })
                .collect(),
        })
    }

    /// Names of the containers for which this holds.
    fn which(&self, mut is: impl FnMut(&Container, &SecurityContext) -> bool) -> Vec<&'a str> {
        let of = self.containers.iter();
        of.filter(|(container, context)| is(container, context))
            .map(|(container, _)| container.name.as_str())
            .collect()
    }

    fn has_own_users(&self) -> bool {
        self.spec.host_users == Some(false)
    }
}

fn violation(reason: &str, detail: String) -> Violation {
    (reason.to_owned(), detail)
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items
        .into_iter()
        .map(|item| format!("\"{}\"", item.as_ref()))
        .collect();
    items.join(", ")
}

fn plural(one: &str, count: usize) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{one}{s}")
}

fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// `pod and containers "a", "b"`; nothing when neither.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let named = (!names.is_empty()).then(|| containers(names));
    let all: Vec<_> = pod
        .then(|| "pod".to_owned())
        .into_iter()
        .chain(named)
        .collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let metadata = pod.template.metadata.as_ref();
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    let of_pod = pod.context.app_armor_profile.as_ref();
    let (bad_pod, names, values) = unconfined(
        pod,
        of_pod.map(|profile| profile.type_.as_str()),
        |container, context| {
            let profile = context.app_armor_profile.as_ref();
            let annotation =
                annotations.and_then(|all| all.get(&format!("{PREFIX}{}", container.name)));
            // The API server takes the old annotation for the field where that is not set.
            let old = annotation.filter(|value| *value == "unconfined");
            profile
                .map(|profile| profile.type_.clone())
                .or(old.map(|_| "Unconfined".to_owned()))
        },
    );
    let annotations: Vec<_> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            let is_good =
                value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(PREFIX) && !is_good
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let named = (!annotations.is_empty()).then(|| plural("annotation", annotations.len()));
    let all: Vec<_> = setters(bad_pod, &names).into_iter().chain(named).collect();
    let values: Vec<_> = values.into_iter().chain(annotations).collect();
    (!all.is_empty()).then(|| {
        violation(
            &plural("forbidden AppArmor profile", values.len()),
            format!(
                "{} must not set AppArmor profile type to {}",
                all.join(" and "),
                quoted(&values)
            ),
        )
    })
}

fn added(context: &SecurityContext) -> impl Iterator<Item = &String> {
    let capabilities = context.capabilities.iter();
    capabilities.flat_map(|capabilities| capabilities.add.iter().flatten())
}

/// The containers that add capabilities beyond these, and which.
fn adding<'a>(pod: &Pod<'a>, allowed: &[&str]) -> Option<String> {
    let mut forbidden = BTreeSet::new();
    let names: Vec<&'a str> = pod.which(|_, context| {
        let mut bad = added(context)
            .filter(|name| !allowed.contains(&name.as_str()))
            .peekable();
        let is_bad = bad.peek().is_some();
        forbidden.extend(bad.cloned());
        is_bad
    });
    (!names.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(&forbidden)
        )
    })
}

fn added_capabilities(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    adding(pod, &ALLOWED).map(|detail| violation("non-default capabilities", detail))
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let keeps = pod.which(|_, context| {
        let capabilities = context.capabilities.iter();
        let mut dropped = capabilities.flat_map(|capabilities| capabilities.drop.iter().flatten());
        !dropped.any(|name| name == "ALL")
    });
    let keeps = (!keeps.is_empty()).then(|| {
        format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers(&keeps)
        )
    });
    let details: Vec<_> = keeps
        .into_iter()
        .chain(adding(pod, &["NET_BIND_SERVICE"]))
        .collect();
    (!details.is_empty()).then(|| violation("unrestricted capabilities", details.join("; ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let spec = pod.spec;
    let all = [
        ("hostNetwork=true", spec.host_network),
        ("hostPID=true", spec.host_pid),
        ("hostIPC=true", spec.host_ipc),
    ];
    let set: Vec<_> = all
        .into_iter()
        .filter(|(_, set)| *set == Some(true))
        .map(|(name, _)| name)
        .collect();
    (!set.is_empty()).then(|| violation("host namespaces", set.join(", ")))
}

fn volumes_of(pod: &Pod<'_>) -> Vec<(String, String)> {
    let source = |volume: &Volume| {
        let Ok(Value::Object(fields)) = serde_json::to_value(volume) else {
            return "unknown".to_owned();
        };
        let mut sources = fields
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| key != "name");
        match sources.next() {
            Some(source) => source,
            // The API server makes one of these where none is named.
            None => "emptyDir".to_owned(),
        }
    };
    let volumes = pod.spec.volumes.iter().flatten();
    volumes
        .map(|volume| (volume.name.clone(), source(volume)))
        .collect()
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = volumes_of(pod);
    let bad: Vec<_> = volumes
        .iter()
        .filter(|(_, source)| source == "hostPath")
        .map(|(name, _)| name)
        .collect();
    let detail = || format!("{} {}", plural("volume", bad.len()), quoted(&bad));
    (!bad.is_empty()).then(|| violation("hostPath volumes", detail()))
}

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut volumes = volumes_of(pod);
    volumes.retain(|(_, source)| !ALLOWED.contains(&source.as_str()));
    let sources: BTreeSet<_> = volumes.iter().map(|(_, source)| source).collect();
    (!volumes.is_empty()).then(|| {
        let (count, kinds) = (volumes.len(), sources.len());
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", count),
            quoted(volumes.iter().map(|(name, _)| name)),
            uses(count),
            plural("restricted volume type", kinds),
            quoted(sources)
        );
        violation("restricted volume types", detail)
    })
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    // In the node's network each port is the node's: the API server fills that in.
    let is_nodes = pod.spec.host_network == Some(true);
    let mut ports = BTreeSet::new();
    let names = pod.which(|container, _| {
        let set = container.ports.iter().flatten().filter_map(|port| {
            let given = port.host_port.filter(|port| *port != 0);
            given.or(is_nodes.then_some(port.container_port))
        });
        let mut set = set.map(|port| port.to_string()).peekable();
        let is_bad = set.peek().is_some();
        ports.extend(set);
        is_bad
    });
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            uses(names.len()),
            plural("hostPort", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        );
        violation("hostPort", detail)
    })
}

fn hosts_of_probes(pod: &Pod<'_>) -> Option<Violation> {
    let of_probe = |probe: &Probe| {
        let get = probe.http_get.as_ref().and_then(|get| get.host.clone());
        let tcp = probe.tcp_socket.as_ref().and_then(|tcp| tcp.host.clone());
        [get, tcp]
    };
    let of_handler = |handler: &LifecycleHandler| {
        let get = handler.http_get.as_ref().and_then(|get| get.host.clone());
        let tcp = handler.tcp_socket.as_ref().and_then(|tcp| tcp.host.clone());
        [get, tcp]
    };
    let mut hosts = BTreeSet::new();
    let names: BTreeSet<_> = pod
        .which(|container, _| {
            let probes = [
                &container.liveness_probe,
                &container.readiness_probe,
                &container.startup_probe,
            ];
            let lifecycle = container.lifecycle.as_ref();
            let handlers = [
                lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()),
                lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()),
            ];
            let of_probes = probes.into_iter().flatten().flat_map(of_probe);
            let of_handlers = handlers.into_iter().flatten().flat_map(of_handler);
            let found: Vec<_> = of_probes
                .chain(of_handlers)
                .flatten()
                .filter(|host| !host.is_empty())
                .collect();
            let is_bad = !found.is_empty();
            hosts.extend(found);
            is_bad
        })
        .into_iter()
        .collect();
    let names: Vec<_> = names.into_iter().collect();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            uses(names.len()),
            plural("probe or lifecycle host", hosts.len()),
            quoted(&hosts)
        );
        violation("probe or lifecycle host", detail)
    })
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.which(|_, context| context.privileged == Some(true));
    let detail = || {
        format!(
            "{} must not set securityContext.privileged=true",
            containers(&names)
        )
    };
    (!names.is_empty()).then(|| violation("privileged", detail()))
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut mounts = BTreeSet::new();
    let names = pod.which(|_, context| {
        let mount = context.proc_mount.as_deref();
        mount
            .filter(|mount| *mount != "Default")
            .is_some_and(|mount| {
                mounts.insert(mount.to_owned());
                true
            })
    });
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} must not set securityContext.procMount to {}",
            containers(&names),
            quoted(&mounts)
        );
        violation("procMount", detail)
    })
}

fn proc_mount_of_host_users(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    proc_mount(pod)
}

fn se_linux_options(pod: &Pod<'_>) -> Option<Violation> {
    const TYPES: [&str; 5] = [
        "",
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
    ];
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else {
            return false;
        };
        let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let type_ = options.type_.as_deref().unwrap_or_default();
        let bad_type = !TYPES.contains(&type_);
        if bad_type {
            types.insert(type_.to_owned());
        }
        user |= is_set(&options.user);
        role |= is_set(&options.role);
        bad_type || is_set(&options.user) || is_set(&options.role)
    };
    let bad_pod = is_bad(pod.context.se_linux_options.as_ref());
    let names = pod.which(|_, context| is_bad(context.se_linux_options.as_ref()));
    let setters = setters(bad_pod, &names)?;
    let types =
        (!types.is_empty()).then(|| format!("{} {}", plural("type", types.len()), quoted(&types)));
    let user = user.then(|| "user may not be set".to_owned());
    let role = role.then(|| "role may not be set".to_owned());
    let data: Vec<_> = [types, user, role].into_iter().flatten().collect();
    let detail = format!(
        "{setters} set forbidden securityContext.seLinuxOptions: {}",
        data.join("; ")
    );
    Some(violation("seLinuxOptions", detail))
}

fn is_confined(type_: &str) -> bool {
    matches!(type_, "RuntimeDefault" | "Localhost")
}

/// Whether the pod has a profile that confines nothing, which containers have, and the types of all these.
fn unconfined<'a>(
    pod: &Pod<'a>,
    of_pod: Option<&str>,
    of_container: impl Fn(&Container, &SecurityContext) -> Option<String>,
) -> (bool, Vec<&'a str>, BTreeSet<String>) {
    let mut types = BTreeSet::new();
    let mut is_bad = |type_: Option<String>| {
        let bad = type_.filter(|type_| !is_confined(type_));
        bad.is_some_and(|type_| {
            types.insert(type_);
            true
        })
    };
    let bad_pod = is_bad(of_pod.map(str::to_owned));
    let names = pod.which(|container, context| is_bad(of_container(container, context)));
    (bad_pod, names, types)
}

fn seccomp_profile(pod: &Pod<'_>) -> Option<Violation> {
    let of_pod = pod.context.seccomp_profile.as_ref();
    let (bad_pod, names, values) = unconfined(
        pod,
        of_pod.map(|profile| profile.type_.as_str()),
        |_, context| {
            context
                .seccomp_profile
                .as_ref()
                .map(|profile| profile.type_.clone())
        },
    );
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        setters(bad_pod, &names)?,
        quoted(&values)
    );
    Some(violation("seccompProfile", detail))
}

fn seccomp_profile_set(pod: &Pod<'_>) -> Option<Violation> {
    let of_pod = pod.context.seccomp_profile.is_some();
    seccomp_profile(pod).or_else(|| {
        let names = pod.which(|_, context| context.seccomp_profile.is_none() && !of_pod);
        let detail = || {
            format!(
                "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
                containers(&names)
            )
        };
        (!names.is_empty()).then(|| violation("seccompProfile", detail()))
    })
}

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 12] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    ];
    let set = pod.context.sysctls.iter().flatten();
    let names = set.map(|sysctl| sysctl.name.as_str());
    let bad: Vec<_> = names.filter(|name| !ALLOWED.contains(name)).collect();
    (!bad.is_empty()).then(|| violation("forbidden sysctls", bad.join(", ")))
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let of_pod = pod.context.windows_options.as_ref();
    let bad_pod = of_pod.is_some_and(|options| options.host_process == Some(true));
    let names = pod.which(|_, context| {
        let options = context.windows_options.as_ref();
        options.is_some_and(|options| options.host_process == Some(true))
    });
    let setters = setters(bad_pod, &names)?;
    let detail = format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
    Some(violation("hostProcess", detail))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.which(|_, context| context.allow_privilege_escalation != Some(false));
    let detail = || {
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            containers(&names)
        )
    };
    (!names.is_empty()).then(|| violation("allowPrivilegeEscalation != false", detail()))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_own_users() {
        return None;
    }
    let of_pod = pod.context.run_as_non_root;
    let bad = pod.which(|_, context| context.run_as_non_root == Some(false));
    if let Some(setters) = setters(of_pod == Some(false), &bad) {
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return Some(violation(REASON, detail));
    }
    let missing = pod.which(|_, context| context.run_as_non_root.is_none() && of_pod.is_none());
    let detail = || {
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            containers(&missing)
        )
    };
    (!missing.is_empty()).then(|| violation(REASON, detail()))
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let bad = pod.which(|_, context| context.run_as_user == Some(0));
    let setters = setters(pod.context.run_as_user == Some(0), &bad)?;
    Some(violation(
        "runAsUser=0",
        format!("{setters} must not set runAsUser=0"),
    ))
}
