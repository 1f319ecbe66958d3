//! Index images: what makes a restart independent of the number of revisions.
//!
//! At a checkpoint, if enough was appended since the last image, the key index is written beside the revision log, a
//! bounded piece per turn, as it was at the moment it was begun; the checkpoint itself follows the last piece.
//! Compaction and the collector wait meanwhile: an image counts only if the checkpoint knows the same deaths.
//!
//! ```text
//!   u8 version | entries of the key index | per leased key: u32 length, key, i64 lease | u64 bytes of the entries | i64 reach
//! ```
//!
//! The leased keys are those of later moments than the index: each piece is as it is written. Whatever changed a lease's keys
//! in between is a record behind the image's revision, and read again at a start, if the log still has it. So the image
//! says how far it reaches, the revision when its last piece was written: a log that lost its unsynced end before there
//! cannot use it.

use std::ops::{Bound, ControlFlow};

use bytes::{BufMut, Bytes};
use norn_mvcc::{IndexEncoder, KeyIndex, Revision, Values};
use norn_storage::revlog::IndexWriter;

use crate::disk_work::BulkPart;
use crate::lease::Lessor;
use crate::pace::Pace;
use crate::{Node, Reader, Time};

/// Of this format. Another one is a longer start and nothing else.
const VERSION: u8 = 2;
/// Bytes of history read per turn to find damage: what a slow disk gives in a millisecond.
const VERIFY_BYTES: usize = 256 << 10;
/// An image that a restart would still believe is renewed after so many times its own length was appended, so that
/// images are a small share of what is written. (One that a compaction has outdated: after once its length.)
const DEBT_FACTOR: u64 = 4;
/// Pieces of an image, about: its steps are as small as that allows, down to a quarter of what they may be. (On three members of one machine
/// at half of what they can, one put in a hundred waited 7 ms with the whole, 5 with the quarter.)
const PIECES: usize = 1_000;

#[derive(Debug, Default)]
pub(crate) struct Images {
    job: Option<Job>,
    pace: Pace,
    /// What a restart would have to scan behind the newest image: bytes found at this start, and
    /// `RevisionLog::appended_bytes` when the newest image was begun.
    scanned_bytes: u64,
    appended_at: u64,
    /// Where the reading of what this start has not read goes on, and its end: the main revision of the image.
    unverified: Option<(Revision, i64)>,
}

#[derive(Debug)]
struct Job {
    writer: IndexWriter,
    part: Part,
    appended_at: u64,
    is_writing: bool,
}

#[derive(Debug)]
enum Part {
    Index {
        encoder: IndexEncoder,
        bytes: u64,
    },
    Leases {
        after: Option<Bytes>,
        index_bytes: u64,
    },
    /// All is written but what makes it count.
    Whole,
}

impl Images {
    /// `scanned_bytes`: what this start had to read behind the image of main revision `image` that it found.
    pub(crate) fn new(scanned_bytes: u64, image: Option<i64>) -> Images {
        let unverified = image.map(|main| (Revision::default(), main));
        Images { scanned_bytes, unverified, ..Images::default() }
    }

    pub(crate) fn can_verify(&self) -> bool {
        self.unverified.is_some()
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    pub(crate) fn written(&mut self) {
        if let Some(job) = &mut self.job {
            job.is_writing = false;
        }
    }
}

impl<R: Reader> Node<R> {
    pub(crate) fn image_is_due(&self) -> bool {
        let log = &self.backend.log;
        let debt = self.images.scanned_bytes + log.appended_bytes() - self.images.appended_at;
        let wait = match log.index_bytes() {
            Some(bytes) => bytes * DEBT_FACTOR,
            None => log.last_index_bytes(),
        };
        let is_worth_it = debt >= wait.max(self.config.image_debt_bytes);
        is_worth_it && !self.store.is_compacting() && self.alarms.is_empty()
    }

