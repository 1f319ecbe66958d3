//! The work of a compaction, in pieces with pauses, as in etcd. What was compacted is out of reach from the start; nobody waits for the
//! work, but those who asked for that.

use crate::{Error, Node, Reader, Time};

impl<R: Reader> Node<R> {
    /// When the next piece may be done, if there is one.
    pub(crate) fn compaction_due(&self) -> Option<Time> {
        (!self.is_failed && self.compaction_can_go_on())
            .then(|| self.due(self.compaction, self.config.compact_pause_ms))
    }

    fn compaction_can_go_on(&self) -> bool {
        // An export reads history: what it still has to read must not die under it. An index image counts only if
        // nothing dies before its checkpoint. What was said about deaths would have to be said again.
        let others_done =
            !self.exports.is_busy() && !self.images.is_busy() && !self.house.is_saving;
        self.store.is_compacting() && others_done
    }

    pub(crate) fn compact_some(&mut self) {
        if self.compaction_due().is_none_or(|due| due > self.now) {
            return;
        }
        self.compaction.stepped(self.now);
        let mut dead = Vec::new();
        let step = self.store.compact_step(&self.backend, self.config.compact_records, &mut |r| {
            dead.push(r);
        });
        self.counters.keys_compacted += dead.len() as u64;
        for revision in dead {
            self.backend.log.mark_dead(revision.main, revision.sub);
        }
        match step {
            Ok(norn_mvcc::CompactProgress::Finished(main)) => self.compaction_finished(main),
            Ok(_) => {}
            Err(error) => self.fail(&Error::from(error).to_string()),
        }
    }
}
