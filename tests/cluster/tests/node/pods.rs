//! What pods do on a real node. One cluster for all, and a namespace for each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, eventually, node, server_everything, shared_with};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::{LIMIT, apply, http, kubectl, left_out, options, pod, ready, restricted};

/// The shared cluster with a namespace of the strictest rules and the image.
async fn cluster(namespace: &str) -> &'static Cluster {
    let cluster = shared_with(options).unwrap();
    let image = server_everything::image().await.unwrap();
    cluster.load_image(&image).await.unwrap();
    apply(cluster, namespace, &[restricted(namespace)]);
    cluster
}

/// The first message of an MCP client.
fn initialize() -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }})
    .to_string()
}

/// Has a pod run JavaScript: what it printed.
fn javascript(cluster: &Cluster, namespace: &str, pod: &str, script: &str) -> String {
    let node = ["--", "/usr/bin/node", "--input-type=module", "-e", script];
    let mut arguments = vec!["exec", "--namespace", namespace, pod];
    arguments.extend(node);
    kubectl(cluster, &arguments)
}

/// An HTTP request by hand, so that it is sent from the thread's own network.
fn post(address: SocketAddr, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn a_third_party_server_answers_through_its_service() {
    if left_out("a_third_party_server_answers_through_its_service") {
        return;
    }
    let cluster = cluster("servers").await;
    let template = pod("everything", http());
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "everything"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "everything"}},
            "template": {"metadata": template["metadata"].clone(), "spec": template["spec"].clone()},
        },
    });
    let mut deployment = deployment;
    deployment["spec"]["template"]["metadata"]["name"].take();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "everything"},
        "spec": {"selector": {"app": "everything"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    apply(cluster, "servers", &[deployment, service]);
    ready(cluster, "servers", "everything", 2).await;

    // From a pod, by name; its own pod may be the one that answers.
    let script = format!(
        r#"try {{
            const answer = await fetch("http://everything.servers.svc.cluster.local/mcp", {{
                method: "POST",
                headers: {{"content-type": "application/json", accept: "application/json, text/event-stream"}},
                body: JSON.stringify({}),
            }});
            console.log(answer.status, await answer.text());
        }} catch (error) {{
            console.log("no answer:", error.cause ?? error);
        }}
        process.exit(0);"#,
        initialize()
    );
    // Ready pods come first, the node's rules and its DNS a moment later.
    eventually("the Service answers", LIMIT, || async {
        let answer = javascript(cluster, "servers", "deployment/everything", &script);
        ensure!(answer.starts_with("200 "), "{answer}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    for _ in 0..6 {
        let answer = javascript(cluster, "servers", "deployment/everything", &script);
        assert!(answer.starts_with("200 "), "{answer}");
        assert!(answer.contains("serverInfo"), "{answer}");
    }

    // From the node, by the Service's address.
    let address = [
        "get",
        "service",
        "everything",
        "-n",
        "servers",
        "-o=jsonpath={.spec.clusterIP}",
    ];
    let address: SocketAddr = format!("{}:80", kubectl(cluster, &address))
        .parse()
        .unwrap();
    let answer = cluster
        .in_node_network(|| post(address, "/mcp", &initialize()))
        .unwrap();
    assert!(answer.contains("serverInfo"), "{answer}");

    let log = kubectl(
        cluster,
        &["logs", "--namespace", "servers", "deployment/everything"],
    );
    assert!(log.contains("listening on port 8080"), "{log}");
}

#[tokio::test]
async fn a_server_speaks_stdio_through_attach() {
    if left_out("a_server_speaks_stdio_through_attach") {
        return;
    }
    let cluster = cluster("stdio").await;
    apply(cluster, "stdio", &[pod("server", json!({"stdin": true}))]);
    ready(cluster, "stdio", "server", 1).await;
    let mut child = cluster
        .kubectl_command()
        .args([
            "attach",
            "--namespace",
            "stdio",
            "--stdin",
            "--quiet",
            "server",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", initialize()).unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, answers) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if line.contains("serverInfo") {
                sender.send(line).unwrap();
                break;
            }
        }
    });
    let answer = answers.recv_timeout(LIMIT);
    child.kill().unwrap();
    child.wait().unwrap();
    let answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    assert_eq!(answer["id"], 1);
}

