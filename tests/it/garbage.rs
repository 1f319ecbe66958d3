//! Every call with bytes that are no question: refused in grpc-go's words, and nothing comes of it.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use norn_tests::req::{get, put};
use norn_tests::rng::Rng;
use norn_tests::{Client, Server};
use prost_reflect::DescriptorPool;
use tokio_stream::StreamExt as _;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

/// Messages as they are.
#[derive(Clone, Copy)]
struct AsIs;

impl Codec for AsIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = AsIs;
    type Decoder = AsIs;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> AsIs {
        AsIs
    }
}

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

struct Call {
    path: String,
    is_stream: bool,
    /// Users and roles come with an issue of their own.
    is_auth: bool,
}

/// All that the proto files know.
fn calls() -> Vec<Call> {
    let pool = DescriptorPool::decode(norn_proto::DESCRIPTORS).expect("descriptors");
    let methods: Vec<_> = pool.services().flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
    let call = |method: &prost_reflect::MethodDescriptor| {
        let service = method.parent_service().full_name();
        Call {
            path: format!("/{service}/{}", method.name()),
            is_stream: method.is_client_streaming() || method.is_server_streaming(),
            is_auth: service == "etcdserverpb.Auth",
        }
    };
    methods.iter().map(call).collect()
}

/// The first answer, or how it was refused; `None` if neither comes soon: some calls wait.
async fn ask(
    client: &Client,
    call: &Call,
    body: Bytes,
    limit: Duration,
) -> Option<Result<Bytes, Status>> {
    let mut grpc = Grpc::new(client.channel.clone()).max_encoding_message_size(usize::MAX);
    grpc.ready().await.expect("a connection");
    let path = call.path.parse().expect("a path");
    // (What a unary call sends and receives looks the same.)
    let asked = async {
        let bodies = tokio_stream::iter([body]);
        let answers = grpc.streaming(Request::new(bodies), path, AsIs).await?;
        match answers.into_inner().next().await {
            Some(answer) => answer,
            None => Ok(Bytes::new()),
        }
    };
    tokio::time::timeout(limit, asked).await.ok()
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_by_every_call() {
    let mut server = Server::start();
    let client = server.client();
    let calls = calls();
    assert!(calls.len() >= 45, "{}", calls.len());
    for call in calls.iter().filter(|call| !call.is_auth) {
        for body in [
            // A tag of no field; a length beyond the end; a number that does not end; a group that does not.
            &b"\x07"[..],
            b"\x0a\xff\xff\xff\xff\x07",
            b"\x0a\x05a",
            &[0x80; 11],
            b"\x0b",
        ] {
            let what = format!("{} {body:02x?}", call.path);
            let answer = ask(&client, call, Bytes::copy_from_slice(body), LONG).await;
            let status = answer.unwrap_or_else(|| panic!("{what}: no answer"));
            let status = status.expect_err(&what);
            let words = match call.is_stream {
                true => "grpc: failed to unmarshal the received message: ",
                false => "grpc: error unmarshalling request: ",
            };
            assert_eq!(status.code(), Code::Internal, "{what}: {status:?}");
            assert!(status.message().starts_with(words), "{what}: {status:?}");
        }
    }
    server.assert_alive();
}

#[tokio::test]
async fn messages_that_are_too_large_are_refused_by_every_call() {
    let mut server = Server::start();
    let client = server.client();
    let body = Bytes::from(vec![0; (2 << 20) + 1]);
    for call in &calls() {
        let answer = ask(&client, call, body.clone(), LONG).await;
        let status = answer.unwrap_or_else(|| panic!("{}: no answer", call.path));
        let status = status.expect_err(&call.path);
        let text = "grpc: received message larger than max (2097153 vs. 2097152)";
        assert_eq!(
            (status.code(), status.message()),
            (Code::ResourceExhausted, text),
            "{}",
            call.path
        );
    }
    server.assert_alive();
}

#[tokio::test]
async fn random_bytes_leave_nothing_behind() {
    let mut server = Server::start();
    let client = server.client();
    client.put(put("a", "1")).await.unwrap();
    let calls = calls();
    let throw = async |seed: u64| {
        let mut rng = Rng::new(seed);
        let mut all = Vec::new();
        for call in &calls {
            // Small numbers mean more to a parser than large ones.
            let len = rng.below(40);
            let body: Vec<u8> = (0..len).map(|_| (rng.below(256) >> rng.below(6)) as u8).collect();
            // (Some wait for what never comes: that, too, is an answer.)
            all.push(ask(&client, call, body.into(), Duration::from_millis(500)));
        }
        for thrown in all {
            let _ = thrown.await;
        }
    };
    throw(1).await;
    let before = server.rss_kib();
    for seed in 2..8 {
        throw(seed).await;
    }
    let grown = server.rss_kib().saturating_sub(before);
    let allowed = if norn_tests::command::server_is_etcd() { 64 } else { 8 };
    assert!(grown < allowed * 1024, "grew by {grown} KiB");
    server.assert_alive();
    assert_eq!(client.range(get("a")).await.unwrap().count, 1);
}
