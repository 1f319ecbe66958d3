//! Equal HashKV at equal revision and compaction on all members, and content equal to the model's.

use std::collections::BTreeMap;

use norn_proto::mvccpb::KeyValue;

use crate::history::{Failure, Verdict};
use crate::model::Model;

/// Revision, compacted revision, whether it was left by a compaction.
pub type Hashed = (i64, i64, bool);

#[derive(Default)]
pub struct HashCheck {
    /// What was hashed -> hash, and who said so first.
    hashes: BTreeMap<Hashed, (u32, usize)>,
    pub compared: u64,
}

impl HashCheck {
    pub fn hash(&mut self, node: usize, hashed: Hashed, hash: u32) -> Verdict {
        let (first, by) = *self.hashes.entry(hashed).or_insert((hash, node));
        self.compared += u64::from(by != node);
        if first != hash {
            let detail = format!(
                "(revision, compacted, from compaction) {hashed:?}: {first:08x} on n{}, {hash:08x} on n{}",
                by + 1,
                node + 1
            );
            return Err(Failure::new("Members with equal revisions have equal hashes.", detail));
        }
        Ok(())
    }

    pub fn content(node: usize, revision: i64, kvs: &[KeyValue], model: &Model) -> Verdict {
        let wanted = model.at(revision);
        if wanted == kvs {
            return Ok(());
        }
        let differs = wanted.iter().zip(kvs).find(|(a, b)| a != b);
        let detail = format!(
            "n{} at revision {revision}: {} keys, the log says {}; first difference {differs:?}",
            node + 1,
            kvs.len(),
            wanted.len()
        );
        Err(Failure::new("A member's content at a revision is what the log says.", detail))
    }
}
