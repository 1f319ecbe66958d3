//! endpoint health, status and hashkv; and which endpoints `--cluster` means.

use std::time::Instant;

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;

use crate::commands::Context;
use crate::connect::{Client, Failure, Repeat};
use crate::exit::{self, Exit, Outcome, failed};
use crate::member::list_members;
use crate::print::{Format, Health, Reply};

/// The endpoints given, or with `--cluster` the client URLs of all members.
pub async fn endpoints(c: &Context) -> Outcome<Vec<String>> {
    if !c.line.bool("cluster") {
        return Ok(c.config.endpoints.clone());
    }
    let client = c.client().await?;
    let members = list_members(&client, false).await.map_err(|e| {
        Exit::new(
            exit::ERROR,
            format!("failed to fetch endpoints from etcd cluster member list: {e}"),
        )
    })?;
    Ok(members.members.into_iter().flat_map(|m| m.client_ur_ls).collect())
}

async fn one(c: &Context, endpoint: &str) -> Outcome<Client> {
    Client::with_endpoints(&c.config, vec![endpoint.to_owned()]).await
}

pub async fn health(c: &Context) -> Outcome {
    let endpoints = endpoints(c).await?;
    // All at once, so that one dead endpoint does not hold up the others; shown in the given order.
    let tasks: Vec<_> = endpoints.iter().map(|e| probe(c, e)).collect();
    let all = join_all(tasks).await;
    c.printer.print(&Reply::Health(&all))?;
    if c.printer.format == Format::Simple {
        for h in all.iter().filter(|h| !h.healthy) {
            eprintln!("{} is unhealthy: failed to commit proposal: {}", h.endpoint, h.error);
        }
    }
    if all.iter().all(|h| h.healthy) { Ok(()) } else { failed("unhealthy cluster") }
}

async fn probe(c: &Context, endpoint: &str) -> Health {
    let start = Instant::now();
    let result = async {
        let client = one(c, endpoint).await.map_err(|e| e.message)?;
        let request = pb::RangeRequest { key: Bytes::from_static(b"health"), ..Default::default() };
        let get: Result<pb::RangeResponse, Failure> =
            client.call("/etcdserverpb.KV/Range", &request, Repeat::Yes).await;
        let took = start.elapsed();
        match get {
            // Permission denied came through consensus as well.
            Err(e) if e.to_string() != "etcdserver: permission denied" => return Err(e.to_string()),
            _ => {}
        }
        let request = pb::AlarmRequest::default();
        let alarms: Result<pb::AlarmResponse, Failure> =
            client.call("/etcdserverpb.Maintenance/Alarm", &request, Repeat::Yes).await;
        match alarms {
            Err(_) => Err("Unable to fetch the alarm list".to_owned()),
            Ok(reply) if reply.alarms.is_empty() => Ok(took),
            Ok(reply) => {
                let names: String =
                    reply.alarms.iter().map(|a| format!("{} ", a.alarm().as_str_name())).collect();
                Err(format!("Active Alarm(s): {names}"))
            }
        }
    }
    .await;
    let took = *result.as_ref().unwrap_or(&start.elapsed());
    Health {
        endpoint: endpoint.to_owned(),
        healthy: result.is_ok(),
        took,
        error: result.err().unwrap_or_default(),
    }
}

async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (slot, future) in done.iter_mut().zip(&mut futures) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

pub async fn status(c: &Context) -> Outcome {
    let mut all = Vec::new();
    let mut bad = false;
    for endpoint in endpoints(c).await? {
        let client = one(c, &endpoint).await?;
        let path = "/etcdserverpb.Maintenance/Status";
        match client.call(path, &pb::StatusRequest {}, Repeat::Yes).await {
            Ok(reply) => all.push((endpoint, reply)),
            Err(e) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({e})");
                bad = true;
            }
        }
    }
    c.printer.print(&Reply::Status(&all))?;
    if bad { failed("") } else { Ok(()) }
}

pub async fn hash_kv(c: &Context) -> Outcome {
    let mut all = Vec::new();
    let mut bad = None;
    for endpoint in endpoints(c).await? {
        let client = one(c, &endpoint).await?;
        let request = pb::HashKvRequest { revision: c.line.int("rev") };
        match client.call("/etcdserverpb.Maintenance/HashKV", &request, Repeat::Yes).await {
            Ok(reply) => all.push((endpoint, reply)),
            Err(e) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({e})");
                bad = Some(e);
            }
        }
    }
    c.printer.print(&Reply::HashKv(&all))?;
    bad.map_or(Ok(()), failed)
}