    /// Reads the next piece of the history that this start did not read, because the index came from an image. A
    /// damaged record would never be served, its checksum is looked at by every reader; but the operator should hear
    /// of it from the start that follows the damage, and not from the client that happens to want the record.
    pub(crate) fn verify_some(&mut self) {
        let Some((from, to_main)) = self.images.unverified.take() else { return };
        let mut bytes = 0;
        let mut next = None;
        let result = self.backend.scan(from, to_main, &mut |revision, _, record| {
            if bytes >= VERIFY_BYTES {
                next = Some(revision);
                return ControlFlow::Break(());
            }
            bytes += record.len();
            ControlFlow::Continue(())
        });
        match result {
            Ok(()) => self.images.unverified = next.map(|next| (next, to_main)),
            Err(error) => self.fail(&format!("revision log: {error}")),
        }
    }

    /// The log must have all that was applied.
    pub(crate) fn begin_image(&mut self) {
        self.commit_applied();
        let log = &self.backend.log;
        let ops = &mut self.work.bulk_ops;
        let mut writer = log.begin_index(ops);
        writer.write(Bytes::from_static(&[VERSION]), ops);
        let encoder = IndexEncoder::new(self.store.current());
        let appended_at = log.appended_bytes();
        let part = Part::Index { encoder, bytes: 0 };
        self.images.job = Some(Job { writer, part, appended_at, is_writing: false });
    }

    /// When the next piece may be written, if there is one.
    pub(crate) fn image_due(&self) -> Option<Time> {
        let can_step = self.images.job.as_ref().is_some_and(|job| !job.is_writing);
        (can_step && self.may_keep_house())
            .then(|| self.due(self.images.pace, self.config.work_pause_ms))
    }

    /// Emits the next piece. True when all were emitted, and the last one has completed: the checkpoint's turn.
    pub(crate) fn step_image(&mut self) -> bool {
        if self.image_due().is_none_or(|due| due > self.now) {
            return false;
        }
        let Some(job) = self.images.job.as_mut().filter(|job| !job.is_writing) else {
            return false;
        };
        self.images.pace.stepped(self.now);
        let step_bytes_max = self.config.image_step_bytes;
        let image_bytes =
            usize::try_from(self.backend.log.last_index_bytes()).unwrap_or(usize::MAX);
        let step_bytes = (image_bytes / PIECES).clamp(step_bytes_max.div_ceil(4), step_bytes_max);
        let mut out = Vec::with_capacity(step_bytes + (4 << 10));
        match &mut job.part {
            Part::Index { encoder, bytes } => {
                let more = encoder.step(self.store.index(), step_bytes, &mut out);
                *bytes += out.len() as u64;
                if !more {
                    job.part = Part::Leases { after: None, index_bytes: *bytes };
                }
            }
            Part::Leases { after, index_bytes } => {
                *after = encode_leases(&self.lessor, after.take(), step_bytes, &mut out);
                if after.is_none() {
                    out.put_u64_le(*index_bytes);
                    out.put_i64_le(self.store.current());
                    job.part = Part::Whole;
                }
            }
            Part::Whole => return true,
        }
        job.is_writing = true;
        job.writer.write(out.into(), &mut self.work.bulk_ops);
        self.work.bulk_parts.push(BulkPart::ImageStep);
        false
    }

    /// Emits what makes the image count. The checkpoint must follow in the same batch.
    pub(crate) fn finish_image(&mut self) {
        let Some(job) = self.images.job.take() else { return };
        self.backend.log.finish_index(job.writer, &mut self.work.bulk_ops);
        self.images.scanned_bytes = 0;
        self.images.appended_at = job.appended_at;
    }
}

/// Appends leased keys behind `after`; returns the last one, or `None` if that was all.
fn encode_leases(
    lessor: &Lessor,
    after: Option<Bytes>,
    step_bytes: usize,
    out: &mut Vec<u8>,
) -> Option<Bytes> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    for (key, lease) in lessor.attached(from) {
        out.put_u32_le(key.len() as u32);
        out.put_slice(key);
        out.put_i64_le(lease);
        if out.len() >= step_bytes {
            return Some(key.clone());
        }
    }
    None
}

