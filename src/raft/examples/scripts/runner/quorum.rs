//! Scripts about majorities: `committed` and `vote`.

use std::fmt::Write;

use norn_raft::quorum::{UNBOUNDED, Voters};
use norn_raft::{Index, NodeId};

use super::Machine;
use super::script::Block;

/// Keeps nothing between blocks.
pub struct QuorumMachine;

impl Machine for QuorumMachine {
    fn run(&mut self, block: &Block) -> String {
        let result = match block.command.as_str() {
            "committed" => committed(block),
            "vote" => vote(block),
            other => Err(format!("unknown command {other}")),
        };
        result.unwrap_or_else(|error| format!("error: {error}"))
    }
}

/// The voters, and every id once in the order in which the values are given.
fn voters(block: &Block) -> Result<(Voters, Vec<NodeId>), String> {
    let list = |key| -> Result<Vec<NodeId>, String> {
        let values = block.values(key).unwrap_or_default();
        if values == ["zero"] {
            return Ok(Vec::new());
        }
        let id = |value: &String| value.parse().map(NodeId).map_err(|e| format!("{key}: {e}"));
        values.iter().map(id).collect()
    };
    let (mut incoming, mut outgoing) = (list("cfg")?, list("cfgj")?);
    let mut order = Vec::new();
    for &id in incoming.iter().chain(&outgoing) {
        if !order.contains(&id) {
            order.push(id);
        }
    }
    for half in [&mut incoming, &mut outgoing] {
        half.sort_unstable();
        half.dedup();
    }
    Ok((Voters { incoming, outgoing }, order))
}

/// One value for each id; `_` is none.
fn values<T>(
    block: &Block,
    key: &str,
    order: &[NodeId],
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<(NodeId, Option<T>)>, String> {
    let given = block.values(key).unwrap_or_default();
    if given.len() != order.len() {
        return Err(format!("mismatched input: {} values for {} voters", given.len(), order.len()));
    }
    order
        .iter()
        .zip(given)
        .map(|(&id, text)| match text.as_str() {
            "_" => Ok((id, None)),
            text => parse(text).map(|value| (id, Some(value))).ok_or(format!("bad {key}: {text}")),
        })
        .collect()
}

fn committed(block: &Block) -> Result<String, String> {
    let (voters, order) = voters(block)?;
    let mut acked = values(block, "idx", &order, |text| text.parse().ok().map(Index))?;
    acked.sort_unstable_by_key(|(id, _)| *id);
    let find = |list: &[(NodeId, Option<Index>)], id| {
        list.iter().find(|(voter, _)| *voter == id).and_then(|(_, index)| *index)
    };
    let result = voters.committed(|id| find(&acked, id));
    let mut out = table(&acked);
    // Two halves are as good in either order, and a half twice is as good as once.
    let swapped = Voters { incoming: voters.outgoing.clone(), outgoing: voters.incoming.clone() };
    let again = swapped.committed(|id| find(&acked, id));
    if again != result {
        writeln!(out, "{} <-- swapped", text(again)).unwrap();
    }
    if !voters.is_joint() {
        let twice = Voters { incoming: voters.incoming.clone(), outgoing: voters.incoming.clone() };
        let again = twice.committed(|id| find(&acked, id));
        if again != result {
            writeln!(out, "{} <-- self-joint", text(again)).unwrap();
        }
    }
    // What lies beyond the result may fall back to it without a difference.
    for lowered in 0..acked.len() {
        let mut acked = acked.clone();
        let Some(index) = acked[lowered].1.filter(|index| *index > result) else {
            continue;
        };
        acked[lowered].1 = Some(result);
        let again = voters.committed(|id| find(&acked, id));
        if again != result {
            writeln!(out, "{} <-- lowering {index}", text(again)).unwrap();
        }
    }
    writeln!(out, "{}", text(result)).unwrap();
    Ok(out)
}

fn text(index: Index) -> String {
    if index == UNBOUNDED { "∞".to_owned() } else { index.to_string() }
}

fn table(acked: &[(NodeId, Option<Index>)]) -> String {
    let count = acked.len();
    if count == 0 {
        return "<empty majority quorum>".to_owned();
    }
    let mut out = format!("{}    idx\n", " ".repeat(count));
    for (id, index) in acked {
        let bar = match index {
            None => "?".to_owned(),
            Some(own) => {
                let below =
                    acked.iter().filter(|(_, other)| other.unwrap_or_default() < *own).count();
                format!("{}>", "x".repeat(below))
            }
        };
        let index = index.unwrap_or_default().0;
        writeln!(out, "{bar:<width$} {index:>5}    (id={id})", width = count + 1).unwrap();
    }
    out
}

fn vote(block: &Block) -> Result<String, String> {
    let (voters, order) = voters(block)?;
    let votes = values(block, "votes", &order, |text| match text {
        "y" => Some(true),
        "n" => Some(false),
        _ => None,
    })?;
    let find = |id| votes.iter().find(|(voter, _)| *voter == id).and_then(|(_, yes)| *yes);
    let result = voters.vote(find);
    let mut out = String::new();
    let swapped = Voters { incoming: voters.outgoing, outgoing: voters.incoming };
    let again = swapped.vote(find);
    if again != result {
        writeln!(out, "{} <-- swapped", again.name()).unwrap();
    }
    writeln!(out, "{}", result.name()).unwrap();
    Ok(out)
}
