//! get, put, del and compaction.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};

use crate::commands::Context;
use crate::connect::Repeat;
use crate::exit::{self, Exit, Outcome, bad_args, failed};
use crate::flags::Line;
use crate::go;
use crate::print::{Format, Reply, prefix_end};

pub async fn get(c: &Context) -> Outcome {
    let request = range_request(&c.line)?;
    if c.line.bool("count-only") && c.printer.format != Format::Fields {
        return bad_args("--count-only is only for `--write-out=fields`");
    }
    let mut printer = c.printer;
    if c.line.bool("print-value-only") {
        if printer.format != Format::Simple {
            return bad_args("print-value-only is only for `--write-out=simple`");
        }
        printer.values_only = true;
    }
    let client = c.client().await?;
    let reply = if c.line.bool("stream") {
        let path = "/etcdserverpb.KV/RangeStream";
        let mut stream = client.server_stream::<_, pb::RangeStreamResponse>(path, request).await?;
        let mut merged = pb::RangeResponse::default();
        while let Some(chunk) = stream.message().await.map_err(crate::connect::Failure)? {
            let part = chunk.range_response.unwrap_or_default();
            merged.kvs.extend(part.kvs);
            merged.header = part.header.or(merged.header);
            merged.more |= part.more;
            merged.count = part.count.max(merged.count);
        }
        merged
    } else {
        client.call("/etcdserverpb.KV/Range", &request, Repeat::Yes).await?
    };
    printer.print(&Reply::Get(&reply))
}

/// The request of a `get` line, in a command or in a transaction.
pub fn range_request(line: &Line) -> Outcome<pb::RangeRequest> {
    if line.args.is_empty() {
        return bad_args(
            "get command needs one argument as key and an optional argument as range_end",
        );
    }
    exclusive_prefix(line)?;
    if line.bool("keys-only") && line.bool("count-only") {
        return bad_args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        );
    }
    let serializable = serializable(line)?;
    let (key, range_end) = key_range(line)?;
    let feature = |text: String| Err(Exit::new(exit::BAD_FEATURE, text));
    let order = line.text("order");
    let sort_by = line.text("sort-by");
    let mut sort_order = match order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return feature(format!("bad sort order {order}")),
    };
    let sort_target = match sort_by.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return feature(format!("bad sort target {sort_by}")),
    };
    if sort_target != SortTarget::Key && sort_order == SortOrder::None {
        sort_order = SortOrder::Ascend;
    }
    // Keys ascend by themselves; streams refuse any other wording of it.
    if sort_target == SortTarget::Key && sort_order == SortOrder::Ascend && line.bool("stream") {
        sort_order = SortOrder::None;
    }
    for (what, low, high) in [
        ("CreateRev", "min-create-rev", "max-create-rev"),
        ("ModRev", "min-mod-rev", "max-mod-rev"),
    ] {
        let (a, b) = (line.int(low), line.int(high));
        if b > 0 && a > b {
            return feature(format!("getMin{what}(={a}) > getMax{what}(={b})"));
        }
    }
    Ok(pb::RangeRequest {
        key,
        range_end,
        limit: line.int("limit"),
        revision: line.int("rev"),
        sort_order: sort_order as i32,
        sort_target: sort_target as i32,
        serializable,
        keys_only: line.bool("keys-only"),
        count_only: line.bool("count-only"),
        min_mod_revision: line.int("min-mod-rev"),
        max_mod_revision: line.int("max-mod-rev"),
        min_create_revision: line.int("min-create-rev"),
        max_create_revision: line.int("max-create-rev"),
    })
}

pub fn serializable(line: &Line) -> Outcome<bool> {
    match line.text("consistency") {
        "l" => Ok(false),
        "s" => Ok(true),
        other => Err(Exit::new(
            exit::BAD_FEATURE,
            format!("unknown consistency flag {}", go::quote(other.as_bytes())),
        )),
    }
}

