//! Asking another member over HTTP/1.1: one connection a question. Rare questions only; raft's messages have streams.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::body::Body;
use crate::runtime::net::Stream;
use crate::runtime::{task, time};
use crate::url::{address, socket_path};

const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// More than any answer we ask for.
const ANSWER_BYTES_MAX: usize = 4 << 20;

pub type Failure = Box<dyn std::error::Error>;

/// A connection, ready for requests. It is driven by a task of its own.
pub async fn connect<B>(url: &str) -> Result<hyper::client::conn::http1::SendRequest<B>, Failure>
where
    B: http_body::Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !url.starts_with("http://") && !url.starts_with("unix:") {
        return Err(format!("{url}: only http is supported between members").into());
    }
    let dialled = async {
        match socket_path(url) {
            Some(path) => Stream::connect_unix(path).await,
            None => Stream::connect(address(url)).await,
        }
    };
    let stream = time::timeout(DIAL_TIMEOUT, dialled).await??;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    task::spawn_local(async move {
        // (Whoever uses the connection sees its end.)
        let _ = connection.await;
    });
    Ok(sender)
}

pub fn request(method: &str, url: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("Host", address(url))
}

async fn exchange(url: &str, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Failure> {
    let asked = async {
        let mut sender = connect(url).await?;
        let response: Response<Incoming> = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok::<_, Failure>((status, body))
    };
    time::timeout(ANSWER_TIMEOUT, asked).await?
}

pub async fn get(url: &str, path: &str) -> Result<(u16, Bytes), Failure> {
    exchange(url, request("GET", url, path).body(Full::default())?).await
}

/// As [`get`], with the cluster id of the answer.
pub async fn get_with_cluster(url: &str, path: &str) -> Result<(u16, Bytes, u64), Failure> {
    let asked = async {
        let mut sender = connect(url).await?;
        let request = request("GET", url, path).body(Full::<Bytes>::default())?;
        let response: Response<Incoming> = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let id = response.headers().get("X-Etcd-Cluster-ID").and_then(|v| v.to_str().ok());
        let id = id.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok::<_, Failure>((status, body, id))
    };
    time::timeout(ANSWER_TIMEOUT, asked).await?
}

pub async fn post(
    url: &str,
    path: &str,
    content_type: &str,
    body: Bytes,
) -> Result<(u16, Bytes), Failure> {
    let request = request("POST", url, path).header("Content-Type", content_type);
    exchange(url, request.body(Full::new(body))?).await
}

/// A plain response of our own.
pub fn page(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::text(body));
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    response
}

pub const PLAIN: &str = "text/plain; charset=utf-8";
pub const JSON: &str = "application/json";
