//! Errors of the SDK, with what caused them: it names the HTTP client's error only, and not that
//! the connection was refused or that the name is unknown.

use std::error::Error;

use anyhow::anyhow;
use rmcp::service::{ClientInitializeError, ServiceError};
use rmcp::transport::DynamicTransportError;
use rmcp::transport::streamable_http_client::StreamableHttpError;

/// Why no session could be opened.
pub fn initialize(error: ClientInitializeError) -> anyhow::Error {
    match &error {
        ClientInitializeError::TransportError { error: cause, .. } => explain(&error, cause),
        _ => error.into(),
    }
}

/// Why a request was not answered.
pub fn request(error: ServiceError) -> anyhow::Error {
    match &error {
        ServiceError::TransportSend(cause) => explain(&error, cause),
        _ => error.into(),
    }
}

fn explain(error: &dyn Error, cause: &DynamicTransportError) -> anyhow::Error {
    let Some(StreamableHttpError::<reqwest::Error>::Client(client)) = cause.error.downcast_ref()
    else {
        return anyhow!("{error}");
    };
    let mut root: &dyn Error = client;
    while let Some(source) = root.source() {
        root = source;
    }
    anyhow!("{error}: {root}")
}
