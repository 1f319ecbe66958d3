//! One gRPC call without a client library around it: what the server says, also after the client's own deadline.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The status a unary call or a stream ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub message: String,
}

impl Ended {
    pub fn new(code: tonic::Code, message: &str) -> Self {
        Self { code: code as i32, message: message.to_owned() }
    }
}

/// Asks `path` at `address` and waits for the end; `Err`: the server ended the stream (or the connection) in another way.
///
/// # Errors
/// HTTP/2's words.
pub async fn call(
    address: &str,
    path: &str,
    headers: &[(&str, &[u8])],
    message: &impl Message,
) -> Result<Ended, String> {
    let call = try_call(address, path, headers, message.encode_to_vec());
    timeout(Duration::from_secs(20), call).await.map_err(|_| "nothing came".to_owned())?
}

async fn try_call(
    address: &str,
    path: &str,
    headers: &[(&str, &[u8])],
    message: Vec<u8>,
) -> Result<Ended, String> {
    let failed = |error: h2::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (client, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.map_err(failed)?;
    let mut request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("headers that HTTP has");
    let (response, mut body) = client.send_request(request, false).map_err(failed)?;
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    body.send_data(frame.freeze(), true).map_err(failed)?;
    let response = response.await.map_err(failed)?;
    let (head, mut body) = response.into_parts();
    let mut ending = head.headers;
    if !ending.contains_key("grpc-status") {
        while let Some(data) = body.data().await {
            let data: Bytes = data.map_err(failed)?;
            // (The windows are large enough for what is asked here, and yet.)
            let _ = body.flow_control().release_capacity(data.len());
        }
        ending = body.trailers().await.map_err(failed)?.unwrap_or_default();
    }
    driver.abort();
    let text = |name: &str| {
        ending.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let code = text("grpc-status").and_then(|code| code.parse().ok()).ok_or("no grpc-status")?;
    Ok(Ended { code, message: text("grpc-message").unwrap_or_default() })
}
