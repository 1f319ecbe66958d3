//! Messages of members that are damaged on their way. Connections have checksums below them, and frames a length: what arrives is what
//! was sent, or the connection is over, and the message lost. But whoever reads must refuse it, and not fall over it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use norn_raft::{Message, codec};

use super::World;
use crate::fault::Kind;
use crate::history::Failure;
use crate::panics;
use crate::record::What;

/// Bytes in a row that are damaged at the most.
const RUN_MAX: u64 = 8;

impl World {
    /// Whether this message is damaged, and so lost.
    pub(super) fn garbles(&mut self, from: usize, message: &Message) -> bool {
        let permille = self.options.garble_permille;
        if permille == 0 || self.is_healed || !self.garbling.permille(permille) {
            return false;
        }
        self.trace.note(self.now, What::Fault { kind: Kind::Garble, node: Some(from) });
        let mut bytes = Vec::new();
        codec::encode_message_into(message, &mut bytes);
        let read = codec::decode_message(Bytes::from(bytes.clone()));
        if read.as_ref() != Ok(message) {
            let detail = format!("{message:?}\nthere: {read:?}");
            self.fail(Failure::new("A message is the same on the other side.", detail));
            return true;
        }
        self.damage(&mut bytes);
        let frame = Bytes::from(bytes);
        let read = frame.clone();
        let read =
            catch_unwind(AssertUnwindSafe(|| panics::watched(|| codec::decode_message(read))));
        if read.is_err() {
            let detail = format!("{message:?}, damaged: {frame:?}: {}", panics::take());
            self.fail(Failure::new("A damaged message is refused.", detail));
        }
        true
    }

    /// Cuts the end off, or overwrites some bytes.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let rng = &mut self.garbling;
        let at = rng.below(bytes.len() as u64) as usize;
        if rng.permille(300) {
            return bytes.truncate(at);
        }
        let len = rng.between(1, RUN_MAX) as usize;
        for byte in bytes.iter_mut().skip(at).take(len) {
            *byte = rng.next() as u8;
        }
    }
}
