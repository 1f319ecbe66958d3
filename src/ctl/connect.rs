//! Connections to endpoints and calls over them, with the retry rules of etcd's official client.
//!
//! A call first finds an endpoint that accepts a connection, trying all of them in turn until the command's deadline; only
//! then is the request sent. Reads are sent again to the next endpoint when a server answers Unavailable; writes are not,
//! because the first one may have been applied.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Uri;
use hyper_util::rt::TokioIo;
use norn_proto::etcdserverpb as pb;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_stream::Stream;
use tonic::codec::Streaming;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::exit::{self, Exit, Outcome};
use crate::flags::Line;
use crate::go;
use crate::tls::Files;

/// What the global flags say about connections.
#[derive(Debug, Clone)]
pub struct Config {
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub command_timeout: Duration,
    /// `--command-timeout` was given: streams that have no limit otherwise obey it too.
    pub command_timeout_set: bool,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub send_bytes_max: usize,
    pub receive_bytes_max: usize,
    pub tls: Files,
    pub insecure_transport: bool,
    pub user: Option<(String, String)>,
    pub token: String,
}

impl Config {
    pub fn from_line(line: &Line) -> Outcome<Self> {
        for name in ["cert", "key", "cacert"] {
            if line.is_set(name) && line.text(name).is_empty() {
                return exit::bad_args(format!("empty string is passed to --{name} option"));
            }
        }
        let text = |name: &str| line.text(name).to_owned();
        let limit = |name: &str, default: usize| match line.int(name) {
            0 => default,
            n => usize::try_from(n).unwrap_or(default),
        };
        Ok(Self {
            endpoints: line.list("endpoints").into_iter().filter(|e| !e.is_empty()).collect(),
            dial_timeout: line.time("dial-timeout"),
            command_timeout: line.time("command-timeout"),
            command_timeout_set: line.is_set("command-timeout"),
            keepalive_time: line.time("keepalive-time"),
            keepalive_timeout: line.time("keepalive-timeout"),
            send_bytes_max: limit("max-request-bytes", 2 << 20),
            receive_bytes_max: limit("max-recv-bytes", i32::MAX as usize),
            tls: Files {
                cert: text("cert"),
                key: text("key"),
                cacert: text("cacert"),
                skip_verify: line.bool("insecure-skip-tls-verify"),
            },
            insecure_transport: line.bool("insecure-transport"),
            user: user(line)?,
            token: text("auth-jwt-token"),
        })
    }
}

fn user(line: &Line) -> Outcome<Option<(String, String)>> {
    let (user, password) = (line.text("user"), line.text("password"));
    if user.is_empty() || !line.text("auth-jwt-token").is_empty() {
        return Ok(None);
    }
    if !password.is_empty() {
        return Ok(Some((user.into(), password.into())));
    }
    match user.split_once(':') {
        Some((name, password)) => Ok(Some((name.into(), password.into()))),
        None => {
            let password =
                crate::auth::ask_password("Password: ").map_err(|e| Exit::new(exit::ERROR, e))?;
            Ok(Some((user.into(), password)))
        }
    }
}

/// A call that failed, in the words etcd's client would use.
#[derive(Debug, Clone)]
pub struct Failure(pub Status);

impl Failure {
    fn deadline(cause: &str) -> Self {
        Self(Status::deadline_exceeded(cause))
    }

