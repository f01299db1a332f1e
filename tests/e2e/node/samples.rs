//! README's quick start on a real node, word by word; then every sample of `config/samples`: it becomes Ready, and answers
//! a client.

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, mcp_test, operator_image, server_everything, tools};
use kube::{Api, ResourceExt};
use mcp_operator::api::{MCPServer, Transport};
use serde_json::{Value, json};

use super::{left_out, shell, with_a_node};
use crate::setup::kubectl;

const NAMESPACE: &str = "default";
/// Kinds that the samples in `exposed` have beside an MCPServer.
const KINDS: [&str; 3] = [
    "gateway-api/gateway.networking.k8s.io_httproutes.yaml",
    "envoy-gateway/gateway.envoyproxy.io_securitypolicies.yaml",
    "traefik/traefik.io_middlewares.yaml",
];

/// A file of samples, with the one server in it.
struct Sample {
    path: String,
    name: String,
    /// A tool that it has, with arguments.
    tool: (&'static str, Value),
}

fn samples() -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for kind in ["valid", "exposed"] {
        let folder = format!("config/samples/{kind}");
        for entry in std::fs::read_dir(root().join(&folder))? {
            let path = format!("{folder}/{}", entry?.file_name().display());
            let text = std::fs::read_to_string(root().join(&path))?;
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&text).with_context(|| path.clone())?;
            let servers = documents
                .iter()
                .filter(|document| document["kind"] == "MCPServer");
            let names: Vec<_> = servers
                .map(|server| server["metadata"]["name"].as_str())
                .collect();
            let [Some(name)] = names[..] else {
                anyhow::bail!("{path} should have one server: {names:?}");
            };
            let tool = match name {
                "http" => ("time", json!({})),
                _ => ("echo", json!({"message": "hello"})),
            };
            let name = name.to_owned();
            samples.push(Sample { path, name, tool });
        }
    }
    ensure!(samples.len() > 12, "{} samples", samples.len());
    samples.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(samples)
}

