//! Pings between clients and the server, by the rules of Go's gRPC: frames as they stand on the wire.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use norn_tests::{Server, Setup};

const LIMIT: Duration = Duration::from_secs(20);
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

/// HTTP/2 by hand.
#[derive(Debug)]
pub struct Wire<S>(S);

impl Wire<TcpStream> {
    fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.client_address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::begin(stream)
    }
}

impl<S: Read + Write> Wire<S> {
    pub fn begin(stream: S) -> Self {
        let mut wire = Self(stream);
        wire.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        wire.send(SETTINGS, 0, 0, &[]);
        wire
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // (A server that has closed the connection is seen when reading.)
        let _ = self.0.write_all(&frame);
    }

    /// Opens a stream of a method that is not there, or, if the client has not ended it, one that waits for the client.
    fn ask(&mut self, stream: u32, path: &str, ends: bool) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "norn"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.extend([0, name.len() as u8]);
            block.extend(name.bytes());
            block.push(value.len() as u8);
            block.extend(value.bytes());
        }
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, &block);
    }

    fn ping(&mut self) {
        self.send(PING, 0, 0, b"12345678");
    }

    /// `None`: the server closed the connection.
    fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing within {LIMIT:?}")
            }
            Err(_) => return None,
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame { kind: head[3], flags: head[4], payload })
    }

    /// The next frame of a kind that anybody here waits for; the server's settings are acknowledged.
    fn wait(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let frame = self.next()?;
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS, 0) => self.send(SETTINGS, ACK, 0, &[]),
                (PING | GO_AWAY | HEADERS, _) => return Some((frame.kind, frame.payload)),
                _ => {}
            }
        }
    }

    /// Pings, and is answered.
    pub fn ping_is_fine(&mut self) {
        self.ping();
        assert_eq!(self.wait(), Some((PING, b"12345678".to_vec())));
    }

    fn is_sent_away(&mut self) {
        loop {
            match self.wait() {
                // (Every ping is answered, the last one, too, or not.)
                Some((PING, _)) => {}
                Some((GO_AWAY, payload)) => {
                    assert_eq!(payload[4..8], [0, 0, 0, 0xb], "ENHANCE_YOUR_CALM");
                    assert_eq!(&payload[8..], b"too_many_pings");
                    break;
                }
                other => panic!("{other:?} instead of GOAWAY"),
            }
        }
        assert_eq!(self.wait(), None, "and then the connection is closed");
    }
}

#[test]
fn without_a_stream_the_third_ping_too_many_ends_the_connection() {
    let server = Server::start();
    let mut wire = Wire::connect(&server);
    for _ in 0..3 {
        wire.ping_is_fine();
    }
    wire.ping();
    wire.is_sent_away();
    Wire::connect(&server).ping_is_fine();
}

#[test]
fn with_a_stream_the_interval_counts() {
    let flag = |min: &str| Setup::quick().flag(format!("--grpc-keepalive-min-time={min}"));
    let strict = Server::start_with(flag("1h"));
    let mut wire = Wire::connect(&strict);
    wire.ask(1, "/etcdserverpb.Watch/Watch", false);
    for _ in 0..3 {
        wire.ping_is_fine();
    }
    wire.ping();
    wire.is_sent_away();

    // (Whoever waits for the answer is never that soon. How intervals are counted is tested where they are.)
    let lenient = Server::start_with(flag("1ns"));
    let mut wire = Wire::connect(&lenient);
    wire.ask(1, "/etcdserverpb.Watch/Watch", false);
    for _ in 0..8 {
        wire.ping_is_fine();
    }
}

#[test]
fn what_the_server_says_takes_strikes_back() {
    let server = Server::start();
    let mut wire = Wire::connect(&server);
    for stream in 0..8 {
        wire.ask(2 * stream + 1, "/no.such/Method", true);
        assert_eq!(wire.wait().map(|(kind, _)| kind), Some(HEADERS));
        wire.ping_is_fine();
        wire.ping_is_fine();
    }
}

#[test]
fn a_client_that_does_not_answer_pings_is_left() {
    let setup = Setup::quick().flag("--grpc-keepalive-interval=1s");
    let server = Server::start_with(setup.flag("--grpc-keepalive-timeout=500ms"));
    let mut wire = Wire::connect(&server);
    let started = Instant::now();
    assert_eq!(wire.wait().map(|(kind, _)| kind), Some(PING), "is somebody there?");
    while let Some((kind, _)) = wire.wait() {
        assert_ne!(kind, PING);
    }
    assert!(started.elapsed() >= Duration::from_millis(1_400), "{:?}", started.elapsed());
}

#[test]
fn a_client_that_answers_pings_stays() {
    let setup = Setup::quick().flag("--grpc-keepalive-interval=1s");
    let server = Server::start_with(setup.flag("--grpc-keepalive-timeout=500ms"));
    let mut wire = Wire::connect(&server);
    for _ in 0..3 {
        let (kind, payload) = wire.wait().expect("a ping");
        assert_eq!(kind, PING);
        wire.send(PING, ACK, 0, &payload);
    }
}

#[test]
fn a_stream_too_many_is_refused() {
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    const RST_STREAM: u8 = 3;
    let server = Server::start_with(Setup::quick().flag("--max-concurrent-streams=2"));
    let mut wire = Wire::connect(&server);
    let settings = loop {
        let frame = wire.next().expect("settings");
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            break frame.payload;
        }
    };
    assert!(settings.chunks(6).any(|s| s == [0, 3, 0, 0, 0, 2]), "{settings:?}");
    wire.send(SETTINGS, ACK, 0, &[]);
    for stream in [1, 3, 5] {
        wire.ask(stream, "/etcdserverpb.Watch/Watch", false);
    }
    let refused = loop {
        let frame = wire.next().expect("a refusal");
        if frame.kind == RST_STREAM {
            break frame.payload;
        }
    };
    assert_eq!(refused, REFUSED_STREAM);
}