    pub fn exit(&self, code: i32) -> Exit {
        Exit::new(code, self)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.message();
        let known = ["etcdserver: ", "auth: ", "raft: ", "lease: ", "membership: "];
        if known.iter().any(|k| text.starts_with(k)) {
            return f.write_str(text);
        }
        match self.0.code() {
            Code::DeadlineExceeded => f.write_str("context deadline exceeded"),
            Code::Cancelled => f.write_str("context canceled"),
            _ => f.write_str(&rpc_error(&self.0)),
        }
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Self {
        Exit::new(exit::ERROR, failure)
    }
}

/// How Go's gRPC prints a status.
pub fn rpc_error(status: &Status) -> String {
    let code = match status.code() {
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// One line of JSON on stderr, as etcd's logger writes it. An empty logger is left out.
pub fn log(level: &str, logger: &str, message: &str, fields: &[(&str, &str)]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = format!("{{\"level\":\"{level}\",\"ts\":\"{}\"", go::timestamp(now));
    let named = [("logger", logger), ("msg", message)];
    for (name, value) in named.iter().filter(|(_, v)| !v.is_empty()).chain(fields) {
        text.push_str(&format!(",\"{name}\":{}", log_string(value)));
    }
    eprintln!("{text}}}");
}

/// Unlike `encoding/json`, the logger leaves `<`, `>` and `&` alone.
fn log_string(text: &str) -> String {
    go::json_string(text).replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u0026", "&")
}

/// May a call be sent twice?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    Yes,
    No,
}

pub struct Client {
    config: Config,
    tls: Option<Arc<rustls::ClientConfig>>,
    channels: RefCell<BTreeMap<String, Channel>>,
    token: Option<MetadataValue<Ascii>>,
    /// Which endpoint to try first.
    next: Cell<usize>,
}

const BACKOFF: Duration = Duration::from_millis(25);
const RECONNECT: Duration = Duration::from_millis(100);

impl Client {
    pub async fn new(config: &Config) -> Outcome<Self> {
        Self::with_endpoints(config, config.endpoints.clone()).await
    }

    pub async fn with_endpoints(config: &Config, endpoints: Vec<String>) -> Outcome<Self> {
        let bad = |e: String| Exit::new(exit::BAD_CONNECTION, e);
        if endpoints.is_empty() {
            return Err(bad("etcdclient: no available endpoints".into()));
        }
        let secure = |e: &String| e.starts_with("https://") || e.starts_with("unixs://");
        let tls =
            (!config.tls.is_empty() || !config.insecure_transport || endpoints.iter().any(secure))
                .then(|| config.tls.config())
                .transpose()
                .map_err(bad)?;
        let mut client = Self {
            config: Config { endpoints, ..config.clone() },
            tls,
            channels: RefCell::default(),
            token: None,
            next: Cell::new(0),
        };
        if !config.token.is_empty() {
            client.token = config.token.parse().ok();
        } else if let Some((name, password)) = &config.user {
            let request =
                pb::AuthenticateRequest { name: name.clone(), password: password.clone() };
            let path = "/etcdserverpb.Auth/Authenticate";
            match client.call::<_, pb::AuthenticateResponse>(path, &request, Repeat::Yes).await {
                Ok(reply) => client.token = reply.token.parse().ok(),
                // Credentials do no harm where nobody asks for them.
                Err(e) if e.0.message().contains("authentication is not enabled") => {}
                Err(e) => return Err(e.exit(exit::BAD_CONNECTION)),
            }
        }
        Ok(client)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn endpoints(&self) -> &[String] {
        &self.config.endpoints
    }

    /// A unary call on any endpoint, within the command's time limit.
    pub async fn call<Q, R>(
        &self,
        path: &'static str,
        request: &Q,
        repeat: Repeat,
    ) -> Result<R, Failure>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        self.call_until(path, request, repeat, Some(Instant::now() + self.config.command_timeout))
            .await
    }

    /// As [`Self::call`], without a limit when `deadline` is `None` (locks and elections wait as long as it takes).
    pub async fn call_until<Q, R>(
        &self,
        path: &'static str,
        request: &Q,
        repeat: Repeat,
        deadline: Option<Instant>,
    ) -> Result<R, Failure>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut attempt = 0;
        loop {
            let result = self.try_call(path, request, deadline).await;
            let Err(failure) = &result else { return result };
            self.warn(path, attempt, &failure.0);
            attempt += 1;
            let again = repeat == Repeat::Yes
                && failure.0.code() == Code::Unavailable
                && !failure.0.message().starts_with("etcdserver: ")
                && attempt < 100;
            if !again || deadline.is_some_and(|d| Instant::now() + BACKOFF >= d) {
                return result;
            }
            self.next.set(self.next.get() + 1);
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn try_call<Q, R>(
        &self,
        path: &'static str,
        request: &Q,
        deadline: Option<Instant>,
    ) -> Result<R, Failure>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc(deadline).await?;
        let mut request = self.request(request.clone());
        let work = async {
            grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            grpc.unary(
                request_with_timeout(&mut request, deadline),
                PathAndQuery::from_static(path),
                ProstCodec::default(),
            )
            .await
        };
        let result = match deadline {
            Some(d) => tokio::time::timeout_at(d.into(), work)
                .await
                .map_err(|_| Failure::deadline("context deadline exceeded"))?,
            None => work.await,
        };
        result.map(tonic::Response::into_inner).map_err(Failure)
    }

    /// A stream of replies to one request.
    pub async fn server_stream<Q, R>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<Streaming<R>, Failure>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let deadline = Some(Instant::now() + self.config.dial_timeout);
        let mut grpc = self.grpc(deadline).await.inspect_err(|e| self.warn(path, 0, &e.0))?;
        grpc.ready().await.map_err(|e| Failure(Status::unavailable(e.to_string())))?;
        grpc.server_streaming(
            self.request(request),
            PathAndQuery::from_static(path),
            ProstCodec::default(),
        )
        .await
        .map(tonic::Response::into_inner)
        .map_err(Failure)
    }

    /// A stream in both directions. It connects for as long as it takes unless `patient` is false.
    pub async fn duplex<Q, R, S>(
        &self,
        path: &'static str,
        requests: S,
        patient: bool,
    ) -> Result<Streaming<R>, Failure>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
        S: Stream<Item = Q> + Send + 'static,
    {
        let deadline = (!patient).then(|| Instant::now() + self.config.command_timeout);
        let mut grpc = self.grpc(deadline).await?;
        grpc.ready().await.map_err(|e| Failure(Status::unavailable(e.to_string())))?;
        let mut request = Request::new(requests);
        self.sign(&mut request);
        grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::default())
            .await
            .map(tonic::Response::into_inner)
            .map_err(Failure)
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        self.sign(&mut request);
        request
    }