fn exclusive_prefix(line: &Line) -> Outcome {
    if line.bool("prefix") && line.bool("from-key") {
        return bad_args("`--prefix` and `--from-key` cannot be set at the same time, choose one");
    }
    Ok(())
}

/// Key and end from the words and `--prefix` or `--from-key`.
fn key_range(line: &Line) -> Outcome<(Bytes, Bytes)> {
    let (prefix, from_key) = (line.bool("prefix"), line.bool("from-key"));
    let mut key = line.args[0].clone().into_bytes();
    if prefix || from_key {
        if line.args.len() > 1 {
            return bad_args(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
            );
        }
        let end = if key.is_empty() || from_key { vec![0] } else { prefix_end(&key) };
        if key.is_empty() {
            key = vec![0];
        }
        return Ok((key.into(), end.into()));
    }
    let end = line.args.get(1).cloned().unwrap_or_default();
    Ok((key.into(), end.into_bytes().into()))
}

pub async fn put(c: &Context) -> Outcome {
    let request = put_request(&c.line, true)?;
    let client = c.client().await?;
    let reply = client.call("/etcdserverpb.KV/Put", &request, Repeat::No).await?;
    c.printer.print(&Reply::Put(&reply))
}

/// A missing value is read from stdin, where that is allowed.
pub fn put_request(line: &Line, stdin: bool) -> Outcome<pb::PutRequest> {
    let count = "put command needs 1 argument and input from stdin or 2 arguments";
    let Some(key) = line.args.first() else { return bad_args(count) };
    let ignore_value = line.bool("ignore-value");
    let ignore_lease = line.bool("ignore-lease");
    if ignore_value && line.args.len() > 1 {
        return bad_args("put command needs only 1 argument when 'ignore-value' is set");
    }
    let lease = go::parse_i64(line.text("lease"), 16).map_err(|e| {
        Exit::new(exit::BAD_ARGS, format!("bad lease ID ({e}), expecting ID in Hex"))
    })?;
    let value = match line.args.get(1) {
        Some(value) => value.clone().into_bytes(),
        None if ignore_value => Vec::new(),
        None => {
            let mut value = Vec::new();
            if stdin {
                std::io::stdin()
                    .read_to_end(&mut value)
                    .map_err(|e| Exit::new(exit::BAD_ARGS, e))?;
            }
            if value.is_empty() {
                return bad_args(count);
            }
            value
        }
    };
    Ok(pb::PutRequest {
        key: key.clone().into_bytes().into(),
        value: value.into(),
        lease,
        prev_kv: line.bool("prev-kv"),
        ignore_value,
        ignore_lease,
    })
}

pub async fn del(c: &Context) -> Outcome {
    let request = delete_request(&c.line)?;
    let client = c.client().await?;
    if let [from, to] = &c.line.args[..]
        && !c.line.bool("range")
    {
        eprintln!(
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
            go::quote(from.as_bytes()),
            go::quote(to.as_bytes())
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let reply = client.call("/etcdserverpb.KV/DeleteRange", &request, Repeat::No).await?;
    c.printer.print(&Reply::Delete(&reply))
}

pub fn delete_request(line: &Line) -> Outcome<pb::DeleteRangeRequest> {
    if !(1..=2).contains(&line.args.len()) {
        return bad_args(
            "del command needs one argument as key and an optional argument as range_end",
        );
    }
    exclusive_prefix(line)?;
    let (key, range_end) = key_range(line)?;
    Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: line.bool("prev-kv") })
}

pub async fn compaction(c: &Context) -> Outcome {
    let [revision] = &c.line.args[..] else {
        return bad_args("compaction command needs 1 argument");
    };
    let revision = go::parse_i64(revision, 10).or_else(failed)?;
    let request = pb::CompactionRequest { revision, physical: c.line.bool("physical") };
    let client = c.client().await?;
    let path = "/etcdserverpb.KV/Compact";
    let _: pb::CompactionResponse = client.call(path, &request, Repeat::No).await?;
    println!("compacted revision {revision}");
    Ok(())
}
