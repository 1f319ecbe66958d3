//! member add, list, remove, update and promote.

use norn_proto::etcdserverpb as pb;

use crate::commands::Context;
use crate::connect::{Client, Failure, Repeat};
use crate::exit;
use crate::exit::{Exit, Outcome, bad_args};
use crate::go;
use crate::kv::serializable;
use crate::print::{Format, Reply};

fn member_id(c: &Context) -> Outcome<u64> {
    let [id] = &c.line.args[..] else { return bad_args("member ID is not provided") };
    parse_id(id)
}

fn parse_id(id: &str) -> Outcome<u64> {
    go::parse_u64(id, 16).map_err(|e| {
        Exit::new(exit::BAD_ARGS, format!("bad member ID arg ({e}), expecting ID in Hex"))
    })
}

fn peer_urls(c: &Context) -> Outcome<Vec<String>> {
    match c.line.text("peer-urls") {
        "" => bad_args("member peer urls not provided"),
        urls => Ok(urls.split(',').map(str::to_owned).collect()),
    }
}

/// The client checks URLs before it asks anyone, with the parser's words.
fn check_urls(urls: &[String]) -> Outcome {
    for url in urls {
        let scheme = url.split_once("://").map(|(s, _)| s);
        if !matches!(scheme, Some("http" | "https" | "unix" | "unixs")) {
            return exit::failed(format!("URL scheme must be http, https, unix, or unixs: {url}"));
        }
    }
    Ok(())
}

pub async fn add(c: &Context) -> Outcome {
    let name = match &c.line.args[..] {
        [] => return bad_args("member name not provided"),
        [name] => name,
        [_, url, ..] => {
            let hint = match url.starts_with("http") {
                true => format!(", did you mean --peer-urls={url}"),
                false => String::new(),
            };
            return bad_args(format!("too many arguments{hint}"));
        }
    };
    let urls = peer_urls(c)?;
    check_urls(&urls)?;
    let client = c.client().await?;
    let request =
        pb::MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: c.line.bool("learner") };
    let reply: pb::MemberAddResponse =
        client.call("/etcdserverpb.Cluster/MemberAdd", &request, Repeat::No).await?;
    c.printer.print(&Reply::MemberAdd(&reply))?;
    if c.printer.format != Format::Simple {
        return Ok(());
    }
    // What the new member must be started with.
    let new_id = reply.member.as_ref().map_or(0, |m| m.id);
    let members = if reply.members.is_empty() {
        list_members(&client, false).await?.members
    } else {
        reply.members.clone()
    };
    let cluster: Vec<String> = members
        .iter()
        .flat_map(|m| {
            let shown = if m.id == new_id { name } else { &m.name };
            m.peer_ur_ls.iter().map(move |url| format!("{shown}={url}"))
        })
        .collect();
    println!();
    println!("ETCD_NAME={}", go::quote(name.as_bytes()));
    println!("ETCD_INITIAL_CLUSTER={}", go::quote(cluster.join(",").as_bytes()));
    println!("ETCD_INITIAL_ADVERTISE_PEER_URLS={}", go::quote(urls.join(",").as_bytes()));
    println!("ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
    Ok(())
}

pub async fn list_members(
    client: &Client,
    serializable: bool,
) -> Result<pb::MemberListResponse, Failure> {
    let request = pb::MemberListRequest { linearizable: !serializable };
    client.call("/etcdserverpb.Cluster/MemberList", &request, Repeat::Yes).await
}

pub async fn list(c: &Context) -> Outcome {
    // etcdctl names the default here, whatever was given.
    let serializable =
        serializable(&c.line).map_err(|e| Exit::new(e.code, "unknown consistency flag \"l\""))?;
    let client = c.client().await?;
    let reply = list_members(&client, serializable).await?;
    c.printer.print(&Reply::MemberList(&reply))
}

pub async fn remove(c: &Context) -> Outcome {
    let id = member_id(c)?;
    let client = c.client().await?;
    let request = pb::MemberRemoveRequest { id };
    let reply = client.call("/etcdserverpb.Cluster/MemberRemove", &request, Repeat::No).await?;
    c.printer.print(&Reply::MemberRemove(id, &reply))
}

pub async fn update(c: &Context) -> Outcome {
    let id = member_id(c)?;
    let urls = peer_urls(c)?;
    check_urls(&urls)?;
    let client = c.client().await?;
    let request = pb::MemberUpdateRequest { id, peer_ur_ls: urls };
    let reply = client.call("/etcdserverpb.Cluster/MemberUpdate", &request, Repeat::No).await?;
    c.printer.print(&Reply::MemberUpdate(id, &reply))
}

pub async fn promote(c: &Context) -> Outcome {
    let id = member_id(c)?;
    let client = c.client().await?;
    let request = pb::MemberPromoteRequest { id };
    let reply = client.call("/etcdserverpb.Cluster/MemberPromote", &request, Repeat::No).await?;
    c.printer.print(&Reply::MemberPromote(id, &reply))
}
