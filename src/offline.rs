//! `mcp-operator validate`: the rules without a cluster.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kube::Resource;
use serde_json::Value;

use crate::api::{FieldError, FieldPath, MCPServer, defaults, read};
use crate::validation::{self, budget};

/// Checks files, or standard input when there are none or for `-`.
///
/// Prints each fault as `file:document: field: message`, documents counted from 1, warnings with
/// `warning:` before the field. Exit code 0 without faults, 1 with some, 2 when something could not be
/// read.
pub fn run(files: &[PathBuf]) -> ExitCode {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin } else { files };
    let mut code = 0;
    for file in files {
        code = code.max(check_file(file));
    }
    ExitCode::from(code)
}

fn check_file(file: &Path) -> u8 {
    let shown = if file == Path::new("-") {
        "<stdin>".to_owned()
    } else {
        file.display().to_string()
    };
    match read(file) {
        Ok(text) => {
            let (lines, code) = check(&shown, &text);
            for line in lines {
                println!("{line}");
            }
            code
        }
        Err(error) => {
            eprintln!("{shown}: cannot be read: {error}");
            2
        }
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Checks one text of YAML documents: the lines to print and the exit code.
pub fn check(file: &str, text: &str) -> (Vec<String>, u8) {
    let documents: Vec<Value> = match serde_saphyr::from_multiple(text) {
        Ok(documents) => documents,
        Err(error) => return (vec![format!("{file}: not YAML: {error}")], 2),
    };
    let mut lines = Vec::new();
    let mut code = 0;
    let mut servers = 0;
    for (index, document) in documents.iter().enumerate() {
        if document["kind"] != *MCPServer::kind(&()) {
            continue;
        }
        servers += 1;
        let (faults, warnings) = check_document(document);
        let at = format!("{file}:{}", index + 1);
        lines.extend(
            warnings
                .iter()
                .map(|warning| format!("{at}: warning: {warning}")),
        );
        lines.extend(faults.iter().map(|fault| format!("{at}: {fault}")));
        if !faults.is_empty() {
            code = 1;
        }
    }
    if servers == 0 {
        return (
            vec![format!("{file}: holds no {}", MCPServer::kind(&()))],
            2,
        );
    }
    (lines, code)
}

/// The faults and the warnings of one document.
pub(crate) fn check_document(document: &Value) -> (Vec<FieldError>, Vec<String>) {
    let expected = MCPServer::api_version(&());
    let version = document["apiVersion"].as_str().unwrap_or_default();
    if version != expected {
        return (
            vec![FieldError::not_supported(
                FieldPath::OBJECT.child("apiVersion"),
                version,
                &[&expected],
            )],
            Vec::new(),
        );
    }
    if let Some(fault) = budget::of_spec(&document["spec"].to_string()) {
        return (vec![fault], Vec::new());
    }
    // The type has no field for these two; both have been checked already.
    let mut fields = document.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|key, _| key != "apiVersion" && key != "kind");
    }
    let (server, mut faults) = read::server(&fields, true);
    let Some(mut server) = server else {
        return (faults, Vec::new());
    };
    // As in the cluster: what the user left out is filled in before the rules are checked.
    defaults::default(&mut server, None);
    let rules = validation::faults(&server, None);
    if faults.is_empty() {
        return (rules, validation::warnings(&server));
    }
    validation::add_rules(&mut faults, rules);
    (faults, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(spec: &str) -> String {
        format!(
            "apiVersion: mcp.example.com/v1alpha1\nkind: MCPServer\nmetadata: {{name: a}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn each_fault_is_a_line_and_the_exit_code_says_how_it_went() {
        let two = format!(
            "{}---\n{}",
            server("{image: 'a:1'}"),
            server("{image: 'a:1', port: 0}")
        );
        let table = [
            ("a good server", server("{image: 'a:1'}"), vec![], 0),
            (
                "a warning",
                server("{image: a}"),
                vec![
                    "f:1: warning: spec.image: \"a\" has no tag, which means latest, which moves; name a version or a digest",
                ],
                0,
            ),
            (
                "a fault in the second document",
                two,
                vec!["f:2: spec.port: Invalid value: 0: must be between 1 and 65535"],
                1,
            ),
            (
                "an unknown field",
                server("{image: 'a:1', imge: b}"),
                vec![
                    "f:1: spec.imge: Forbidden: unknown field (value \"b\"); check its spelling and its place",
                ],
                1,
            ),
            (
                "no image",
                server("{}"),
                vec!["f:1: spec.image: Required value: must be set"],
                1,
            ),
            (
                "wrong types, and a rule that is broken beside them",
                server("{image: 'a:1', replicas: x, transport: http3, port: 0}"),
                vec![
                    "f:1: spec.replicas: Invalid value: \"x\": invalid type: string \"x\", expected a whole number",
                    "f:1: spec.transport: Unsupported value: \"http3\": supported values: \"stdio\", \"http\", \"streamable-http\"",
                    "f:1: spec.port: Invalid value: 0: must be between 1 and 65535",
                ],
                1,
            ),
            (
                "texts in the place of lists and maps",
                server("{image: 'a:1', args: abc, env: abc, config: abc}"),
                vec![
                    "f:1: spec.args: Invalid value: \"abc\": invalid type: string \"abc\", expected a sequence",
                    "f:1: spec.config: Invalid value: \"abc\": invalid type: string \"abc\", expected a map",
                    "f:1: spec.env: Invalid value: \"abc\": invalid type: string \"abc\", expected a sequence",
                ],
                1,
            ),
            (
                "null, which is absence, beside an unknown field",
                server("{image: 'a:1', args: null, foo: bar}"),
                vec![
                    "f:1: spec.foo: Forbidden: unknown field (value \"bar\"); check its spelling and its place",
                ],
                1,
            ),
            (
                "an image of a wrong type, and what comes after it",
                server("{image: [], args: [1, b, {}], health: {type: 7}, port: 0}"),
                vec![
                    "f:1: spec.args[0]: Invalid value: 1: invalid type: integer `1`, expected a string",
                    "f:1: spec.args[2]: Invalid value: \"object\": invalid type: map, expected a string",
                    "f:1: spec.health.type: Invalid value: 7: invalid type: integer `7`, expected a string",
                    "f:1: spec.image: Invalid value: \"array\": invalid type: sequence, expected a string",
                    "f:1: spec.port: Invalid value: 0: must be between 1 and 65535",
                ],
                1,
            ),
            (
                "no image, and what is wrong beside that",
                server("{port: 0}"),
                vec![
                    "f:1: spec.image: Required value: must be set",
                    "f:1: spec.port: Invalid value: 0: must be between 1 and 65535",
                ],
                1,
            ),
            (
                "nothing of ours",
                "kind: Service".to_owned(),
                vec!["f: holds no MCPServer"],
                2,
            ),
        ];
        for (what, text, lines, code) in table {
            let lines: Vec<_> = lines.into_iter().map(str::to_owned).collect();
            assert_eq!(check("f", &text), (lines, code), "{what}");
        }
        let (lines, code) = check("f", "a: [");
        assert!(
            code == 2 && lines[0].starts_with("f: not YAML: "),
            "{lines:?}"
        );
    }
}