    fn sign<Q>(&self, request: &mut Request<Q>) {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
    }

    fn warn(&self, path: &str, attempt: u32, status: &Status) {
        let target = format!("etcd-endpoints://{self:p}/{}", bare(&self.config.endpoints[0]));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        eprintln!(
            "{{\"level\":\"warn\",\"ts\":\"{}\",\"logger\":\"etcd-client\",\"caller\":\"ctl/connect.rs\",\"msg\":\"retrying of unary invoker failed\",\"target\":{},\"method\":\"{path}\",\"attempt\":{attempt},\"error\":{}}}",
            go::timestamp(now),
            log_string(&target),
            log_string(&rpc_error(status)),
        );
    }

    async fn grpc(
        &self,
        deadline: Option<Instant>,
    ) -> Result<tonic::client::Grpc<Channel>, Failure> {
        let channel = self.channel(deadline).await?;
        Ok(tonic::client::Grpc::new(channel)
            .max_decoding_message_size(self.config.receive_bytes_max)
            .max_encoding_message_size(self.config.send_bytes_max))
    }

    /// A connection to any endpoint, tried in turn until the deadline.
    async fn channel(&self, deadline: Option<Instant>) -> Result<Channel, Failure> {
        let count = self.config.endpoints.len();
        let mut cause = String::from("context deadline exceeded");
        loop {
            for _ in 0..count {
                let endpoint = &self.config.endpoints[self.next.get() % count];
                if let Some(channel) = self.channels.borrow().get(endpoint) {
                    return Ok(channel.clone());
                }
                let left = deadline.map_or(self.config.dial_timeout, |d| {
                    d.saturating_duration_since(Instant::now()).min(self.config.dial_timeout)
                });
                match tokio::time::timeout(left, self.dial(endpoint)).await {
                    Ok(Ok(channel)) => {
                        self.channels.borrow_mut().insert(endpoint.clone(), channel.clone());
                        return Ok(channel);
                    }
                    Ok(Err(e)) => {
                        cause = format!(
                            "latest balancer error: connection error: desc = \"transport: Error while dialing: dial tcp {}: {e}\"",
                            bare(endpoint)
                        );
                    }
                    Err(_) => {}
                }
                self.next.set(self.next.get() + 1);
            }
            let now = Instant::now();
            if deadline.is_some_and(|d| now >= d) {
                return Err(Failure::deadline(&cause));
            }
            let left =
                deadline.map_or(RECONNECT, |d| d.saturating_duration_since(now).min(RECONNECT));
            tokio::time::sleep(left).await;
        }
    }

