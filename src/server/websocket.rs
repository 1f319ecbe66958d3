//! WebSockets at the gateway: what a client says, message by message, is the body of a POST of the same path, and the answer
//! comes line by line, a message each. (As etcd's gateway is wrapped: any origin may ask, a token comes as subprotocol.)

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use sha1::{Digest as _, Sha1};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::body::{Body, Part};
use crate::client::{PLAIN, page};
use crate::core::Core;
use crate::frames::message_bytes_max;
use crate::gateway::{self, JSON_TIMES};
use crate::runtime;
use crate::runtime::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use crate::runtime::sync::{mpsc, watch};

/// Messages that wait to be read by the call; then the connection is read no further.
const SAID_MAX: usize = 4;
/// Lines that wait to be sent; then the call goes on no further.
const LINES_MAX: usize = 4;
/// A connection's buffer for reading: most of them say little, and there may be many.
const READ_BYTES: usize = 4 << 10;
/// What makes a client's key into the answer that only a WebSocket server gives. (RFC 6455, 1.3)
const ACCEPT_SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What was asked with an upgrade: it is answered on the connection itself.
#[derive(Clone, Debug)]
pub struct Call {
    uri: Uri,
    headers: HeaderMap,
}

pub fn is_asked(headers: &HeaderMap) -> bool {
    lists(headers, CONNECTION, "upgrade") && lists(headers, UPGRADE, "websocket")
}

fn lists(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(wanted))
}

/// Answers the request to upgrade. With 101 the connection is the [`Call`]'s that comes along.
pub fn begin<B>(request: &Request<B>) -> Response<Body> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return refused(StatusCode::METHOD_NOT_ALLOWED);
    }
    // (HTTP/1.0 knows no upgrade.)
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| is_key(key));
    let speaks =
        lists(headers, SEC_WEBSOCKET_VERSION, "13") && request.version() == Version::HTTP_11;
    let Some(key) = key.filter(|_| speaks) else { return refused(StatusCode::BAD_REQUEST) };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .extensions_mut()
        .insert(Call { uri: request.uri().clone(), headers: forwarded(headers) });
    let says = response.headers_mut();
    says.insert(UPGRADE, HeaderValue::from_static("websocket"));
    says.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&accept(key.as_bytes())) {
        says.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if headers.get(SEC_WEBSOCKET_PROTOCOL).is_some_and(|p| p.as_bytes().starts_with(b"Bearer")) {
        says.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    response
}

/// (16 bytes, as base64.)
fn is_key(key: &HeaderValue) -> bool {
    BASE64_STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16)
}

fn accept(key: &[u8]) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_SALT).finalize();
    BASE64_STANDARD.encode(digest)
}

fn refused(status: StatusCode) -> Response<Body> {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    let mut response = page(status.as_u16(), PLAIN, text);
    let headers = response.headers_mut();
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What the call gets to see: who asks, by a cookie or by the only header that a browser's script may set.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let protocol = text(SEC_WEBSOCKET_PROTOCOL).map(|protocols| {
        let token = protocols.split_once("Bearer,").map(|(_, token)| token.trim_matches(' '));
        token.map(|token| format!("Bearer {token}")).unwrap_or_default()
    });
    let mut cookies = text(COOKIE).unwrap_or_default().split(';');
    let cookie = cookies.find_map(|cookie| cookie.trim().strip_prefix("token="));
    let mut forwarded = HeaderMap::new();
    if let Some(token) = cookie.map(|token| format!("Bearer {token}")).or(protocol)
        && let Ok(token) = HeaderValue::from_str(&token)
    {
        forwarded.insert(AUTHORIZATION, token);
    }
    forwarded
}

/// Runs a call on its connection, of which these bytes were read ahead.
pub async fn serve<S>(
    core: Rc<Core>,
    stream: S,
    ahead: Bytes,
    call: Call,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // (A message may be as long as a body. Nothing is collected: the connection below does that.)
    let bytes_max = message_bytes_max(&core) * JSON_TIMES;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(bytes_max))
        .max_frame_size(Some(bytes_max));
    let mut socket =
        WebSocketStream::from_partially_read(stream, ahead.to_vec(), Role::Server, Some(config))
            .await;
    runtime::select! {
        () = converse(&core, &mut socket, call) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    // (Who said good-bye was answered; nobody else is told any.)
    let _ = socket.get_mut().shutdown().await;
}