fn root() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs kubectl, which has to succeed; what it printed.
fn done(cluster: &Cluster, arguments: &[&str], input: &str) -> Result<String> {
    let output = tokio::task::block_in_place(|| kubectl(cluster, arguments, input))?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What a cluster of somebody's own has and this one lacks: a volume for the claim, the kinds of gateways.
async fn prepare(cluster: &Cluster) -> Result<()> {
    let folder = cluster.folder().join("notes");
    std::fs::create_dir(&folder)?;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "notes"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "claimRef": {"name": "notes", "namespace": NAMESPACE},
        "local": {"path": folder},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
        ]}]}},
    }});
    done(cluster, &["create", "-f", "-"], &volume.to_string())?;
    let kinds = tools::build(&tools::KINDS).await?;
    for kind in KINDS {
        let file = kinds.join(kind).display().to_string();
        done(cluster, &["create", "-f", &file], "")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sample_becomes_ready_and_answers_a_client() -> Result<()> {
    if left_out("every_sample_becomes_ready_and_answers_a_client") {
        return Ok(());
    }
    let cluster = with_a_node().await?;
    let everything = server_everything::image().await?;
    let test = mcp_test::image(cluster.folder()).await?;
    for image in [&everything, &test.tarball] {
        cluster.load_image(image).await?;
    }
    quick_start(&cluster).await?;
    prepare(&cluster).await?;
    let client = "tests/cluster/samples/client.yaml";
    done(&cluster, &["apply", "-f", client], "")?;
    let ready = "--for=condition=Ready";
    done(&cluster, &["wait", "pod/client", ready, "--timeout=2m"], "")?;

    let samples = samples()?;
    for sample in &samples {
        let start = std::time::Instant::now();
        try_out(&cluster, sample, &test.client)
            .await
            .with_context(|| sample.path.clone())?;
        println!("{}: {:.1?}", sample.path, start.elapsed());
        // Its pods may take their time: others start meanwhile.
        let delete = ["delete", "-f", &sample.path, "--wait=false"];
        done(&cluster, &delete, "")?;
    }
    println!("{} of {0} samples are Ready and answer", samples.len());
    cluster.stop().await
}

/// What README says to do on kind. The image is built and loaded in another way here; it has the name that it has there.
async fn quick_start(cluster: &Cluster) -> Result<()> {
    const README: &str = include_str!("../../../README.md");
    let start = std::time::Instant::now();
    let kind = README.split_once("On [kind]").context("no kind")?.1;
    let install = kind
        .split_once("    helm install")
        .context("no helm install")?
        .1;
    let (install, _) = install.split_once("\n\n").context("it does not end")?;
    let (_, built) = kind
        .split_once("docker build --tag ")
        .context("no docker build")?;
    let (name, _) = built.split_once(' ').context("no name")?;
    let name = format!("docker.io/library/{name}");
    cluster.tag_image(operator_image::NAME, &name).await?;
    shell(cluster, &format!("helm install{install}")).await?;
    let image = [
        "get",
        "deployment/mcp-operator",
        "-n",
        "mcp-operator-system",
    ];
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = done(cluster, &[&image[..], &["-o", path]].concat(), "")?;
    ensure!(name.ends_with(&format!("/{image}")), "{image}");

    let (_, first) = README.split_once("```sh\n").context("no first server")?;
    let (first, _) = first.split_once("```").context("it does not end")?;
    let (_, after) = README
        .split_once("```sh\n")
        .context("no first server")?
        .1
        .split_once("```\n\n    ")
        .context("no answer")?;
    let (answer, _) = after.split_once('\n').context("it does not end")?;
    let told = shell(cluster, first).await?;
    ensure!(told.trim_end().ends_with(answer), "{told}");
    println!(
        "from a loaded image to a tool call: {:.1?}",
        start.elapsed()
    );
    done(cluster, &["delete", "mcps", "basic"], "").map(drop)
}

async fn try_out(cluster: &Cluster, sample: &Sample, client: &std::path::Path) -> Result<()> {
    let name = &*sample.name;
    done(cluster, &["apply", "-f", &sample.path], "")?;
    let wait = [
        "wait",
        "mcps",
        name,
        "--for=condition=Ready",
        "--timeout=3m",
    ];
    if let Err(error) = done(cluster, &wait, "") {
        let told = done(cluster, &["get", "mcps,pods", "-o", "yaml"], "")?;
        return Err(error.context(told));
    }
    let servers = Api::<MCPServer>::namespaced(cluster.new_client().await?, NAMESPACE);
    let server = servers.get(name).await?;
    let status = server.status.as_ref().context("no status")?;
    let (tool, arguments) = &sample.tool;
    let arguments = arguments.to_string();
    let target = match &status.address {
        Some(address) => address.url.clone(),
        None => format!("stdio:kubectl attach -i -q deployment/{name}"),
    };
    ensure!(
        target.starts_with("http") == (server.spec.transport != Transport::Stdio),
        "{target}"
    );
    let call = ["call", &target, tool, "--arguments", &arguments];
    let told = if target.starts_with("http") {
        let mut all = vec!["exec", "client", "--", "/mcp-client"];
        all.extend(call);
        done(cluster, &all, "")?
    } else {
        let mut command = std::process::Command::new(client);
        command.args(call);
        for (variable, value) in cluster.kubectl_command().get_envs() {
            command.envs(value.map(|value| (variable, value)));
        }
        let kubectl = cluster.kubectl().parent().context("kubectl's folder")?;
        let path = std::env::var("PATH")?;
        command.env("PATH", format!("{}:{path}", kubectl.display()));
        let output = tokio::task::block_in_place(|| command.output())?;
        ensure!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout)?
    };
    let told: Value = serde_json::from_str(&told)?;
    let text = told["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(
        text.contains(if *tool == "echo" { "hello" } else { "T" })
            && told["isError"] != json!(true),
        "{tool} said {told}"
    );
    look_inside(cluster, &server)
}

/// What a sample promises beside a server that answers.
fn look_inside(cluster: &Cluster, server: &MCPServer) -> Result<()> {
    let name = server.name_any();
    let run = |script: &str| {
        let deployment = format!("deployment/{name}");
        let exec = ["exec", &*deployment, "-c", "mcp-server", "--"];
        let mut all = exec.to_vec();
        all.extend(["node", "-p", script]);
        done(cluster, &all, "")
    };
    match &*name {
        "secret" => {
            let told = run("[process.env.SEARCH_TOKEN, process.env.SEARCH_REGION].join()")?;
            ensure!(told.trim() == "change-me,eu", "{told}");
        }
        "volume" => {
            let told = run("fs.writeFileSync('/data/note', 'kept'); fs.statSync('/data').gid")?;
            ensure!(told.trim() == "1000", "{told}");
            let kept = std::fs::read_to_string(cluster.folder().join("notes/note"))?;
            ensure!(kept == "kept", "{kept}");
        }
        _ => {}
    }
    Ok(())
}
