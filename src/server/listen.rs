//! Accepting connections: HTTP/1.1 and HTTP/2 on the same port, told apart by their first bytes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::authority::Authorities;
use crate::collected::Collected;
use crate::config::ServerConfig;
use crate::core::Core;
use crate::http2;
use crate::runtime::io::{AsyncReadExt as _, AsyncWriteExt as _};
use crate::runtime::net::{Listener, Stream};
use crate::runtime::sync::watch;
use crate::runtime::time::HyperTimer;
use crate::runtime::{self, task, time};
use crate::url::{address, socket_path};
use crate::websocket;

/// What a client of HTTP/2 says first, as far as no other request begins like it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A refused accept (too many files) is tried again after this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// A client that opened a connection and does not say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long, and for how many bytes, a connection that has ended is listened to.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 << 10;

/// Binds the address of a URL.
///
/// # Errors
/// Text for the operator.
pub async fn bind(url: &str) -> Result<Listener, String> {
    if let Some(path) = socket_path(url) {
        return Listener::bind_unix(path);
    }
    let target = address(url);
    if !url.starts_with("http://") {
        // (Flags that name a key are refused before.)
        return Err(format!(
            "cannot listen on TLS for {target}: KeyFile and CertFile are not presented"
        ));
    }
    let port = target.rsplit_once(':').map_or("", |(_, port)| port);
    if port.parse::<u16>().is_err() {
        return Err(format!("listen tcp: address {port}: invalid port"));
    }
    Listener::bind(target).await.map_err(|error| match error.kind() {
        // (In Go's words: scripts look for them.)
        std::io::ErrorKind::AddrInUse => {
            format!("listen tcp {target}: bind: address already in use")
        }
        _ => format!("listen tcp {target}: {error}"),
    })
}

/// What one kind of listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    GrpcAndHttp,
    GrpcOnly,
    HttpOnly,
    /// Health and metrics: nothing else, and for everybody.
    Metrics,
    Peers,
}

/// Accepts until told to stop.
pub async fn accept(
    core: Rc<Core>,
    listener: Listener,
    serves: Serves,
    config: Rc<ServerConfig>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = runtime::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok(stream) => {
                // (Without it every reply waits for the client's delayed acknowledgement.)
                let _ = stream.set_nodelay(true);
                let connection =
                    connection(Rc::clone(&core), stream, serves, Rc::clone(&config), stop.clone());
                task::spawn_local(connection);
            }
            Err(_) => time::sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn connection(
    core: Rc<Core>,
    stream: Stream,
    serves: Serves,
    config: Rc<ServerConfig>,
    stop: watch::Receiver<bool>,
) {
    let (mut stream, flush) = Collected::new(stream);
    let served = async {
        let is_http2 = match serves {
            Serves::GrpcOnly => true,
            Serves::HttpOnly | Serves::Metrics | Serves::Peers => false,
            Serves::GrpcAndHttp => {
                let begins = stream.begins_with(HTTP2_PREFACE);
                match time::timeout(HEADER_TIMEOUT, begins).await {
                    Ok(Ok(is_http2)) => is_http2,
                    // (Silent, or gone.)
                    _ => return,
                }
            }
        };
        if is_http2 {
            http2::serve(core, Authorities::new(stream), &config, stop).await;
        } else {
            http1(core, config, stream, serves, stop).await;
        }
    };
    flush.behind(served).await;
}

async fn http1(
    core: Rc<Core>,
    config: Rc<ServerConfig>,
    stream: Collected<Stream>,
    serves: Serves,
    mut stop: watch::Receiver<bool>,
) {
    // What the connection becomes when HTTP has ended.
    let upgrade = Rc::new(RefCell::new(None));
    let (node, kept) = (Rc::clone(&core), Rc::clone(&upgrade));
    let service = service_fn(move |request: Request<Incoming>| {
        let (core, config) = (Rc::clone(&node), Rc::clone(&config));
        let upgrade = Rc::clone(&kept);
        Box::pin(async move {
            let mut response = match serves {
                Serves::Peers => crate::peer_http::serve(core, request).await,
                Serves::Metrics => crate::http_api::look(&core, &request).await,
                _ => crate::http_api::serve(core, &config, request).await,
            };
            *upgrade.borrow_mut() = response.extensions_mut().remove::<websocket::Call>();
            Ok::<_, Infallible>(response)
        })
    });
    let mut builder = http1::Builder::new();
    builder.timer(HyperTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // (As Go writes them, for scripts that look for them so.)
    builder.title_case_headers(true);
    let mut served = builder.serve_connection(TokioIo::new(stream), service);
    // (How a connection ends is the client's business.)
    let ended = runtime::select! {
        ended = poll_fn(|cx| served.poll_without_shutdown(cx)) => ended,
        _ = stop.wait_for(|stop| *stop) => {
            std::pin::Pin::new(&mut served).graceful_shutdown();
            poll_fn(|cx| served.poll_without_shutdown(cx)).await
        }
    };
    let parts = served.into_parts();
    let mut stream = parts.io.into_inner();
    let call = upgrade.borrow_mut().take();
    match call {
        Some(call) if ended.is_ok() => {
            websocket::serve(core, stream, parts.read_buf, call, stop).await;
        }
        _ => {
            let _ = stream.shutdown().await;
            if serves != Serves::Peers && !*stop.borrow() {
                linger(&mut stream).await;
            }
        }
    }
}

/// Takes what a client still says that was refused early: closing on it would reset the connection, and the answer would
/// be lost on its way. (Go waits as long.)
async fn linger(stream: &mut Collected<Stream>) {
    let rest = async {
        let mut piece = [0; 4 << 10];
        let mut left = LINGER_BYTES;
        while let Ok(count @ 1..) = stream.read(&mut piece).await {
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    };
    let _ = time::timeout(LINGER, rest).await;
}