async fn converse<S>(core: &Rc<Core>, socket: &mut WebSocketStream<S>, call: Call)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (said, body) = mpsc::channel(SAID_MAX);
    let (lines, mut to_say) = mpsc::channel(LINES_MAX);
    let mut request = Request::new(Body::Stream(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = call.uri;
    *request.headers_mut() = call.headers;
    let mut answering = pin!(answer(core, request, lines));
    let mut is_answered = false;
    // What waits for room.
    let mut heard: Option<Bytes> = None;
    loop {
        runtime::select! {
            () = answering.as_mut(), if !is_answered => is_answered = true,
            line = to_say.recv() => match line {
                Some(line) => if socket.send(Message::text(line)).await.is_err() { return },
                None => return,
            },
            room = said.reserve(), if heard.is_some() => {
                // (Nobody may read any more: then it is not said.)
                if let (Ok(room), Some(heard)) = (room, heard.take()) {
                    room.send(Part::Raw(heard));
                }
            }
            message = socket.next(), if heard.is_none() => match message {
                Some(Ok(Message::Text(text))) => heard = Some(line(text.as_bytes())),
                Some(Ok(Message::Binary(bytes))) => heard = Some(line(&bytes)),
                Some(Ok(Message::Close(_))) => {
                    // (It is answered by reading on.)
                    while let Some(Ok(_)) = socket.next().await {}
                    return;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    if let Some(farewell) = farewell(&error) {
                        let _ = socket.send(Message::Close(Some(farewell))).await;
                    }
                    return;
                }
                None => return,
            }
        }
    }
}

fn line(message: &[u8]) -> Bytes {
    [message, b"\n"].concat().into()
}

/// The call itself. Its lines are without their ends.
async fn answer(core: &Rc<Core>, request: Request<Body>, lines: mpsc::Sender<String>) {
    let mut body = gateway::serve(core, request).await.into_body();
    while let Some(Part::Raw(text)) = poll_fn(|cx| body.poll_part(cx)).await {
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().filter(|line| !line.is_empty()) {
            if lines.send(line.to_owned()).await.is_err() {
                return;
            }
        }
    }
}

/// What a client is told that does not keep to the protocol.
fn farewell(error: &Error) -> Option<CloseFrame> {
    let protocol = |reason: String| CloseFrame { code: CloseCode::Protocol, reason: reason.into() };
    Some(match error {
        Error::Protocol(error) => protocol(match error {
            ProtocolError::UnmaskedFrameFromClient => "bad MASK".to_owned(),
            ProtocolError::NonZeroReservedBits => "RSV1 set".to_owned(),
            ProtocolError::FragmentedControlFrame => "FIN not set on control".to_owned(),
            ProtocolError::ControlFrameTooBig => "len > 125 for control".to_owned(),
            ProtocolError::UnexpectedContinueFrame => "continuation after FIN".to_owned(),
            ProtocolError::ExpectedFragment(_) => "data before FIN".to_owned(),
            ProtocolError::UnknownControlFrameType(code)
            | ProtocolError::UnknownDataFrameType(code)
            | ProtocolError::InvalidOpcode(code) => format!("bad opcode {code}"),
            // (The connection broke.)
            ProtocolError::ResetWithoutClosingHandshake => return None,
            other => other.to_string(),
        }),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            CloseFrame { code: CloseCode::Size, reason: String::new().into() }
        }
        Error::Utf8(_) => CloseFrame { code: CloseCode::Invalid, reason: String::new().into() },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_answered_as_the_standard_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_token_comes_as_subprotocol_or_cookie() {
        let token = |name: HeaderName, value: &'static str| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            let forwarded = forwarded(&headers);
            forwarded.get(AUTHORIZATION).map(|token| token.to_str().unwrap().to_owned())
        };
        let is = |token: &str| Some(token.to_owned());
        assert_eq!(token(SEC_WEBSOCKET_PROTOCOL, "Bearer, a.b"), is("Bearer a.b"));
        assert_eq!(token(SEC_WEBSOCKET_PROTOCOL, "Bearer,a.b"), is("Bearer a.b"));
        assert_eq!(token(SEC_WEBSOCKET_PROTOCOL, "chat"), is(""));
        assert_eq!(token(COOKIE, "a=b; token=c"), is("Bearer c"));
        assert_eq!(token(COOKIE, "a=b"), None);
    }
}
