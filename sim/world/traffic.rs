//! What members send each other: messages, and snapshots with their bodies.

use bytes::Bytes;
use norn_node::Input;
use norn_raft::Message;
use norn_storage::{DiskError, DiskRead, FileName};

use super::{Event, Transfer, World};
use crate::history::Failure;
use crate::member::CrashPoint;
use crate::record::What;

impl World {
    pub(super) fn send(&mut self, from: usize, message: Message) {
        let Some(&to) = self.by_id.get(&message.to.0) else { return };
        self.counts.messages += 1;
        let id = self.counts.messages;
        let is_cut = self.network.is_cut(from, to);
        let is_there = self.members[to].host.is_some();
        let is_blocked = is_cut || !is_there || self.refuses(from, to);
        let mut delays = if is_blocked { Vec::new() } else { self.network.delays(&message) };
        if !delays.is_empty() && self.garbles(from, &message) {
            delays.clear();
        }
        let what = What::Send {
            id,
            from,
            to,
            kind: message.kind as u8,
            term: message.term.0,
            index: message.index.0,
            entries: message.entries.len(),
            copies: if is_blocked { 1 } else { delays.len() as u8 },
        };
        self.trace.tell(
            self.now,
            what,
            || if message.reject { "no".into() } else { String::new() },
        );
        if is_blocked {
            self.trace.note(self.now, What::Drop { id, is_cut });
            if self.rng.permille(200) {
                let id = self.members[to].id;
                self.tell_later(from, Input::Unreachable { id });
            }
        }
        for delay in delays {
            self.after(delay, Event::Deliver { to, id, message: message.clone() });
        }
    }

    pub(super) fn mend(&mut self) {
        self.network.mend();
        self.trace.note(self.now, What::Mend);
        for a in 0..self.members.len() {
            for b in (0..self.members.len()).filter(|b| *b != a) {
                if self.members[b].host.is_some() {
                    let id = self.members[b].id;
                    self.tell_later(a, Input::PeerActive { id, active: true });
                }
            }
        }
    }

    pub(super) fn send_snapshot(&mut self, from: usize, message: Message, file: FileName) {
        let Some(&to) = self.by_id.get(&message.to.0) else { return };
        self.next_token += 1;
        let number = self.next_token;
        let delay = self.network.delay() * 2;
        let whole = match self.members[from].disk.read_at(&file, 0, usize::MAX) {
            Ok(body) => body,
            // (Who sends it gives up in the middle.)
            Err(_) if self.members[from].disk.inner.unreadable().is_some() => Bytes::new(),
            Err(error) => {
                let detail = format!("n{}: {file}: {error}", from + 1);
                return self.fail(Failure::new("A snapshot that is to be sent is there.", detail));
            }
        };
        let incarnation = self.members[from].incarnation;
        let ok = !self.network.is_cut(from, to) && !self.network.delays(&message).is_empty();
        self.counts.messages += 1;
        let id = self.counts.messages;
        let what = What::Send {
            id,
            from,
            to,
            kind: message.kind as u8,
            term: message.term.0,
            index: message.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0),
            entries: 0,
            copies: ok.into(),
        };
        self.trace.note(self.now, what);
        let transfer = Transfer { id, from: (from, incarnation), to, message, file };
        self.transfers.insert(number, transfer);
        let body = if ok { whole } else { Bytes::new() };
        self.after(delay, Event::Snapshot { number, body });
    }

    pub(super) fn snapshot_arrives(&mut self, number: u64, body: Bytes) {
        let Some(transfer) = self.transfers.get(&number) else { return };
        let to = transfer.to;
        let index = transfer.message.snapshot.as_ref().map_or(0, |s| s.index.0);
        if body.is_empty() || self.members[to].host.is_none() {
            return self.transfer_ends(number, false);
        }
        self.trace.note(self.now, What::Snapshot { node: to, index });
        let file = FileName::new(format!("member/snap/{index:016x}.snap.db"));
        self.members[to].disk.store(number, &file, body);
        self.arm_disk(to);
    }

    pub(super) fn snapshot_stored(&mut self, number: u64, result: &Result<(), DiskError>) {
        let ok = result.is_ok();
        if let (true, Some(transfer)) = (ok, self.transfers.get(&number)) {
            self.counts.snapshots += 1;
            let (to, message) = (transfer.to, transfer.message.clone());
            self.trace.note(self.now, What::Arrive { id: transfer.id, to });
            self.crash_soon(to);
            let index = message.snapshot.as_ref().map_or(0, |s| s.index.0);
            let file = FileName::new(format!("member/snap/{index:016x}.snap.db"));
            self.turn(to, Input::SnapshotReceived { message, file });
        }
        let to = self.transfers.get(&number).map(|transfer| transfer.to);
        let lost = self.options.lost_answer_permille;
        let is_lost = lost > 0 && !self.is_healed && self.rng.permille(lost);
        self.transfer_ends(number, ok && !is_lost);
        let is_latched = !matches!(result, Ok(()) | Err(DiskError::NoSpace { .. }));
        if let (true, Some(to)) = (is_latched, to) {
            // The failed sync met our batch: the disk is latched, and the node may not write for long to see it.
            self.counts.failed_syncs += 1;
            self.crash(to, true, 100_000);
        }
    }

    /// A received snapshot is being installed: a moment to lose power in.
    fn crash_soon(&mut self, node: usize) {
        let permille = self.options.snapshot_crash_permille;
        if permille > 0 && !self.is_healed && self.rng.permille(permille) {
            let batches = self.rng.between(1, 4);
            let sends = self.rng.permille(500);
            self.members[node].crash_in =
                Some(CrashPoint { batches, power: true, sends, down_us: 50_000 });
        }
    }

    pub(super) fn transfer_ends(&mut self, number: u64, ok: bool) {
        let Some(transfer) = self.transfers.remove(&number) else { return };
        let (node, incarnation) = transfer.from;
        let to = self.members[transfer.to].id;
        let file = transfer.file;
        self.after(0, Event::Input { node, incarnation, input: Input::ExportDone { file } });
        self.after(0, Event::Input { node, incarnation, input: Input::SnapshotSent { to, ok } });
    }
}