/// The index, and its leased keys put back; an explanation if these bytes are not an image, or not of a log that ends at `last`.
pub(crate) fn decode(
    image: &[u8],
    last: i64,
    lessor: &mut Lessor,
) -> Result<KeyIndex, &'static str> {
    const DAMAGED: &str = "not an image";
    let (version, rest) = image.split_first().ok_or(DAMAGED)?;
    if *version != VERSION {
        return Err("of another version's format");
    }
    let (rest, reach) = rest.split_last_chunk::<8>().ok_or(DAMAGED)?;
    if i64::from_le_bytes(*reach) > last {
        return Err("the log lost what its leases are of");
    }
    let (rest, index_bytes) = rest.split_last_chunk::<8>().ok_or(DAMAGED)?;
    let index_bytes = usize::try_from(u64::from_le_bytes(*index_bytes)).map_err(|_| DAMAGED)?;
    let (index, mut leases) = rest.split_at_checked(index_bytes).ok_or(DAMAGED)?;
    let index = KeyIndex::decode(index).ok_or(DAMAGED)?;
    while !leases.is_empty() {
        let (len, rest) = leases.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let (key, rest) =
            rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(DAMAGED)?;
        let (lease, rest) = rest.split_first_chunk::<8>().ok_or(DAMAGED)?;
        lessor.attach(&Bytes::copy_from_slice(key), i64::from_le_bytes(*lease));
        leases = rest;
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use norn_mvcc::KeyIndex;

    use super::*;

    /// The revision when the image was finished.
    const REACH: i64 = 60;

    fn lessor() -> Lessor {
        let mut lessor = Lessor::new(1);
        lessor.restore(7, 60, 0);
        lessor
    }

    fn image(index: &KeyIndex, lessor: &Lessor, step_bytes: usize) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut encoder = IndexEncoder::new(REACH);
        while encoder.step(index, out.len() + step_bytes, &mut out) {}
        let index_bytes = out.len() as u64 - 1;
        let mut after = None;
        loop {
            let mut piece = Vec::new();
            after = encode_leases(lessor, after, step_bytes, &mut piece);
            out.append(&mut piece);
            if after.is_none() {
                out.put_u64_le(index_bytes);
                out.put_i64_le(REACH);
                return out;
            }
        }
    }

    #[test]
    fn keys_and_their_leases_come_back_in_pieces_of_any_size() {
        let mut index = KeyIndex::new();
        let mut with = lessor();
        for i in 0..50u8 {
            let key = Bytes::from(vec![i]);
            index.put(&key, Revision::new(i64::from(i) + 2, 0));
            with.attach(&key, if i % 3 == 0 { 7 } else { 0 });
        }
        for step_bytes in [1, 20, 100_000] {
            let mut found = lessor();
            let decoded = decode(&image(&index, &with, step_bytes), REACH, &mut found).unwrap();
            assert_eq!(decoded.live_count(), 50);
            assert!(found.keys_of(7).unwrap().eq(with.keys_of(7).unwrap()));
        }
    }

    #[test]
    fn what_is_not_an_image_of_this_version_is_refused() {
        let good = image(&KeyIndex::new(), &lessor(), 1);
        assert!(decode(&good, REACH, &mut lessor()).is_ok());
        let mut newer = good.clone();
        newer[0] = VERSION + 1;
        assert_eq!(decode(&newer, REACH, &mut lessor()).err(), Some("of another version's format"));
        for len in 0..good.len() {
            assert!(decode(&good[..len], REACH, &mut lessor()).is_err(), "{len}");
        }
    }

    #[test]
    fn an_image_whose_leases_are_of_later_than_the_log_is_refused_and_leaves_no_lease_behind() {
        let (mut index, mut with) = (KeyIndex::new(), lessor());
        let key = Bytes::from_static(b"k");
        index.put(&key, Revision::new(2, 0));
        with.attach(&key, 7);
        let image = image(&index, &with, 1);
        let mut found = lessor();
        let refused = decode(&image, REACH - 1, &mut found).err();
        assert_eq!(refused, Some("the log lost what its leases are of"));
        assert_eq!(found.keys_of(7).unwrap().count(), 0);
        assert!(decode(&image, REACH, &mut found).is_ok());
    }
}
