//! An MCPServer from JSON; where a value means something elsewhere, the fault says what to use instead.

use serde_json::Value;

use super::{FieldError, FieldPath, MCPServer, decode, nulls};

/// Reads what can be read of an MCPServer, null being absence; and all that cannot, if `is_strict` with the fields that
/// no MCPServer has. Nothing is read where that does not help.
pub fn server(object: &Value, is_strict: bool) -> (Option<MCPServer>, Vec<FieldError>) {
    let object = nulls::without(object);
    let (server, mut faults) = decode::all(&object, &FieldPath::OBJECT, is_strict);
    for fault in &mut faults {
        if fault.field == "spec.transport"
            && let Some(hint) = object["spec"]["transport"].as_str().and_then(instead_of)
        {
            fault.message = format!("{}; {hint}", fault.message);
        }
    }
    (server, faults)
}

/// What to use instead of a transport that there is not.
fn instead_of(transport: &str) -> Option<&'static str> {
    let letters = transport.chars().filter(char::is_ascii_alphanumeric);
    let word = letters.collect::<String>().to_ascii_lowercase();
    Some(match &*word {
        "sse" | "httpsse" => {
            "MCP has replaced HTTP+SSE by streamable-http: use that; for a server that speaks nothing newer use http \
             with service.sessionAffinity ClientIP"
        }
        "streamable" | "streamablehttp" | "httpstream" | "httpstreaming" => {
            "it is written streamable-http"
        }
        "http" => "it is written http",
        "https" => "use http; TLS is for the load balancer, gateway or mesh in front",
        "stdio" | "stdin" | "stdinout" => "it is written stdio",
        "ws" | "websocket" => "MCP does not specify WebSocket: use streamable-http",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_transport_that_there_is_not_leads_to_one_that_there_is() {
        for (transport, expected) in [
            ("sse", Some("replaced HTTP+SSE by streamable-http")),
            ("Streamable_HTTP", Some("written streamable-http")),
            ("STDIO", Some("written stdio")),
            ("websocket", Some("does not specify WebSocket")),
            ("pigeon", None),
        ] {
            let object = json!({"metadata": {"name": "a"}, "spec": {"image": "x:1", "transport": transport}});
            let (_, faults) = super::server(&object, false);
            let [fault] = &faults[..] else {
                panic!("{transport}: {faults:?}")
            };
            let supported = "\"stdio\", \"http\", \"streamable-http\"";
            let (_, said) = fault.message.split_once(supported).unwrap();
            match expected {
                Some(words) => assert!(said.contains(words), "{fault}"),
                None => assert_eq!(said, "", "{fault}"),
            }
        }
    }
}
