//! Connections over TCP, and over sockets that are files.

use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::collected::Pipe;

/// Where connections arrive.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixFile),
}

/// A socket with its name, which goes when it does.
#[derive(Debug)]
pub struct UnixFile {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        // (Somebody may have removed it.)
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// # Errors
    /// The system's.
    pub async fn bind(address: &str) -> io::Result<Listener> {
        TcpListener::bind(address).await.map(Listener::Tcp)
    }

    /// Takes the place of whatever has that name: a socket that a killed process left.
    ///
    /// # Errors
    /// In Go's words.
    pub fn bind_unix(path: &str) -> Result<Listener, String> {
        remove(Path::new(path)).map_err(|error| format!("remove {path}: {}", words(&error)))?;
        let listener = UnixListener::bind(path)
            .map_err(|error| format!("listen unix {path}: bind: {}", words(&error)))?;
        Ok(Listener::Unix(UnixFile { listener, path: path.into() }))
    }

    /// As logs show it.
    pub fn address(&self) -> Option<String> {
        match self {
            Listener::Tcp(listener) => Some(listener.local_addr().ok()?.to_string()),
            Listener::Unix(file) => Some(file.path.to_string_lossy().into_owned()),
        }
    }

    /// # Errors
    /// The system's.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                listener.accept().await.map(|(stream, _)| Stream::Tcp(stream))
            }
            Listener::Unix(file) => {
                file.listener.accept().await.map(|(stream, _)| Stream::Unix(stream))
            }
        }
    }
}

/// Like Go's: an empty directory goes, too.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(_) if path.is_dir() => std::fs::remove_dir(path),
        result => result,
    }
}

/// The system's words without the number that Rust puts behind them.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// One connection.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// # Errors
    /// The system's.
    pub async fn connect(address: &str) -> io::Result<Stream> {
        TcpStream::connect(address).await.map(Stream::Tcp)
    }

    /// # Errors
    /// The system's.
    pub async fn connect_unix(path: &str) -> io::Result<Stream> {
        UnixStream::connect(path).await.map(Stream::Unix)
    }

    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self, is_on: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nodelay(is_on),
            // (They have no delay.)
            Stream::Unix(_) => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Pipe for Stream {
    fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => stream.poll_write_more(cx, pieces),
            // (Nothing is cut into segments there.)
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn push(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.push(),
            Stream::Unix(_) => Ok(()),
        }
    }
}
