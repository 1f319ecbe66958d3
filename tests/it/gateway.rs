//! Calls as JSON over HTTP.

use norn_tests::http::{Answer, Lines, exchange, exchange_with, get, post};
use norn_tests::{Server, Setup};
use serde_json::{Value, json};

/// Posts JSON below `/v3`; the answer has this status.
#[track_caller]
fn asked(server: &Server, status: u16, path: &str, question: &Value) -> Value {
    let answer = exchange(
        &server.client_address(),
        "POST",
        &format!("/v3{path}"),
        question.to_string().as_bytes(),
    );
    assert_eq!(answer.status, status, "{path} {question}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

/// Without what differs from one cluster to the next.
fn plain(mut answer: Value) -> Value {
    if let Some(header) = answer["header"].as_object_mut() {
        assert!(header.remove("cluster_id").is_some() && header.remove("member_id").is_some());
    }
    answer
}

fn header(revision: &str) -> Value {
    json!({ "revision": revision, "raft_term": "2" })
}

fn foo(revision: &str, version: &str) -> Value {
    json!({
        "key": "Zm9v",
        "create_revision": "2",
        "mod_revision": revision,
        "version": version,
        "value": "YmFy",
    })
}

#[test]
fn keys_are_put_listed_and_deleted() {
    let server = Server::start();
    let put = json!({ "key": "Zm9v", "value": "YmFy" });
    assert_eq!(plain(asked(&server, 200, "/kv/put", &put)), json!({ "header": header("2") }));
    let get = json!({ "key": "Zm9v" });
    let listed = json!({ "header": header("2"), "kvs": [foo("2", "1")], "count": "1" });
    assert_eq!(plain(asked(&server, 200, "/kv/range", &get)), listed);
    // Either form of a name, of a number and of an enum; what is not known is passed over.
    for question in [
        json!({ "key": "Zm9v", "limit": 1, "sortOrder": "DESCEND", "min_mod_revision": "2" }),
        json!({ "key": "Zm9v", "limit": "1", "sort_order": 2, "minModRevision": 2, "x": [{}] }),
    ] {
        assert_eq!(plain(asked(&server, 200, "/kv/range", &question)), listed);
    }
    let old = exchange(&server.client_address(), "POST", "/v3beta/kv/range", br#"{"key":"Zm9v"}"#);
    assert_eq!(plain(old.json()), listed);
    let count = json!({ "key": "AA==", "range_end": "AA==", "count_only": true });
    let counted = asked(&server, 200, "/kv/range", &count);
    assert_eq!(plain(counted), json!({ "header": header("2"), "count": "1" }));
    let txn = json!({
        "compare": [{ "key": "Zm9v", "target": "VERSION", "result": "EQUAL", "version": "1" }],
        "success": [{ "request_put": put }, { "request_range": get }],
        "failure": [],
    });
    let done = plain(asked(&server, 200, "/kv/txn", &txn));
    let put_reply = json!({ "response_put": { "header": { "revision": "3" } } });
    let range_reply = json!({
        "response_range": { "header": { "revision": "3" }, "kvs": [foo("3", "2")], "count": "1" }
    });
    let responses = [put_reply, range_reply];
    let expected = json!({ "header": header("3"), "succeeded": true, "responses": responses });
    assert_eq!(done, expected);
    let gone = asked(&server, 200, "/kv/deleterange", &json!({ "key": "Zm9v", "prev_kv": true }));
    let expected = json!({ "header": header("4"), "deleted": "1", "prev_kvs": [foo("3", "2")] });
    assert_eq!(plain(gone), expected);
    asked(&server, 200, "/kv/compaction", &json!({ "revision": "3" }));
    let late = asked(&server, 400, "/kv/range", &json!({ "key": "Zm9v", "revision": "2" }));
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(late, json!({ "code": 11, "message": text }));
}

#[test]
fn refusals_have_the_code_the_text_and_a_status() {
    let server = Server::start();
    let refused = |status, path, question: Value, code: i64, text: &str| {
        let answer = asked(&server, status, path, &question);
        assert_eq!(answer, json!({ "code": code, "message": text }), "{path} {question}");
    };
    refused(400, "/kv/put", json!({}), 3, "etcdserver: key is not provided");
    refused(404, "/lease/revoke", json!({ "ID": "9" }), 5, "etcdserver: requested lease not found");
    let exists = json!({ "ID": "9", "TTL": "60" });
    asked(&server, 200, "/lease/grant", &exists);
    refused(400, "/lease/grant", exists, 9, "etcdserver: lease already exists");
    refused(404, "/no/such/path", json!({}), 5, "Not Found");
    refused(500, "/election/leader", json!({ "name": "ZQ==" }), 2, "election: no leader");
    let large = json!({ "key": "Zm9v", "value": "AAAA".repeat(800_000) });
    let text = format!("grpc: received message larger than max ({} vs. 2097152)", 2_400_010);
    refused(429, "/kv/put", large, 8, &text);

    let address = server.client_address();
    for method in ["GET", "PUT", "DELETE"] {
        let answer = exchange(&address, method, "/v3/kv/range", &[]);
        let expected = json!({ "code": 12, "message": "Method Not Allowed" });
        assert_eq!((answer.status, answer.json()), (501, expected), "{method}");
    }
    // An empty body is the empty message; one that ends early, or is no such message, is none.
    assert_eq!(post(&address, "/v3/lease/leases", b"").status, 200);
    assert_eq!(post(&address, "/v3/maintenance/status", b" \n").status, 200);
    let cut = post(&address, "/v3/kv/range", br#"{"key":"#);
    assert_eq!((cut.status, cut.json()), (400, json!({ "code": 3, "message": "unexpected EOF" })));
    assert_eq!(get(&address, "/health").status, 200);
}

/// (Go's protobuf puts a space of either width behind its name: which one is drawn when it is built.)
fn narrow(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text().replace('\u{a0}', " ")).expect("an answer is JSON")
}

#[test]
fn what_is_no_question_is_refused_with_its_place() {
    let server = Server::start();
    let address = server.client_address();
    let cases = [
        ("nonsense", "invalid character 'o' in literal null (expecting 'u')"),
        ("{\"key\":\"\x01\"}", "invalid character '\\x01' in string literal"),
        (r#"{"key" "Zm9v"}"#, "invalid character '\"' after object key"),
        (r#"{"key":"Zm9v",}"#, "invalid character '}' looking for beginning of object key string"),
        (r#"{"limit":01}"#, "invalid character '1' after object key:value pair"),
        (r#"{"key":"Zm9v""#, "unexpected EOF"),
        (r#"{"key":"***"}"#, r#"proto: (line 1:8): invalid value for bytes field key: "***""#),
        (r#"{"key":"Zm9v="}"#, r#"proto: (line 1:8): invalid value for bytes field key: "Zm9v=""#),
        (
            "{\n\"é\":{},\"limit\":\"x\"}",
            r#"proto: (line 2:16): invalid value for int64 field limit: "x""#,
        ),
        (
            r#"{"limit":9223372036854775808}"#,
            "proto: (line 1:10): invalid value for int64 field limit: 9223372036854775808",
        ),
        (r#"{"limit":1.5}"#, "proto: (line 1:10): invalid value for int64 field limit: 1.5"),
        (r#"{"limit":{}}"#, "proto: (line 1:10): invalid value for int64 field limit: {"),
        (r#"{"sort_order":[]}"#, "proto: (line 1:15): invalid value for enum field sortOrder: ["),
        (
            r#"{"keysOnly":"true"}"#,
            r#"proto: (line 1:13): invalid value for bool field keysOnly: "true""#,
        ),
        (r#"{"limit":1,"limit":2}"#, r#"proto: (line 1:12): duplicate field "limit""#),
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        ("  null", "proto: syntax error (line 1:1): unexpected token null"),
        (
            r#"{"x":"\ud800\u0041"}"#,
            r#"proto: syntax error (line 1:6): invalid escape code "\\u0041" in string"#,
        ),
    ];
    for (question, text) in cases {
        let answer = post(&address, "/v3/kv/range", question.as_bytes());
        let expected = json!({ "code": 3, "message": text });
        assert_eq!((answer.status, narrow(&answer)), (400, expected), "{question}");
    }
    let cases = [
        (r#"{"compare":{}}"#, "proto: syntax error (line 1:12): unexpected token {"),
        (r#"{"compare":[null]}"#, "proto: syntax error (line 1:13): unexpected token null"),
        (
            r#"{"success":[{"request_put":{},"requestRange":{}}]}"#,
            r#"proto: (line 1:31): error parsing "requestRange", oneof etcdserverpb.RequestOp.request is already set"#,
        ),
    ];
    for (question, text) in cases {
        let answer = post(&address, "/v3/kv/txn", question.as_bytes());
        let expected = json!({ "code": 3, "message": text });
        assert_eq!((answer.status, narrow(&answer)), (400, expected), "{question}");
    }
    let broken = post(&address, "/v3/kv/range", b"{\"key\":\"\xff\"}");
    let text = "proto: syntax error (line 1:8): invalid UTF-8 in string";
    assert_eq!(narrow(&broken), json!({ "code": 3, "message": text }));
    // Odd, and understood: what follows the question is nobody's business, nor is what follows a number in a string.
    asked(&server, 200, "/kv/put", &json!({ "key": "Zm9v", "value": "YmFy" }));
    for question in [
        r#"{"key":"Zm\n9v","limit":"1 x","sort_order":"SIDEWAYS","revision":null} trailing"#,
        r#"{"k\u0065y":"Zm9v","limit":10e-1,"sort_order":1.0}{"#,
    ] {
        let answer = post(&address, "/v3/kv/range", question.as_bytes());
        assert_eq!((answer.status, &answer.json()["count"]), (200, &json!("1")), "{question}");
    }
}

#[test]
fn paths_and_headers_are_read_as_etcd_reads_them() {
    let server = Server::start();
    let address = server.client_address();
    let sent = |method, path: &str| {
        let answer = exchange(&address, method, path, &[]);
        let kind = answer.header("content-type").map(str::to_owned);
        (answer.status, answer.header("location").map(str::to_owned), kind, answer.text())
    };
    let html = Some("text/html; charset=utf-8".to_owned());
    let to = |location: &str| Some(location.to_owned());
    let link = |to: &str| format!("<a href=\"{to}\">Temporary Redirect</a>.\n\n");
    assert_eq!(sent("GET", "/v3"), (307, to("/v3/"), html.clone(), link("/v3/")));
    assert_eq!(sent("GET", "/v3?a&b"), (307, to("/v3/?a&b"), html.clone(), link("/v3/?a&amp;b")));
    assert_eq!(sent("POST", "//v3/./kv/range"), (307, to("/v3/kv/range"), None, String::new()));
    assert_eq!(sent("GET", "/v3/../h%61!"), (307, to("/h%2561%21"), html, link("/h%2561%21")));
    assert_eq!(sent("GET", "/v3/%zz").0, 400);
    for path in ["/v3/", "/v3/kv", "/v3/kv/range/", "/v3/nothing"] {
        let answer = exchange(&address, "GET", path, &[]);
        let expected = json!({ "code": 5, "message": "Not Found" });
        assert_eq!((answer.status, answer.json()), (404, expected), "{path}");
    }
    let range = br#"{"key":"Zm9v"}"#;
    assert_eq!(post(&address, "/%763/kv/r%61nge", range).status, 200);

    let with = |name, value, path| {
        let form = ("Content-Type", "application/x-www-form-urlencoded");
        let answer = exchange_with(&address, "POST", path, &[form, (name, value)], range);
        let body = answer.json();
        (answer.status, body["message"].as_str().unwrap_or_default().to_owned())
    };
    let path = "/v3/kv/range";
    let cases = [
        ("Grpc-Timeout", "x", 400, "invalid grpc-timeout: x"),
        ("Grpc-Timeout", "-5S", 504, "context deadline exceeded"),
        ("Grpc-Timeout", "0S", 200, ""),
        ("X-HTTP-Method-Override", "get", 501, "Method Not Allowed"),
        // (The form has eaten the question.)
        ("X-HTTP-Method-Override", "post", 400, "etcdserver: key is not provided"),
        (
            "Grpc-Metadata-X-Bin",
            "***",
            400,
            "invalid binary header Grpc-Metadata-X-Bin: illegal base64 data at input byte 0",
        ),
        ("Grpc-Metadata-X-Bin", "AAAA", 200, ""),
    ];
    for (name, value, status, text) in cases {
        assert_eq!(with(name, value, path), (status, text.to_owned()), "{name}: {value}");
    }
    // A stream that says nothing has no type, but pieces.
    let silent = post(&address, "/v3/lease/keepalive", b"x");
    assert_eq!((silent.status, silent.text().as_str()), (200, ""));
    assert_eq!(
        (silent.header("content-type"), silent.header("transfer-encoding")),
        (None, Some("chunked"))
    );
}

#[test]
fn streams_are_a_line_for_each_answer() {
    let server = Server::start();
    let address = server.client_address();
    asked(&server, 200, "/kv/put", &json!({ "key": "Zm9v", "value": "YmFy" }));
    let create = br#"{"create_request":{"key":"Zm9v","start_revision":"1"}}"#;
    let mut watch = Lines::post(&address, "/v3/watch", create).unwrap();
    let mut next = || plain(watch.next().expect("one more line")["result"].take());
    assert_eq!(next(), json!({ "header": header("2"), "created": true }));
    let events = json!([{ "kv": foo("2", "1") }]);
    assert_eq!(next(), json!({ "header": header("2"), "events": events }));
    asked(&server, 200, "/kv/deleterange", &json!({ "key": "Zm9v" }));
    let events = json!([{ "type": "DELETE", "kv": { "key": "Zm9v", "mod_revision": "3" } }]);
    assert_eq!(next(), json!({ "header": header("3"), "events": events }));

    // Two questions, two answers, and the end.
    asked(&server, 200, "/lease/grant", &json!({ "ID": "7", "TTL": "600" }));
    let renewals = Lines::post(&address, "/v3/lease/keepalive", br#"{"ID":"7"} {"ID":"8"}"#);
    let renewals: Vec<Value> = renewals.unwrap().map(|mut l| plain(l["result"].take())).collect();
    let known = json!({ "header": header("3"), "ID": "7", "TTL": "600" });
    assert_eq!(renewals, [known, json!({ "header": header("3"), "ID": "8" })]);

    let blobs: Vec<Value> =
        Lines::post(&address, "/v3/maintenance/snapshot", b"").unwrap().collect();
    assert!(blobs.len() > 1);
    // (The last one is the checksum: 32 bytes, as base64.)
    let last = &blobs[blobs.len() - 1]["result"];
    assert_eq!(
        (last["blob"].as_str().unwrap().len(), &last["remaining_bytes"]),
        (44, &Value::Null)
    );
    let lease = json!({ "name": "ZQ==", "value": "YQ==", "lease": "7" });
    asked(&server, 200, "/election/campaign", &lease);
    let mut leaders = Lines::post(&address, "/v3/election/observe", br#"{"name":"ZQ=="}"#).unwrap();
    assert_eq!(leaders.next().unwrap()["result"]["kv"]["value"], "YQ==");
}

fn allowed(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[test]
fn browsers_are_told_who_may_ask() {
    let server = Server::start();
    let address = server.client_address();
    for (method, path) in
        [("GET", "/health"), ("POST", "/v3/kv/range"), ("GET", "/no"), ("OPTIONS", "/")]
    {
        let answer = exchange(&address, method, path, b"{}");
        assert_eq!(allowed(&answer), Some("*"), "{method} {path}");
        let methods = answer.header("access-control-allow-methods");
        assert_eq!(methods, Some("POST, GET, OPTIONS, PUT, DELETE"));
        let headers = answer.header("access-control-allow-headers");
        assert_eq!(headers, Some("accept, content-type, authorization"));
    }
    let preflight = exchange(&address, "OPTIONS", "/v3/kv/range", &[]);
    assert_eq!((preflight.status, preflight.text().as_str()), (200, ""));

    let setup = Setup::quick().flag("--cors=http://a.example:80,http://b.example:80");
    let server = Server::start_with(setup);
    let from = |origin| {
        exchange_with(&server.client_address(), "GET", "/health", &[("Origin", origin)], &[])
    };
    assert_eq!(allowed(&from("http://b.example:80")), Some("http://b.example:80"));
    let foreign = from("http://c.example:80");
    assert_eq!((foreign.status, allowed(&foreign)), (200, None));
}

#[test]
fn a_host_that_is_not_listed_is_refused() {
    let server = Server::start_with(Setup::quick().flag("--host-whitelist=good.example,localhost"));
    let to = |host| {
        exchange_with(&server.client_address(), "GET", "/health", &[("Host", host)], &[]).status
    };
    assert_eq!((to("good.example"), to("good.example:2379"), to("localhost:1")), (200, 200, 200));
    assert_eq!((to("evil.example"), to("127.0.0.1")), (421, 421));
    // (gRPC is no browser's business.)
    asked_over_grpc(&server);
}

fn asked_over_grpc(server: &Server) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { server.client().status().await.unwrap() });
}

#[test]
fn without_the_gateway_there_are_no_such_paths() {
    let server = Server::start_with(Setup::quick().flag("--enable-grpc-gateway=false"));
    let answer = post(&server.client_address(), "/v3/kv/range", br#"{"key":"Zm9v"}"#);
    assert_eq!((answer.status, answer.text().as_str()), (404, "404 page not found\n"));
}
