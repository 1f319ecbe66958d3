//! defrag, move-leader and downgrade.

use std::time::Instant;

use norn_proto::etcdserverpb as pb;
use pb::downgrade_request::DowngradeAction;

use crate::commands::Context;
use crate::connect::{Client, Failure, Repeat};
use crate::endpoint::endpoints;
use crate::exit::{Outcome, bad_args, failed};
use crate::go;
use crate::print::Reply;

pub async fn defrag(c: &Context) -> Outcome {
    let mut failures = 0;
    for endpoint in endpoints(c).await? {
        let client = Client::with_endpoints(&c.config, vec![endpoint.clone()]).await?;
        let start = Instant::now();
        let result: Result<pb::DefragmentResponse, Failure> = client
            .call("/etcdserverpb.Maintenance/Defragment", &pb::DefragmentRequest {}, Repeat::No)
            .await;
        let took = go::duration(start.elapsed());
        match result {
            Ok(_) => println!("Finished defragmenting etcd member[{endpoint}]. took {took}"),
            Err(e) => {
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({e})");
                failures += 1;
            }
        }
    }
    if failures > 0 { failed("") } else { Ok(()) }
}

pub async fn move_leader(c: &Context) -> Outcome {
    let [target] = &c.line.args[..] else {
        return bad_args("move-leader command needs 1 argument");
    };
    let target_id = go::parse_u64(target, 16).or_else(bad_args)?;
    let all = endpoints(c).await?;
    let mut leader = None;
    for endpoint in &all {
        let client = Client::with_endpoints(&c.config, vec![endpoint.clone()]).await?;
        let status: pb::StatusResponse = client
            .call("/etcdserverpb.Maintenance/Status", &pb::StatusRequest {}, Repeat::Yes)
            .await?;
        if status.header.is_some_and(|h| h.member_id == status.leader) {
            leader = Some((client, status.leader));
            break;
        }
    }
    let Some((client, leader)) = leader else {
        return bad_args(format!("no leader endpoint given at [{}]", all.join(" ")));
    };
    let request = pb::MoveLeaderRequest { target_id };
    let reply = client.call("/etcdserverpb.Maintenance/MoveLeader", &request, Repeat::No).await?;
    c.printer.print(&Reply::MoveLeader(leader, target_id, &reply))
}

pub async fn downgrade(c: &Context, action: &str) -> Outcome {
    let (action, name) = match action {
        "validate" => (DowngradeAction::Validate, "validate"),
        "enable" => (DowngradeAction::Enable, "enable"),
        _ => (DowngradeAction::Cancel, "cancel"),
    };
    let version = match (&c.line.args[..], action) {
        (_, DowngradeAction::Cancel) => String::new(),
        ([], _) => return bad_args("TARGET_VERSION not provided"),
        ([version], _) => version.clone(),
        _ => return bad_args("too many arguments"),
    };
    let client = c.client().await?;
    let request = pb::DowngradeRequest { action: action as i32, version };
    let reply = client.call("/etcdserverpb.Maintenance/Downgrade", &request, Repeat::No).await?;
    c.printer.print(&Reply::Downgrade(name, &reply))
}
