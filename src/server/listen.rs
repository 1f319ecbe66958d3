//! Accepting connections: HTTP/1.1 and HTTP/2 on the same port, told apart by their first bytes.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::authority::Authorities;
use crate::body::Body;
use crate::config::{ServerConfig, address};
use crate::core::Core;
use crate::rt::{Collected, LocalExec};

/// Bytes of one stream, and of all streams of a connection, that may be on their way to us unread. Requests are at
/// most two megabytes; more only costs memory.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A refused accept (too many files) is tried again after this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// A client that opened a connection and does not say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);

/// Binds the address of a URL.
///
/// # Errors
/// Text for the operator.
pub async fn bind(url: &str) -> Result<TcpListener, String> {
    if !url.starts_with("http://") {
        return Err(format!("{url}: only http listeners are supported by this version of norn"));
    }
    let target = match address(url) {
        port if port.starts_with(':') => format!("0.0.0.0{port}"),
        other => other.to_owned(),
    };
    TcpListener::bind(&target).await.map_err(|error| match error.kind() {
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
    Peers,
}

/// Accepts until told to stop.
pub async fn accept(
    core: Rc<Core>,
    listener: TcpListener,
    serves: Serves,
    config: Rc<ServerConfig>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                // (Without it every reply waits for the client's delayed acknowledgement.)
                let _ = stream.set_nodelay(true);
                let connection =
                    connection(Rc::clone(&core), stream, serves, Rc::clone(&config), stop.clone());
                tokio::task::spawn_local(connection);
            }
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn connection(
    core: Rc<Core>,
    stream: TcpStream,
    serves: Serves,
    config: Rc<ServerConfig>,
    mut stop: watch::Receiver<bool>,
) {
    let mut builder = auto::Builder::new(LocalExec);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(config.streams_max)
        .keep_alive_interval(
            (config.keepalive_ms > 0).then(|| Duration::from_millis(config.keepalive_ms)),
        )
        .keep_alive_timeout(Duration::from_millis(config.keepalive_timeout_ms.max(1)));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let builder = match serves {
        Serves::GrpcOnly => builder.http2_only(),
        Serves::HttpOnly | Serves::Peers => builder.http1_only(),
        Serves::GrpcAndHttp => builder,
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let core = Rc::clone(&core);
        async move { Ok::<_, Infallible>(serve(core, request, serves).await) }
    });
    let io = TokioIo::new(Authorities::new(Collected(stream)));
    let served = builder.serve_connection(io, service);
    tokio::pin!(served);
    // (How a connection ends is the client's business.)
    tokio::select! {
        _ = served.as_mut() => {}
        _ = stop.wait_for(|stop| *stop) => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
    }
}

async fn serve(core: Rc<Core>, request: Request<Incoming>, serves: Serves) -> Response<Body> {
    let takes_grpc = matches!(serves, Serves::GrpcAndHttp | Serves::GrpcOnly);
    if takes_grpc && crate::grpc::is_grpc(&request) {
        return crate::grpc::serve(core, request).await;
    }
    // (Rare and large: kept out of the future above.)
    match serves {
        Serves::Peers => Box::pin(crate::peer_http::serve(core, request)).await,
        _ => Box::pin(crate::http_api::serve(core, request)).await,
    }
}
