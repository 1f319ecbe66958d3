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
use crate::runtime::profile::Sampling;
use crate::runtime::time;

const PPROF: &str = "/debug/pprof/";
/// How long a profile is taken if nobody says it (as in Go), and at most: it is memory, and an interrupted thread, for so long.
const PROFILE_SECONDS: u64 = 30;
const PROFILE_SECONDS_MAX: u64 = 600;
const SERVED: &[(&str, &str)] = &[
    ("cmdline", "The command line of this process"),
    ("profile", "CPU profile, over the seconds given as ?seconds=N: go tool pprof reads it"),
    ("symbol", "Looks up no program counters: profiles have names"),
];
/// Profiles that Go's runtime makes of itself and that nothing here has: name and what it would be.
const PROFILES: &[(&str, &str)] = &[
    ("allocs", "A sampling of all past memory allocations"),
    ("block", "Stack traces that led to blocking on synchronization primitives"),
    ("goroutine", "Stack traces of all current goroutines"),
    ("heap", "A sampling of memory allocations of live objects"),
    ("mutex", "Stack traces of holders of contended mutexes"),
    ("threadcreate", "Stack traces that led to the creation of new OS threads"),
    ("trace", "A trace of execution of the current program"),
];

/// `None`: nothing is there.
pub async fn serve(core: &Core, config: &ServerConfig, uri: &Uri) -> Option<Response<Body>> {
    let path = uri.path();
    if path == "/debug/vars" {
        return Some(page(200, "application/json; charset=utf-8", variables(core)));
    }
    let is_tracing = matches!(path, "/debug/requests" | "/debug/events") && config.is_debugging;
    if is_tracing {
        return Some(page(501, PLAIN, "Norn keeps no traces of requests.\n"));
    }
    let name = path.strip_prefix(PPROF)?;
    if !config.pprof && !config.is_debugging {
        return None;
    }
    Some(match name {
        "" => page(200, "text/html; charset=utf-8", index()),
        "cmdline" => page(200, PLAIN, arguments().join("\0")),
        // (As a Go program answers of which no symbol is known.)
        "symbol" => page(200, PLAIN, "num_symbols: 0\n"),
        "profile" => profile(uri.query().unwrap_or_default()).await,
        name => {
            let (name, _) = PROFILES.iter().find(|(known, _)| *known == name)?;
            let text = format!("Norn makes no {name} profile: there is {PPROF}profile.\n");
            page(501, PLAIN, text)
        }
    })
}

/// Where the CPU time goes for so many `seconds`.
async fn profile(query: &str) -> Response<Body> {
    let seconds = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    // (What is no number counts for none, as in Go.)
    let seconds = seconds.and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
    let seconds = seconds.unwrap_or(PROFILE_SECONDS);
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
        Ok(taken) => {
            let mut response = page(200, "application/octet-stream", taken);
            let name = HeaderValue::from_static("attachment; filename=\"profile\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            response
        }
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

fn index() -> String {
    let mut rows = String::new();
    for (name, what) in SERVED {
        rows.push_str(&format!("<tr><td><a href='{name}'>{name}</a></td><td>{what}</td></tr>\n"));
    }
    for (name, what) in PROFILES {
        rows.push_str(&format!("<tr><td>{name}</td><td>{what}: not made by Norn</td></tr>\n"));
    }
    format!(
        "<html>\n<head>\n<title>{PPROF}</title>\n</head>\n<body>\n{PPROF}\n<table>\n{rows}</table>\n\
         </body>\n</html>\n"
    )
}

/// Under the names of Go's `expvar`. Of `memstats`, which is Go's runtime, there is what the system knows.
fn variables(core: &Core) -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.unwrap_or(u64::MAX);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kb =
            line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kb.unwrap_or(0) * 1024
    };
    let (resident, own) = (bytes("VmRSS:"), bytes("RssAnon:"));
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
