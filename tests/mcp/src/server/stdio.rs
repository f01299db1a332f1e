//! The transport stdio: one client, at standard input and output.

use std::future::Future;

use anyhow::{Context, Result};
use futures::StreamExt;
use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use rmcp::transport::stdio;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::tools::Tools;

/// Serves until the client closes standard input, or `stop` is done and no call is in flight.
pub async fn serve(tools: Tools, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let (input, output) = stdio();
    let calls = tools.calls.clone();
    let quiet = Box::pin(async move {
        stop.await;
        calls.close();
        calls.wait().await;
    });
    // An end of the input is how a client of stdio takes its leave, and the SDK then still sends
    // what is under way: so ours looks the same to it.
    let input = StreamReader::new(ReaderStream::new(input).take_until(quiet));
    tracing::info!("serving standard input and output");
    match tools.serve((input, output)).await {
        Ok(session) => {
            session.waiting().await.context("the session's task")?;
            Ok(())
        }
        // Nobody came.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(error).context("initializing the session"),
    }
}
