//! watch: one watch from the command line, or many from stdin with `-i`; events are printed, or handed to a command.

use std::time::Duration;

use bytes::Bytes;
use norn_proto::{etcdserverpb as pb, mvccpb};
use pb::watch_request::RequestUnion;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codec::Streaming;

use crate::commands::{Context, grammar, spec};
use crate::connect::{Client, Failure};
use crate::exit::{self, Exit, Outcome, bad_args, failed};
use crate::flags::Line;
use crate::go;
use crate::print::{Reply, prefix_end};
use crate::txn::words;

/// What to watch and what to run per event.
#[derive(Debug, PartialEq)]
struct Wish {
    request: pb::WatchCreateRequest,
    command: Vec<String>,
}

pub async fn watch(c: &Context) -> Outcome {
    if c.line.bool("interactive") {
        return interactive(c).await;
    }
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let wish = wish(&c.line, &env("ETCDCTL_WATCH_KEY"), &env("ETCDCTL_WATCH_RANGE_END"))?;
    let client = c.client().await?;
    let (mut requests, mut replies) = open(&client, wish.request.clone()).await?;
    let mut state = State { next_revision: wish.request.start_revision };
    loop {
        match replies.message().await {
            Ok(Some(reply)) => state.show(c, &reply, &wish.command).await?,
            end => {
                // The connection went away: go on where it ended, on any endpoint, as etcd's client does.
                if let Err(e) = end
                    && !matches!(
                        e.code(),
                        tonic::Code::Unavailable
                            | tonic::Code::Cancelled
                            | tonic::Code::Unknown
                            | tonic::Code::Internal
                    )
                {
                    return canceled(&Failure(e).to_string());
                }
                drop(requests);
                tokio::time::sleep(REOPEN).await;
                let client = c.client().await?;
                let request = pb::WatchCreateRequest {
                    start_revision: state.next_revision,
                    ..wish.request.clone()
                };
                (requests, replies) = open(&client, request).await?;
            }
        }
    }
}

/// Pause before a broken stream is opened again.
const REOPEN: Duration = Duration::from_millis(100);

type Requests = mpsc::UnboundedSender<pb::WatchRequest>;

/// A stream with its first watch: servers may keep back even the headers until there is something to answer.
async fn open(
    client: &Client,
    first: pb::WatchCreateRequest,
) -> Result<(Requests, Streaming<pb::WatchResponse>), Failure> {
    let (requests, receiver) = mpsc::unbounded_channel();
    let stream = UnboundedReceiverStream::new(receiver);
    send(&requests, RequestUnion::CreateRequest(first));
    let replies = client.duplex("/etcdserverpb.Watch/Watch", stream, true).await?;
    Ok((requests, replies))
}

fn send(requests: &Requests, union: RequestUnion) {
    // A closed stream shows up as the end of the replies.
    let _ = requests.send(pb::WatchRequest { request_union: Some(union) });
}

fn canceled(reason: &str) -> Outcome {
    eprintln!("watch was canceled ({reason})");
    Err(Exit::new(exit::INTERRUPTED, "watch is canceled by the server"))
}

struct State {
    /// Where a watch that is opened again starts; 0 while unknown.
    next_revision: i64,
}

impl State {
    async fn show(
        &mut self,
        c: &Context,
        reply: &pb::WatchResponse,
        command: &[String],
    ) -> Outcome {
        if reply.canceled {
            let reason = match reply.compact_revision {
                0 => reply.cancel_reason.as_str(),
                _ => "etcdserver: mvcc: required revision has been compacted",
            };
            return canceled(reason);
        }
        let revision = reply.header.map_or(0, |h| h.revision);
        if reply.created {
            if self.next_revision == 0 {
                self.next_revision = revision + 1;
            }
            return Ok(());
        }
        if let Some(kv) = reply.events.last().and_then(|e| e.kv.as_ref()) {
            self.next_revision = kv.mod_revision + 1;
        }
        c.printer.print(&Reply::Watch(reply))?;
        if let [program, args @ ..] = command {
            for event in &reply.events {
                run(program, args, revision, event).await?;
            }
        }
        Ok(())
    }
}

async fn run(program: &str, args: &[String], revision: i64, event: &mvccpb::Event) -> Outcome {
    let kv = event.kv.clone().unwrap_or_default();
    let kind = event.r#type().as_str_name();
    let status = tokio::process::Command::new(program)
        .args(args)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quote(kind.as_bytes()))
        .env("ETCD_WATCH_KEY", go::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", go::quote(&kv.value))
        .status()
        .await;
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("exit status {}", status.code().unwrap_or(-1)),
        Err(e) => e.to_string(),
    };
    let words: Vec<&str> =
        std::iter::once(program).chain(args.iter().map(String::as_str)).collect();
    eprintln!("command {:?} error ({why})", words);
    failed("")
}