#[tokio::test]
async fn a_pod_reaches_the_api_server_and_nothing_beyond() {
    if left_out("a_pod_reaches_the_api_server_and_nothing_beyond") {
        return;
    }
    let cluster = cluster("reach").await;
    apply(cluster, "reach", &[pod("client", http())]);
    ready(cluster, "reach", "client", 1).await;
    // As client libraries do in a cluster, with what is mounted.
    let script = r#"
        import fs from "node:fs"; import https from "node:https";
        const folder = "/var/run/secrets/kubernetes.io/serviceaccount/";
        const request = https.request("https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews", {
            method: "POST", ca: fs.readFileSync(folder + "ca.crt"),
            headers: {"content-type": "application/json", authorization: "Bearer " + fs.readFileSync(folder + "token")},
        }, answer => answer.on("data", data => console.log(data.toString())));
        request.end('{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}');"#;
    let answer = javascript(cluster, "reach", "client", script);
    assert!(
        answer.contains("system:serviceaccount:reach:default"),
        "{answer}"
    );

    // Another machine; this machine, where the API server's own port would be open; a name.
    let host = cluster.host_address().unwrap();
    let listener = std::net::TcpListener::bind((host, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for (address, port) in [("192.0.2.1".to_owned(), 80), (host.to_string(), port)] {
        let script = format!(
            r#"import net from "node:net";
            const socket = net.connect({{host: "{address}", port: {port}}});
            socket.on("connect", () => {{ console.log("connected"); process.exit(0); }});
            socket.on("error", error => {{ console.log(error.code); process.exit(0); }});"#
        );
        let told = javascript(cluster, "reach", "client", &script);
        assert!(
            ["ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED"].contains(&told.trim()),
            "{address}: {told}"
        );
    }
    // The node itself does reach this machine, as the API server may call a webhook here.
    let reached = cluster.in_node_network(|| Ok(TcpStream::connect((host, port))?));
    reached.unwrap();
    let script = r#"import dns from "node:dns";
        dns.lookup("example.com", error => console.log(error?.code));"#;
    let told = javascript(cluster, "reach", "client", script);
    assert_eq!(told.trim(), "ENOTFOUND");
}

#[tokio::test]
async fn mounts_are_kept_up_to_date_and_probes_are_made() {
    if left_out("mounts_are_kept_up_to_date_and_probes_are_made") {
        return;
    }
    let cluster = cluster("mounts").await;
    let map = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
            "data": {"value": value}})
    };
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"},
        "stringData": {"value": "secret"}});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "reader"},
        "spec": {"selector": {"app": "reader"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let mut reader = pod(
        "reader",
        json!({
            "command": ["/usr/bin/node", "-e", r#"
                const fs = require("fs");
                require("http").createServer((request, answer) => {
                    answer.statusCode = request.url === "/missing" ? 404 : 200;
                    answer.end(fs.readFileSync("/settings/value", "utf8") + " " + fs.readFileSync("/password/value", "utf8"));
                }).listen(8080);"#],
            "startupProbe": {"exec": {"command": ["/usr/bin/node", "-e", "require('fs').statSync('/settings/value')"]}, "periodSeconds": 1, "timeoutSeconds": 30},
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
            "volumeMounts": [
                {"name": "settings", "mountPath": "/settings"},
                {"name": "password", "mountPath": "/password"},
            ],
        }),
    );
    reader["spec"]["volumes"] = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "password", "secret": {"secretName": "password"}},
    ]);
    // The same with a probe that fails.
    let mut missing = reader.clone();
    missing["metadata"] = json!({"name": "missing", "labels": {"app": "missing"}});
    missing["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] = json!("/missing");
    apply(
        cluster,
        "mounts",
        &[map("one"), secret, service, reader, missing],
    );
    ready(cluster, "mounts", "reader", 1).await;

    let script = r#"console.log(await (await fetch("http://127.0.0.1:8080/")).text())"#;
    assert_eq!(
        javascript(cluster, "mounts", "reader", script),
        "one secret\n"
    );
    apply(cluster, "mounts", &[map("two")]);
    eventually("the changed file", Duration::from_secs(30), || async {
        let text = javascript(cluster, "mounts", "reader", script);
        ensure!(text == "two secret\n", "{text}");
        Ok(Some(()))
    })
    .await
    .unwrap();

    // From the API server, which finds the Service's pods by itself.
    let proxy = "/api/v1/namespaces/mounts/services/reader:80/proxy/";
    assert_eq!(kubectl(cluster, &["get", "--raw", proxy]), "two secret");

    eventually("a probe that failed", LIMIT, || async {
        let events = kubectl(cluster, &["events", "-n", "mounts", "--for=pod/missing"]);
        ensure!(
            events.contains("Readiness probe failed: HTTP probe failed with statuscode: 404"),
            "{events}"
        );
        Ok(Some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_api_server_calls_a_webhook_in_a_pod() {
    if left_out("the_api_server_calls_a_webhook_in_a_pod") {
        return;
    }
    let cluster = cluster("webhook").await;
    let names = vec!["refuse.webhook.svc".to_owned()];
    let identity = rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = ByteString(identity.cert.pem().into_bytes());
    let key = ByteString(identity.signing_key.serialize_pem().into_bytes());
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "refuse"},
        "data": {"tls.crt": certificate, "tls.key": key}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "refuse"},
        "spec": {"selector": {"app": "refuse"}, "ports": [{"port": 443, "targetPort": 8443}]}});
    let mut server = pod(
        "refuse",
        json!({
            "command": ["/usr/bin/node", "-e", r#"
                const fs = require("fs");
                const identity = {cert: fs.readFileSync("/tls/tls.crt"), key: fs.readFileSync("/tls/tls.key")};
                require("https").createServer(identity, async (request, answer) => {
                    let body = "";
                    for await (const part of request) body += part;
                    const {apiVersion, kind, request: {uid}} = JSON.parse(body);
                    answer.end(JSON.stringify({apiVersion, kind, response: {uid, allowed: false, status: {message: "refused in a pod"}}}));
                }).listen(8443);"#],
            "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
            "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
        }),
    );
    server["spec"]["volumes"] = json!([{"name": "tls", "secret": {"secretName": "refuse"}}]);
    apply(cluster, "webhook", &[secret, service, server]);
    ready(cluster, "webhook", "refuse", 1).await;
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "refuse"},
        "webhooks": [{
            "name": "refuse.example.com",
            "clientConfig": {
                "service": {"namespace": "webhook", "name": "refuse"},
                "caBundle": certificate,
            },
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "webhook"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["services"],
                "operations": ["DELETE"]}],
            "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        }],
    });
    apply(cluster, "webhook", &[webhook]);
    // With the policy Ignore, so that only the webhook itself can refuse.
    eventually("a refusal", LIMIT, || async {
        let output = cluster
            .kubectl_command()
            .args([
                "delete",
                "service",
                "refuse",
                "--namespace=webhook",
                "--dry-run=server",
            ])
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            told.contains("denied the request: refused in a pod"),
            "{told}"
        );
        Ok(Some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_program_in_the_node_reaches_pods() {
    if left_out("a_program_in_the_node_reaches_pods") {
        return;
    }
    let cluster = cluster("program").await;
    assert_eq!(
        kubectl(cluster, &["get", "nodes", "-o=name"]),
        format!("node/{}\n", node::NODE)
    );
    let mut command = std::process::Command::new("ip");
    command.args(["-brief", "-4", "address", "show"]);
    let program = cluster.start_process_in_node("addresses", command).unwrap();
    eventually("the end of ip", LIMIT, || async { Ok(program.success()) })
        .await
        .unwrap();
    let told = std::fs::read_to_string(program.log())
        .context("its log")
        .unwrap();
    assert!(
        told.contains(&cluster.node_address().unwrap().to_string()),
        "{told}"
    );
    assert!(
        !told.contains(&cluster.host_address().unwrap().to_string()),
        "{told}"
    );
}
