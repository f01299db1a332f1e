//! The fence at the socket: where bytes are written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

use super::Fence;

/// A connection that writes nothing once the fence is closed.
#[derive(Debug)]
pub struct Gate<C> {
    connection: C,
    fence: Fence,
}

impl<C> Gate<C> {
    /// Puts the fence around the connection.
    pub fn new(connection: C, fence: Fence) -> Self {
        Self { connection, fence }
    }

    fn check(&self) -> io::Result<()> {
        self.fence.check().map_err(io::Error::other)
    }
}

impl<C: Read + Unpin> Read for Gate<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: Write + Unpin> Write for Gate<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.connection).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

impl<C: Connection> Connection for Gate<C> {
    fn connected(&self) -> Connected {
        self.connection.connected()
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::fence::NotLeading;

    #[tokio::test]
    async fn bytes_leave_only_while_it_is_open_and_come_in_always() {
        let fence = Fence::none();
        let (near, mut far) = duplex(64);
        let mut near = TokioIo::new(Gate::new(TokioIo::new(near), fence.clone()));
        near.write_all(b"first").await.unwrap();
        fence.close();
        let error = near.write_all(b"second").await.unwrap_err();
        assert_eq!(error.to_string(), NotLeading.to_string());
        far.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        drop(near);
        let mut left = Vec::new();
        far.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"first");
    }
}