    async fn dial(&self, endpoint: &str) -> Result<Channel, String> {
        let target = Target::parse(endpoint, self.tls.as_ref());
        let scheme = if target.tls.is_some() { "https" } else { "http" };
        let authority = if target.unix { "localhost" } else { &target.address };
        let uri: Uri = format!("{scheme}://{authority}").parse().map_err(|e| format!("{e}"))?;
        // The connector does TLS itself; tonic must not see https.
        let plain: Uri = format!("http://{authority}").parse().map_err(|e| format!("{e}"))?;
        Endpoint::from(plain)
            .origin(uri)
            .http2_keep_alive_interval(self.config.keepalive_time.max(Duration::from_secs(1)) * 5)
            .keep_alive_timeout(self.config.keepalive_timeout)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect_with_connector(Connector(Arc::new(target)))
            .await
            .map_err(|e| root_cause(&e))
    }
}

fn request_with_timeout<Q: Clone>(
    request: &mut Request<Q>,
    deadline: Option<Instant>,
) -> Request<Q> {
    let mut out = Request::new(request.get_ref().clone());
    *out.metadata_mut() = std::mem::take(request.metadata_mut());
    if let Some(d) = deadline {
        out.set_timeout(d.saturating_duration_since(Instant::now()));
    }
    out
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    let text = last.to_string();
    if text.to_lowercase().contains("connection refused") {
        return "connect: connection refused".into();
    }
    text
}

fn bare(endpoint: &str) -> &str {
    endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest)
}

struct Target {
    /// `host:port`, or a socket's path.
    address: String,
    unix: bool,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Target {
    fn parse(endpoint: &str, tls: Option<&Arc<rustls::ClientConfig>>) -> Self {
        let tls = || tls.cloned();
        let (unix, tls, rest) = match endpoint.split_once("://") {
            Some(("http", rest)) => (false, None, rest),
            Some(("https", rest)) => (false, tls(), rest),
            Some(("unix", rest)) => (true, None, rest),
            Some(("unixs", rest)) => (true, tls(), rest),
            _ => match endpoint.strip_prefix("unix:") {
                Some(rest) => (true, None, rest),
                None => (false, tls(), endpoint),
            },
        };
        Self { address: rest.trim_end_matches('/').to_owned(), unix, tls }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[derive(Clone)]
struct Connector(Arc<Target>);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let target = Arc::clone(&self.0);
        Box::pin(async move {
            let io: Box<dyn Io> = if target.unix {
                Box::new(UnixStream::connect(&target.address).await?)
            } else {
                let stream = TcpStream::connect(&target.address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            };
            let Some(tls) = &target.tls else { return Ok(TokioIo::new(io)) };
            let host = if target.unix { "localhost" } else { &target.address };
            let host = host.rsplit_once(':').map_or(host, |(h, _)| h).trim_matches(['[', ']']);
            let name = rustls::pki_types::ServerName::try_from(host.to_owned())
                .map_err(std::io::Error::other)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
            let io: Box<dyn Io> = Box::new(connector.connect(name, io).await?);
            Ok(TokioIo::new(io))
        })
    }
}
