//! Scripts about membership arithmetic: `simple`, `enter-joint` and `leave-joint`.

use norn_raft::confchange::Changer;
use norn_raft::{ConfChangeKind, ConfChangeSingle, Index, NodeId, Tracker};

use super::Machine;
use super::script::Block;

/// A membership that grows from block to block.
pub struct ChangeMachine {
    tracker: Tracker,
    /// Blocks so far, as a last index, to tell when a progress was made.
    last_index: Index,
}

impl ChangeMachine {
    pub fn new() -> ChangeMachine {
        ChangeMachine { tracker: Tracker::new(10, 0), last_index: Index::ZERO }
    }

    fn change(&mut self, block: &Block) -> Result<String, String> {
        let changes = parse_changes(&block.input)?;
        let changer = Changer { tracker: &self.tracker, last_index: self.last_index };
        let changed = match block.command.as_str() {
            "simple" => changer.simple(&changes),
            "enter-joint" => changer.enter_joint(block.flag("autoleave")?, &changes),
            "leave-joint" if changes.is_empty() => changer.leave_joint(),
            "leave-joint" => return Err("this command takes no input".to_owned()),
            _ => return Err("unknown command".to_owned()),
        };
        let (membership, progress) = changed.map_err(|error| error.to_string())?;
        self.tracker.replace(membership, progress);
        let mut out = format!("{}\n", self.tracker.membership);
        for (id, progress) in self.tracker.iter() {
            out += &format!("{}: {progress}\n", id.0);
        }
        Ok(out)
    }
}

impl Machine for ChangeMachine {
    fn run(&mut self, block: &Block) -> String {
        let result = self.change(block);
        self.last_index = self.last_index.next();
        result.unwrap_or_else(|error| error)
    }
}

/// `v1 l2 r3 u4`: add a voter, add a learner, remove, update.
pub fn parse_changes(text: &str) -> Result<Vec<ConfChangeSingle>, String> {
    text.split_whitespace()
        .map(|word| {
            let bad = || format!("unknown input: {word}");
            let kind = match word.chars().next() {
                Some('v') => ConfChangeKind::AddNode,
                Some('l') => ConfChangeKind::AddLearnerNode,
                Some('r') => ConfChangeKind::RemoveNode,
                Some('u') => ConfChangeKind::UpdateNode,
                _ => return Err(bad()),
            };
            let node_id = word[1..].parse().map(NodeId).map_err(|_| bad())?;
            Ok(ConfChangeSingle { kind, node_id })
        })
        .collect()
}