/// Key and range from the words, or from the environment when there are none.
fn wish(line: &Line, env_key: &str, env_end: &str) -> Outcome<Wish> {
    let split = line.dash_at.unwrap_or(line.args.len());
    let (words, command) = line.args.split_at(split);
    let (key, end) = match words {
        [] if !env_key.is_empty() => (env_key, env_end),
        [key] => (key.as_str(), ""),
        [key, end] => (key.as_str(), end.as_str()),
        _ => return bad_args("bad number of arguments"),
    };
    let mut key = key.as_bytes().to_vec();
    let mut end = end.as_bytes().to_vec();
    if line.bool("prefix") {
        if !end.is_empty() {
            return bad_args("`range_end` and `--prefix` are mutually exclusive");
        }
        end = if key.is_empty() { vec![0] } else { prefix_end(&key) };
        if key.is_empty() {
            key = vec![0];
        }
    }
    Ok(Wish {
        request: pb::WatchCreateRequest {
            key: Bytes::from(key),
            range_end: Bytes::from(end),
            start_revision: line.int("rev"),
            prev_kv: line.bool("prev-kv"),
            progress_notify: line.bool("progress-notify"),
            ..Default::default()
        },
        command: command.to_vec(),
    })
}

async fn interactive(c: &Context) -> Outcome {
    let client = c.client().await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stream: Option<(Requests, Streaming<pb::WatchResponse>)> = None;
    // Commands by watch id; ids count up from 0 on one stream in the order of creation.
    let mut commands: Vec<Vec<String>> = Vec::new();
    let mut state = State { next_revision: 0 };
    loop {
        let reply = async {
            match &mut stream {
                Some((_, replies)) => replies.message().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            line = lines.next_line() => {
                let Ok(Some(line)) = line else {
                    return Err(Exit::new(exit::INVALID_INPUT, "error reading watch request line: EOF"));
                };
                match order(line.trim()) {
                    Ok(Order::Watch(wish)) => {
                        commands.push(wish.command);
                        match &stream {
                            Some((requests, _)) => send(requests, RequestUnion::CreateRequest(wish.request)),
                            None => stream = Some(open(&client, wish.request).await?),
                        }
                    }
                    Ok(Order::Progress) => {
                        if let Some((requests, _)) = &stream {
                            send(requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                        }
                    }
                    Err(message) => eprintln!("{message}"),
                }
            }
            reply = reply => match reply {
                Ok(Some(reply)) => {
                    let command = usize::try_from(reply.watch_id).ok().and_then(|id| commands.get(id));
                    state.show(c, &reply, command.map_or(&[][..], |v| v)).await?;
                }
                Ok(None) => return canceled("stream closed"),
                Err(e) => return canceled(&Failure(e).to_string()),
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Order {
    Watch(Box<Wish>),
    Progress,
}

/// One line of an interactive watch.
fn order(line: &str) -> Result<Order, String> {
    let bad = |why: &str| format!("Invalid command {line} ({why})");
    let words = words(line).unwrap_or_default();
    match words.first().map(String::as_str) {
        Some("progress") => return Ok(Order::Progress),
        Some("watch") => {}
        _ => return Err(bad("only support watch")),
    }
    if words.len() < 2 {
        return Err(bad("command type or key is not provided"));
    }
    let line = grammar("etcdctl")
        .parse_command(spec("watch"), &words[1..])
        .map_err(|e| bad(&e.message))?;
    let wish = wish(&line, "", "").map_err(|e| bad(&e.message))?;
    Ok(Order::Watch(Box::new(wish)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        let Ok(Order::Watch(w)) = order("watch --rev 3 foo --prefix -- echo 'a b'") else {
            panic!()
        };
        assert_eq!((&w.request.key[..], &w.request.range_end[..]), (&b"foo"[..], &b"fop"[..]));
        assert_eq!((w.request.start_revision, w.command.len()), (3, 2));
        assert_eq!(order("progress"), Ok(Order::Progress));
        assert_eq!(order("foo"), Err("Invalid command foo (only support watch)".into()));
        assert_eq!(
            order("watch"),
            Err("Invalid command watch (command type or key is not provided)".into())
        );
    }
}
