//! Calls as JSON over WebSockets.

use norn_tests::Server;
use norn_tests::http::{exchange, get, post};
use norn_tests::websocket::{Said, WebSocket};
use serde_json::{Value, json};

const WATCH: &str = "/v3/watch";
const CREATE: &str = r#"{"create_request":{"key":"Zm9v"}}"#;

fn open(server: &Server, path: &str) -> WebSocket {
    let (socket, answer) = WebSocket::open(&server.client_address(), path, &[]);
    assert_eq!(answer.status, 101, "{answer:?}");
    socket
}

/// The next answer, without its header.
#[track_caller]
fn result(socket: &mut WebSocket) -> Value {
    let Said::Text(text) = socket.hear() else { panic!("no text") };
    assert!(!text.contains('\n'), "{text}");
    let mut line: Value = serde_json::from_str(&text).expect("a line is JSON");
    let mut result = line["result"].take();
    assert!(result.as_object_mut().and_then(|result| result.remove("header")).is_some(), "{text}");
    result
}

fn put(server: &Server) {
    let question = br#"{"key":"Zm9v","value":"YmFy"}"#;
    assert_eq!(post(&server.client_address(), "/v3/kv/put", question).status, 200);
}

#[test]
fn a_watch_is_made_and_told_in_messages() {
    let server = Server::start();
    let headers = [("Origin", "http://elsewhere.example")];
    let (mut socket, answer) = WebSocket::open(&server.client_address(), WATCH, &headers);
    let told = ["upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol"];
    let told = told.map(|name| answer.header(name).unwrap_or_default());
    assert_eq!(told, ["websocket", "Upgrade", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", ""]);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (101, None));
    socket.text(CREATE);
    assert_eq!(result(&mut socket), json!({ "created": true }));
    put(&server);
    let event = json!({ "events": [{ "kv": {
        "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy",
    } }] });
    assert_eq!(result(&mut socket), event);
    // A second watch on the same connection, in two messages of which one has two frames.
    socket.binary(br#"{"create_request":"#);
    socket.frame(1, br#"{"key":"Zm9v","start_"#);
    socket.frame(0x80, br#"revision":2}}"#);
    assert_eq!(result(&mut socket), json!({ "watch_id": "1", "created": true }));
    let mut past = event;
    past["watch_id"] = json!("1");
    assert_eq!(result(&mut socket), past);
    socket.ping(b"there?");
    assert_eq!(socket.hear(), Said::Pong(b"there?".to_vec()));
    socket.text(r#"{"cancel_request":{"watch_id":"1"}}"#);
    assert_eq!(result(&mut socket), json!({ "watch_id": "1", "canceled": true }));
    // What is no question ends the questions, and nothing else.
    socket.text("nonsense");
    put(&server);
    assert_eq!(result(&mut socket)["events"][0]["kv"]["version"], "2");
}

#[test]
fn leases_are_renewed_and_the_end_is_the_end() {
    let server = Server::start();
    let grant = br#"{"ID":"7","TTL":"600"}"#;
    assert_eq!(post(&server.client_address(), "/v3/lease/grant", grant).status, 200);
    let mut socket = open(&server, "/v3beta/lease/keepalive?method=DELETE");
    for _ in 0..3 {
        socket.text(r#"{"ID":"7"}"#);
        assert_eq!(result(&mut socket), json!({ "ID": "7", "TTL": "600" }));
    }
    // What is no question is the end of them.
    socket.text("nonsense");
    assert_eq!(socket.hear(), Said::End);
    let mut socket = open(&server, "/v3/lease/keepalive");
    socket.text(r#"{"ID":"8"}"#);
    assert_eq!(result(&mut socket), json!({ "ID": "8" }));
    socket.close(1001);
    assert_eq!(socket.hear(), Said::Close(Some(1001), String::new()));
    assert_eq!(socket.hear(), Said::End);
}

#[test]
fn a_call_of_one_answer_waits_for_the_end_of_what_is_said() {
    let server = Server::start();
    let mut socket = open(&server, "/v3/kv/put");
    socket.text(r#"{"key":"Zm9v"}"#);
    socket.close(1000);
    assert_eq!(socket.hear(), Said::Close(Some(1000), String::new()));
    assert_eq!(socket.hear(), Said::End);
    // What is wrong is told at once.
    let refused = |path: &str, said: &str, code: i64, text: &str| {
        let mut socket = open(&server, path);
        socket.text(said);
        let Said::Text(answer) = socket.hear() else { panic!("no text") };
        let answer: Value = serde_json::from_str(&answer.replace('\u{a0}', " ")).unwrap();
        assert_eq!(answer, json!({ "code": code, "message": text }));
        assert_eq!(socket.hear(), Said::End);
    };
    let text = r#"proto: (line 1:8): invalid value for bytes field key: "***""#;
    refused("/v3/kv/range", r#"{"key":"***"}"#, 3, text);
    refused("/v3/no/such", "{}", 5, "Not Found");
}

#[test]
fn who_breaks_the_protocol_is_told_how() {
    let server = Server::start();
    let told = |frame: &dyn Fn(&mut WebSocket), code: u16, text: &str| {
        let mut socket = open(&server, WATCH);
        frame(&mut socket);
        assert_eq!(socket.hear(), Said::Close(Some(code), text.to_owned()));
        assert_eq!(socket.hear(), Said::End);
    };
    told(&|socket| socket.raw(&[0x81, 2, b'{', b'}']), 1002, "bad MASK");
    told(&|socket| socket.frame(0xc1, b"{}"), 1002, "RSV1 set");
    told(&|socket| socket.frame(0x83, b"{}"), 1002, "bad opcode 3");
    told(&|socket| socket.frame(0x80, b"{}"), 1002, "continuation after FIN");
    told(&|socket| socket.ping(&[b'x'; 126]), 1002, "len > 125 for control");
    told(&|socket| socket.frame(9, b"x"), 1002, "FIN not set on control");
}

#[test]
fn an_upgrade_that_is_none_is_refused() {
    let server = Server::start();
    let address = server.client_address();
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "h2c, WebSocket")];
    let with = |more: &[(&'static str, &'static str)]| [&upgrade[..], more].concat();
    let key = ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==");
    let version = ("Sec-WebSocket-Version", "13");
    let cases = [
        ("GET", with(&[key]), 400, "Bad Request\n"),
        ("GET", with(&[version]), 400, "Bad Request\n"),
        ("GET", with(&[version, ("Sec-WebSocket-Key", "AAAA")]), 400, "Bad Request\n"),
        ("POST", with(&[version, key]), 405, "Method Not Allowed\n"),
    ];
    for (method, headers, status, text) in cases {
        let (_, answer) = WebSocket::ask(&address, method, WATCH, &headers);
        assert_eq!((answer.status, answer.text().as_str()), (status, text), "{headers:?}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    // Elsewhere nobody listens to it.
    let (_, answer) = WebSocket::open(&address, "/version", &[("Connection", "upgrade, close")]);
    assert_eq!(answer.status, 200);
    let bearer = [("Sec-WebSocket-Protocol", "Bearer, token")];
    let (_, answer) = WebSocket::open(&address, WATCH, &bearer);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("Bearer"));
    assert_eq!(get(&address, "/health").status, 200);
    assert_eq!(exchange(&address, "GET", WATCH, b"").status, 501);
}
