//! lock and elect, over the server's Lock and Election services; the queue and its order are the server's.

use std::rc::Rc;

use norn_proto::etcdserverpb as pb;
use norn_proto::{v3electionpb as election, v3lockpb as locks};
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::Context;
use crate::connect::{Client, Failure, Repeat};
use crate::exit::{self, Exit, Outcome, bad_args, failed};
use crate::print::Reply;
use crate::session::Session;

pub async fn lock(c: &Context) -> Outcome {
    let Some((name, command)) = c.line.args.split_first() else {
        return bad_args("lock takes a lock name argument and an optional command to execute");
    };
    tokio::task::LocalSet::new().run_until(hold_lock(c, name, command)).await
}

/// Ends on the first SIGINT or SIGTERM.
async fn interrupt() -> std::io::Result<()> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
    Ok(())
}

async fn hold_lock(c: &Context, name: &str, command: &[String]) -> Outcome {
    let client = Rc::new(c.client().await?);
    let mut session = Session::new(Rc::clone(&client), c.line.int("ttl")).await?;
    let request =
        locks::LockRequest { name: name.to_owned().into_bytes().into(), lease: session.lease };
    let acquired: Result<locks::LockResponse, Failure> = tokio::select! {
        reply = client.call_until("/v3lockpb.Lock/Lock", &request, Repeat::No, None) => reply,
        _ = &mut session.lost => return failed("session expired"),
        _ = interrupt() => {
            session.close().await;
            return failed("context canceled");
        }
    };
    let held = acquired?;
    let outcome = match command {
        [] => show_and_wait(c, &client, &held.key, &mut session).await,
        [program, args @ ..] => {
            let revision = held.header.map_or(0, |h| h.revision);
            let mut child = tokio::process::Command::new(program);
            child
                .args(args)
                .env("ETCD_LOCK_KEY", String::from_utf8_lossy(&held.key).as_ref())
                .env("ETCD_LOCK_REV", revision.to_string());
            match child.status().await {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => {
                    let code = status.code().unwrap_or(exit::ERROR);
                    Err(Exit::new(code, format!("exit status {code}")))
                }
                Err(e) => failed(format!("exec: \"{program}\": {e}")),
            }
        }
    };
    let request = locks::UnlockRequest { key: held.key.clone() };
    // Revoking the lease below releases the lock as well.
    let _: Result<locks::UnlockResponse, _> =
        client.call("/v3lockpb.Lock/Unlock", &request, Repeat::No).await;
    session.close().await;
    outcome
}

async fn show_and_wait(
    c: &Context,
    client: &Client,
    key: &bytes::Bytes,
    session: &mut Session,
) -> Outcome {
    let request = pb::RangeRequest { key: key.clone(), ..Default::default() };
    let reply: pb::RangeResponse =
        client.call("/etcdserverpb.KV/Range", &request, Repeat::Yes).await?;
    if reply.kvs.is_empty() {
        return failed("lock lost on init");
    }
    c.printer.print(&Reply::Get(&reply))?;
    tokio::select! {
        _ = interrupt() => Ok(()),
        _ = &mut session.lost => failed("session expired"),
    }
}

pub async fn elect(c: &Context) -> Outcome {
    let listen = c.line.bool("listen");
    let (name, proposal) = match &c.line.args[..] {
        [name] => (name, None),
        [name, proposal] => (name, Some(proposal)),
        _ => {
            return bad_args(
                "elect takes one election name argument and an optional proposal argument",
            );
        }
    };
    match (listen, proposal) {
        (true, None) => observe(c, name).await,
        (true, Some(_)) => bad_args("proposal given but -l is set"),
        (false, None) => bad_args("no proposal argument but -l not set"),
        (false, Some(proposal)) => {
            tokio::task::LocalSet::new().run_until(campaign(c, name, proposal)).await
        }
    }
}

fn show(c: &Context, reply: election::LeaderResponse) -> Outcome {
    let reply = pb::RangeResponse {
        header: reply.header,
        count: 1,
        kvs: reply.kv.into_iter().collect(),
        more: false,
    };
    c.printer.print(&Reply::Get(&reply))
}

async fn observe(c: &Context, name: &str) -> Outcome {
    let client = c.client().await?;
    let request = election::LeaderRequest { name: name.to_owned().into_bytes().into() };
    let mut stream = client
        .server_stream::<_, election::LeaderResponse>("/v3electionpb.Election/Observe", request)
        .await?;
    loop {
        let next = tokio::select! {
            next = stream.message() => next,
            _ = interrupt() => return Ok(()),
        };
        match next {
            Ok(Some(reply)) => show(c, reply)?,
            _ => return failed("elect: observer lost"),
        }
    }
}

async fn campaign(c: &Context, name: &str, proposal: &str) -> Outcome {
    let client = Rc::new(c.client().await?);
    let mut session = Session::new(Rc::clone(&client), 60).await?;
    let request = election::CampaignRequest {
        name: name.to_owned().into_bytes().into(),
        lease: session.lease,
        value: proposal.to_owned().into_bytes().into(),
    };
    let won: Result<election::CampaignResponse, Failure> = tokio::select! {
        reply = client.call_until("/v3electionpb.Election/Campaign", &request, Repeat::No, None) => reply,
        _ = &mut session.lost => return failed("elect: session expired"),
        _ = interrupt() => {
            session.close().await;
            return failed("context canceled");
        }
    };
    let leader = won?.leader.unwrap_or_default();
    let request = pb::RangeRequest { key: leader.key.clone(), ..Default::default() };
    let reply: pb::RangeResponse =
        client.call("/etcdserverpb.KV/Range", &request, Repeat::Yes).await?;
    c.printer.print(&Reply::Get(&reply))?;
    let outcome = tokio::select! {
        _ = interrupt() => Ok(()),
        _ = &mut session.lost => failed("elect: session expired"),
    };
    let request = election::ResignRequest { leader: Some(leader) };
    // Revoking the lease below resigns as well.
    let _: Result<election::ResignResponse, _> =
        client.call("/v3electionpb.Election/Resign", &request, Repeat::No).await;
    session.close().await;
    outcome
}
