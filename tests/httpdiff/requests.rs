//! What is asked: every path of the gateway with a good question, the pages beside it, and both bent out of shape.

use std::fmt;

use norn_tests::rng::Rng;

use crate::pieces::PIECES;

#[derive(Clone, Debug)]
pub struct Ask {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        self.headers.iter().try_for_each(|(name, value)| write!(f, " [{name}: {value}]"))?;
        write!(f, " {:?}", String::from_utf8_lossy(&self.body))
    }
}

/// (path, a question that may be asked any number of times, on one member, and always ends)
#[rustfmt::skip]
const QUESTIONS: &[(&str, &str)] = &[
    ("/kv/range", r#"{"key":"Zm9v","range_end":"Zm9w","limit":"3","sort_order":"DESCEND","sort_target":"MOD","count_only":false}"#),
    ("/kv/range", r#"{"key":"AA==","rangeEnd":"AA==","serializable":true,"keys_only":true,"min_mod_revision":2}"#),
    ("/kv/put", r#"{"key":"Zm9v","value":"YmFy","lease":"0","prev_kv":true}"#),
    ("/kv/put", r#"{"key":"Zm9vMQ==","value":"PD4m","ignore_value":false}"#),
    ("/kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
    ("/kv/txn", r#"{"compare":[{"key":"Zm9v","target":"VERSION","result":"GREATER","version":"0"}],"success":[{"request_put":{"key":"Zm9v","value":"YmFy"}},{"request_range":{"key":"Zm9v"}}],"failure":[{"request_delete_range":{"key":"Zm9v"}}]}"#),
    ("/kv/compaction", r#"{"revision":"2","physical":false}"#),
    ("/lease/grant", r#"{"TTL":"6000","ID":"77"}"#),
    ("/lease/revoke", r#"{"ID":"77"}"#),
    ("/kv/lease/revoke", r#"{"ID":"78"}"#),
    ("/lease/keepalive", r#"{"ID":"77"}{"ID":"5"}"#),
    ("/lease/timetolive", r#"{"ID":"77","keys":true}"#),
    ("/kv/lease/timetolive", r#"{"ID":"6"}"#),
    ("/lease/leases", "{}"),
    ("/kv/lease/leases", "{}"),
    ("/cluster/member/add", r#"{"peerURLs":["x"],"isLearner":true}"#),
    ("/cluster/member/remove", r#"{"ID":"5"}"#),
    ("/cluster/member/update", r#"{"ID":"5","peerURLs":["http://127.0.0.1:1"]}"#),
    ("/cluster/member/promote", r#"{"ID":"5"}"#),
    ("/cluster/member/list", r#"{"linearizable":true}"#),
    ("/maintenance/alarm", r#"{"action":"GET","memberID":"0","alarm":"NONE"}"#),
    ("/maintenance/status", "{}"),
    ("/maintenance/defragment", "{}"),
    ("/maintenance/hashkv", r#"{"revision":"0"}"#),
    ("/maintenance/hash", "{}"),
    ("/maintenance/snapshot", "{}"),
    ("/maintenance/transfer-leadership", r#"{"targetID":"5"}"#),
    ("/auth/status", "{}"),
    ("/lock/lock", r#"{"name":"bA==","lease":"999"}"#),
    ("/lock/unlock", r#"{"key":"bA=="}"#),
    ("/election/campaign", r#"{"name":"ZQ==","lease":"999","value":"YQ=="}"#),
    ("/election/leader", r#"{"name":"ZQ=="}"#),
];

/// Asked with what is refused before the call: a watch and an observation do not end, and the rest would found another
/// cluster or is not served by Norn yet.
const REFUSED: &[&str] = &[
    "/maintenance/downgrade",
    "/election/proclaim",
    "/election/observe",
    "/election/resign",
    "/auth/enable",
    "/auth/disable",
    "/auth/authenticate",
    "/auth/user/add",
    "/auth/user/get",
    "/auth/user/list",
    "/auth/user/delete",
    "/auth/user/changepw",
    "/auth/user/grant",
    "/auth/user/revoke",
    "/auth/role/add",
    "/auth/role/get",
    "/auth/role/list",
    "/auth/role/delete",
    "/auth/role/grant",
    "/auth/role/revoke",
];

/// (Not `/debug/vars`, a Go program's own page; nor angle brackets in a query, which HTTP forbids, hyper refuses and Go takes.)
const PAGES: &[&str] = &[
    "/health",
    "/health?serializable=true",
    "/health?exclude=NOSPACE&exclude=CORRUPT",
    "/health?exclude=%4eOSPACE",
    "/livez",
    "/livez?verbose",
    "/livez?exclude=serializable_read",
    "/livez?exclude=serializable%5Fread&verbose",
    "/livez/serializable_read",
    "/livez/serializable_read?verbose=1",
    "/livez/nothing",
    "/livez/",
    "/readyz",
    "/readyz/data_corruption",
    "/readyz/linearizable_read",
    "/readyz/non_learner?verbose",
    "/readyz?exclude=non_learner",
    "/readyz?exclude=a;b",
    "/version",
    "/version/",
    "/version?x=%zz",
    "/",
    "/v3",
    "/v3/",
    "/v3?x=&y",
    "/v3beta",
    "/v3beta/kv/range",
    "/v3alpha/kv/range",
    "//version",
    "/./health",
    "/v3/../version",
    "/v3/kv/%2e%2e/x",
    "/ver%73ion",
    "/v2/keys",
    "/v2/stats/self",
    "/members",
    "/debug/pprof/",
    "/proxy/health",
    "/%zz",
    "/a%",
    "/caf%C3%A9//",
];

const METHODS: &[&str] =
    &["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "BREW", "get"];

const HEADERS: &[(&str, &str)] = &[
    ("Content-Type", "application/x-www-form-urlencoded"),
    ("Content-Type", "text/plain"),
    ("X-HTTP-Method-Override", "GET"),
    ("X-HTTP-Method-Override", "post"),
    ("Grpc-Timeout", "5S"),
    ("Grpc-Timeout", "-1H"),
    ("Grpc-Timeout", "5"),
    ("Grpc-Timeout", "S"),
    ("Grpc-Timeout", "00x"),
    ("Grpc-Metadata-Hasleader", "true"),
    ("Grpc-Metadata-X-Bin", "_"),
    ("Grpc-Metadata-X-Bin", "AAA"),
    ("Grpc-Metadata-Content-Type", "x"),
    ("Authorization", "Bearer x"),
    ("Accept", "text/html"),
    ("Accept-Encoding", "gzip"),
    ("Origin", "http://elsewhere.example"),
    ("Host", "elsewhere.example"),
    ("Cookie", "token=x"),
    ("Upgrade", "h2c"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("Sec-WebSocket-Key", "x"),
];

fn ask(method: &'static str, path: impl Into<String>, body: &[u8]) -> Ask {
    Ask { method, path: path.into(), headers: Vec::new(), body: body.to_vec() }
}

/// The same ones every time.
pub fn recorded() -> Vec<Ask> {
    let post = |(path, body): &(&str, &str)| ask("POST", format!("/v3{path}"), body.as_bytes());
    let mut all: Vec<Ask> = QUESTIONS.iter().map(post).collect();
    // (Once more, now that there is something; and what is wrong in a way of its own.)
    all.extend(QUESTIONS.iter().map(post));
    for (path, _) in QUESTIONS {
        all.extend(["", "x", "null", "{]", "{\"", "[{}]"].map(|body| post(&(path, body))));
        all.extend(METHODS.iter().map(|method| ask(method, format!("/v3{path}"), b"")));
    }
    for path in REFUSED {
        all.extend(["x", "null", "{]", "{\"", "[{}]"].map(|body| post(&(path, body))));
        all.push(ask("GET", format!("/v3{path}"), b""));
    }
    for path in PAGES {
        all.extend(["GET", "POST", "OPTIONS"].map(|method| ask(method, *path, b"")));
    }
    for (name, value) in HEADERS {
        let mut with = post(&QUESTIONS[0]);
        with.headers.push((name, (*value).to_owned()));
        all.push(with);
    }
    all.retain(ends);
    all
}

pub fn generated(rng: &mut Rng) -> Ask {
    loop {
        let ask = one(rng);
        if ends(&ask) {
            return ask;
        }
    }
}

fn one(rng: &mut Rng) -> Ask {
    if rng.chance(10) {
        return ask(rng.pick::<&'static str>(METHODS), *rng.pick(PAGES), b"");
    }
    let (path, body) = if rng.chance(10) {
        (*rng.pick(REFUSED), bent(rng, br#"{"name":"x"}"#))
    } else {
        let (path, body) = rng.pick(QUESTIONS);
        (*path, if rng.chance(20) { body.as_bytes().to_vec() } else { bent(rng, body.as_bytes()) })
    };
    let prefix = if rng.chance(5) { "/v3beta" } else { "/v3" };
    let mut ask = ask("POST", format!("{prefix}{path}"), &body);
    if rng.chance(5) {
        ask.method = *rng.pick::<&'static str>(METHODS);
    }
    if rng.chance(10) {
        let (name, value) = rng.pick(HEADERS);
        ask.headers.push((name, (*value).to_owned()));
    }
    ask
}

fn bent(rng: &mut Rng, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    for _ in 0..=rng.below(3) {
        let at = rng.below(body.len() as u64 + 1) as usize;
        let len = rng.below((body.len() - at).min(12) as u64 + 1) as usize;
        let piece = rng.pick(PIECES).as_bytes();
        match rng.below(5) {
            0 => body.truncate(at),
            1 => drop(body.drain(at..at + len)),
            2 => drop(body.splice(at..at + len, piece.iter().copied())),
            3 if at < body.len() => body[at] = rng.below(256) as u8,
            _ => drop(body.splice(at..at, piece.iter().copied())),
        }
    }
    body
}

/// What does not is left out: a call that waits, one whose answer is drawn, and those that Norn does not serve, when what they are
/// asked may be understood.
fn ends(ask: &Ask) -> bool {
    let is_asked =
        ask.method == "POST" || ask.headers.iter().any(|(name, _)| name.contains("Override"));
    let text = String::from_utf8_lossy(&ask.body);
    let first = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>().next();
    // (Nothing at all is understood as well.)
    let is_understood = first.is_none_or(|value| value.is_ok_and(|value| value.is_object()));
    let waits = REFUSED.iter().any(|path| ask.path.ends_with(path))
        || ["/lock/lock", "/election/campaign", "/lease/grant"].iter().any(|path| {
            // (Who names no lease gets one that is drawn.)
            ask.path.ends_with(path) && !QUESTIONS.iter().any(|(p, b)| p == path && *b == text)
        });
    !(is_asked && waits && is_understood)
}
