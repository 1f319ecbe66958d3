//! lease grant, revoke, timetolive, list and keep-alive.

use std::time::Duration;

use norn_proto::etcdserverpb as pb;
use tokio_stream::StreamExt as _;

use crate::commands::Context;
use crate::connect::{Client, Failure, Repeat};
use crate::exit::{self, Exit, Outcome, bad_args};
use crate::go;
use crate::print::Reply;

fn lease_id(text: &str) -> Outcome<i64> {
    go::parse_i64(text, 16).map_err(|e| {
        Exit::new(exit::BAD_ARGS, format!("bad lease ID arg ({e}), expecting ID in Hex"))
    })
}

pub async fn grant(c: &Context) -> Outcome {
    let [ttl] = &c.line.args[..] else { return bad_args("lease grant command needs TTL argument") };
    let ttl = go::parse_i64(ttl, 10).or_else(|e| bad_args(format!("bad TTL ({e})")))?;
    let request = pb::LeaseGrantRequest { ttl, id: 0 };
    let client = c.client().await?;
    let reply = client
        .call("/etcdserverpb.Lease/LeaseGrant", &request, Repeat::No)
        .await
        .map_err(|e| Exit::new(exit::ERROR, format!("failed to grant lease ({e})")))?;
    c.printer.print(&Reply::LeaseGrant(&reply))
}

pub async fn revoke(c: &Context) -> Outcome {
    let [id] = &c.line.args[..] else { return bad_args("lease revoke command needs 1 argument") };
    let request = pb::LeaseRevokeRequest { id: lease_id(id)? };
    let client = c.client().await?;
    let reply = client
        .call("/etcdserverpb.Lease/LeaseRevoke", &request, Repeat::No)
        .await
        .map_err(|e| Exit::new(exit::ERROR, format!("failed to revoke lease ({e})")))?;
    c.printer.print(&Reply::LeaseRevoke(request.id, &reply))
}

pub async fn time_to_live(c: &Context) -> Outcome {
    let [id] = &c.line.args[..] else {
        return bad_args("lease timetolive command needs lease ID as argument");
    };
    let keys = c.line.bool("keys");
    let request = pb::LeaseTimeToLiveRequest { id: lease_id(id)?, keys };
    let client = c.client().await?;
    let reply = client
        .call("/etcdserverpb.Lease/LeaseTimeToLive", &request, Repeat::Yes)
        .await
        .map_err(|e| e.exit(exit::BAD_CONNECTION))?;
    c.printer.print(&Reply::TimeToLive(&reply, keys))
}

pub async fn list(c: &Context) -> Outcome {
    let client = c.client().await?;
    let reply = client
        .call("/etcdserverpb.Lease/LeaseLeases", &pb::LeaseLeasesRequest {}, Repeat::Yes)
        .await
        .map_err(|e| e.exit(exit::BAD_CONNECTION))?;
    c.printer.print(&Reply::Leases(&reply))
}

pub async fn keep_alive(c: &Context) -> Outcome {
    let [id] = &c.line.args[..] else {
        return bad_args("lease keep-alive command needs lease ID as argument");
    };
    let id = lease_id(id)?;
    let client = c.client().await?;
    let once = c.line.bool("once");
    let mut wait = Duration::ZERO;
    loop {
        tokio::time::sleep(wait).await;
        let reply = renew(&client, id).await.map_err(|e| e.exit(exit::BAD_CONNECTION))?;
        if reply.ttl <= 0 {
            if once {
                return Err(Exit::new(
                    exit::BAD_CONNECTION,
                    "etcdserver: requested lease not found",
                ));
            }
            println!("lease {id:016x} expired or revoked.");
            return Ok(());
        }
        c.printer.print(&Reply::KeepAlive(&reply))?;
        if once {
            return Ok(());
        }
        wait = Duration::from_millis(reply.ttl as u64 * 1000 / 3);
    }
}

/// One renewal on a stream of its own; a TTL of 0 means that the lease is gone.
pub async fn renew(client: &Client, id: i64) -> Result<pb::LeaseKeepAliveResponse, Failure> {
    // The stream must not end before the answer: some servers would not send one.
    let requests =
        tokio_stream::once(pb::LeaseKeepAliveRequest { id }).chain(tokio_stream::pending());
    let mut replies = client
        .duplex::<_, pb::LeaseKeepAliveResponse, _>(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            requests,
            true,
        )
        .await?;
    match replies.message().await.map_err(Failure)? {
        Some(reply) => Ok(reply),
        None => Err(Failure(tonic::Status::unavailable("lease keep-alive stream ended"))),
    }
}
