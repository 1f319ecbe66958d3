//! What etcd shows of its inside over HTTP: variables on every client URL, and with `--enable-pprof` the paths of Go's profiler.

use std::time::Duration;

use http::header::CONTENT_DISPOSITION;
use http::{HeaderValue, Response, Uri};
use norn_raft::{ProgressState, Role};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::client::{PLAIN, page};
use crate::config::ServerConfig;
use crate::core::Core;
use crate::go_paths;
use crate::profiles::{MOMENTS, Moment, status_bytes};
use crate::runtime::profile::Sampling;
use crate::runtime::time;

const HTML: &str = "text/html; charset=utf-8";
const PPROF: &str = "/debug/pprof/";
/// How long a profile is taken if nobody says it (as in Go), and at most: it is memory, and an interrupted thread, for so long.
const PROFILE_SECONDS: u64 = 30;
const PROFILE_SECONDS_MAX: u64 = 600;
const SERVED: &[(&str, &str)] = &[
    ("cmdline", "The command line of this process"),
    ("profile", "CPU profile, over the seconds given as ?seconds=N: go tool pprof reads it"),
    ("symbol", "Looks up no program counters: profiles have names"),
];
/// `None`: nothing is there.
pub async fn serve(core: &Core, config: &ServerConfig, uri: &Uri) -> Option<Response<Body>> {
    let path = uri.path();
    if path == "/debug/vars" {
        return Some(page(200, "application/json; charset=utf-8", variables(core)));
    }
    let is_tracing = matches!(path, "/debug/requests" | "/debug/events") && config.is_debugging;
    if is_tracing {
        let rows = if path == "/debug/requests" { requests(core) } else { String::new() };
        return Some(page(200, HTML, table(path, &rows)));
    }
    let name = path.strip_prefix(PPROF)?;
    if !config.pprof && !config.is_debugging {
        return None;
    }
    Some(match name {
        "" => page(200, HTML, index()),
        "cmdline" => page(200, PLAIN, arguments().join("\0")),
        // (As a Go program answers of which no symbol is known.)
        "symbol" => page(200, PLAIN, "num_symbols: 0\n"),
        "profile" => profile(uri.query().unwrap_or_default()).await,
        // (A format of Go's runtime alone.)
        "trace" => page(501, PLAIN, format!("Norn makes no trace: there is {PPROF}profile.\n")),
        name => {
            let moment = Moment::take(name, core)?;
            if is_for_people(uri.query().unwrap_or_default()) {
                page(200, PLAIN, moment.text())
            } else {
                attachment(name, moment.file())
            }
        }
    })
}

/// Where the CPU time goes for so many `seconds`.
async fn profile(query: &str) -> Response<Body> {
    // (What is no number counts for none, as in Go.)
    let seconds = number(query, "seconds").filter(|seconds| *seconds > 0);
    let seconds = seconds.map_or(PROFILE_SECONDS, i64::unsigned_abs);
    if seconds > PROFILE_SECONDS_MAX {
        let text = format!("profile duration exceeds {PROFILE_SECONDS_MAX} seconds\n");
        return page(400, PLAIN, text);
    }
    let taken = match Sampling::start() {
        Err(error) => Err(error),
        Ok(sampling) => {
            time::sleep(Duration::from_secs(seconds)).await;
            sampling.finish().await
        }
    };
    match taken {
        Ok(taken) => attachment("profile", taken),
        Err(error) => {
            let mut response =
                page(500, PLAIN, format!("Could not enable CPU profiling: {error}\n"));
            response.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
            response
        }
    }
}

fn arguments() -> Vec<String> {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

fn attachment(name: &str, profile: Vec<u8>) -> Response<Body> {
    let mut response = page(200, "application/octet-stream", profile);
    if let Ok(name) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    response
}

/// `?debug=1` and above.
fn is_for_people(query: &str) -> bool {
    number(query, "debug").is_some_and(|level| level != 0)
}

fn number(query: &str, name: &str) -> Option<i64> {
    go_paths::asked(query, name).first()?.parse().ok()
}

fn index() -> String {
    let row = |(name, what): &(&str, &str)| {
        format!("<tr><td><a href='{name}'>{name}</a></td><td>{what}</td></tr>\n")
    };
    let rows: String = SERVED.iter().chain(MOMENTS).map(row).collect();
    table(PPROF, &rows)
}

/// Of each method how many requests there were, and how they ended.
fn requests(core: &Core) -> String {
    let mut rows =
        String::from("<tr><th>request</th><th>active</th><th>OK</th><th>failed</th></tr>\n");
    for asked in core.grpc_metrics.borrow().requests() {
        let (service, method) = (asked.labels.service, asked.labels.method);
        let active = asked.started.saturating_sub(asked.ok + asked.failed);
        rows.push_str(&format!(
            "<tr><td>{service}/{method}</td><td>{active}</td><td>{}</td><td>{}</td></tr>\n",
            asked.ok, asked.failed
        ));
    }
    rows
}

fn table(title: &str, rows: &str) -> String {
    format!(
        "<html>\n<head>\n<title>{title}</title>\n</head>\n<body>\n{title}\n<table>\n{rows}</table>\n\
         </body>\n</html>\n"
    )
}

/// Under the names of Go's `expvar`. Of `memstats`, which is Go's runtime, there is what the system knows.
fn variables(core: &Core) -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.unwrap_or(u64::MAX);
    let (resident, own) = (status_bytes("VmRSS:"), status_bytes("RssAnon:"));
    let memory = json!({ "Alloc": own, "Sys": resident, "HeapAlloc": own, "HeapInuse": own });
    let arguments = Value::from(arguments());
    let raft = raft(core);
    format!(
        "{{\n\"cmdline\": {arguments},\n\"file_descriptor_limit\": {limit},\n\"memstats\": {memory},\n\
         \"raft.status\": {raft}\n}}\n"
    )
}

fn raft(core: &Core) -> String {
    core.with_node(|node| {
        let status = node.raft().status();
        let role = match status.role {
            Role::Leader => "StateLeader",
            Role::Follower => "StateFollower",
            Role::Candidate => "StateCandidate",
            Role::PreCandidate => "StatePreCandidate",
        };
        let mut progress = Map::new();
        if status.role == Role::Leader {
            for (id, peer) in node.raft().progress() {
                let state = match peer.state {
                    ProgressState::Probe => "StateProbe",
                    ProgressState::Replicate => "StateReplicate",
                    ProgressState::Snapshot => "StateSnapshot",
                };
                let (matched, next) = (peer.matched.0, peer.next.0);
                let peer = json!({ "match": matched, "next": next, "state": state });
                progress.insert(format!("{:x}", id.0), peer);
            }
        }
        let hex = |id: norn_raft::NodeId| format!("{:x}", id.0);
        let hard = status.hard_state;
        format!(
            "{{\"id\":\"{}\",\"term\":{},\"vote\":\"{}\",\"commit\":{},\"lead\":\"{}\",\
             \"raftState\":\"{role}\",\"applied\":{},\"progress\":{},\"leadtransferee\":\"{}\"}}",
            hex(status.id),
            hard.term.0,
            hex(hard.vote),
            hard.commit.0,
            hex(status.leader),
            node.applied(),
            Value::from(progress),
            hex(status.leader_transferee),
        )
    })
}
