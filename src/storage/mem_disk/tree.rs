//! What a disk holds: a tree of names and the bytes of files, each as everybody sees it now (`live`) and as it would
//! be found after a power loss that takes everything unsynced (`durable`), with the changes in between.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::pages::Pages;
use super::rng::Rng;
use crate::disk::{DiskError, DiskOp, FileName};

/// The unit in which a device keeps or loses what was written.
const SECTOR: u64 = 512;
/// Changes of names that wait for a sync; a file system writes back more than these by itself. (Somebody may make and remove files for
/// ever who does not mind which of them are there after a crash.)
const NAME_CHANGES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir(u64),
    File(u64),
}

type Names = BTreeMap<u64, BTreeMap<String, Node>>;

/// A change of names that no directory sync has covered yet.
#[derive(Clone, Debug)]
enum NameChange {
    Link {
        dir: u64,
        name: String,
        node: Node,
    },
    Unlink {
        dir: u64,
        name: String,
    },
    /// Atomic: both halves happen or neither.
    Move {
        from: (u64, String),
        to: (u64, String),
        node: Node,
    },
}

impl NameChange {
    fn touches(&self, id: u64) -> bool {
        match self {
            NameChange::Link { dir, .. } | NameChange::Unlink { dir, .. } => *dir == id,
            NameChange::Move { from, to, .. } => from.0 == id || to.0 == id,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Link { dir, name, node } => {
                names.entry(*dir).or_default().insert(name.clone(), *node);
            }
            NameChange::Unlink { dir, name } => {
                names.entry(*dir).or_default().remove(name);
            }
            NameChange::Move { from, to, node } => {
                names.entry(from.0).or_default().remove(&from.1);
                names.entry(to.0).or_default().insert(to.1.clone(), *node);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum DataChange {
    Write { offset: u64, data: Bytes },
    Zero { offset: u64, len: u64 },
    SetLen(u64),
}

impl DataChange {
    fn span(&self) -> (u64, u64) {
        match self {
            DataChange::Write { offset, data } => (*offset, data.len() as u64),
            DataChange::Zero { offset, len } => (*offset, *len),
            DataChange::SetLen(_) => (0, 0),
        }
    }

    /// The first bytes of a write; nothing of a new length.
    fn first(&self, len: u64) -> DataChange {
        match self {
            DataChange::Write { offset, data } => {
                DataChange::Write { offset: *offset, data: data.slice(..len as usize) }
            }
            DataChange::Zero { offset, .. } => DataChange::Zero { offset: *offset, len },
            DataChange::SetLen(_) => DataChange::Zero { offset: 0, len: 0 },
        }
    }

    fn apply(&self, bytes: &mut Pages) {
        let (offset, len) = self.span();
        match self {
            DataChange::SetLen(len) => bytes.resize(*len),
            _ => self.apply_part(bytes, offset, offset + len),
        }
    }

    /// Applies what falls into `from..to`.
    fn apply_part(&self, bytes: &mut Pages, from: u64, to: u64) {
        let (offset, len) = self.span();
        let (from, to) = (from.max(offset), to.min(offset + len));
        if from >= to {
            return;
        }
        if bytes.len() < to {
            bytes.resize(to);
        }
        match self {
            DataChange::Write { data, .. } => {
                bytes.write(from, &data[(from - offset) as usize..(to - offset) as usize]);
            }
            DataChange::Zero { .. } => bytes.fill_zero(from, to),
            DataChange::SetLen(_) => {}
        }
    }

    /// Applies the sectors that `keep` chooses, except those that are lost already; what is not applied is lost now.
    fn apply_sectors(&self, bytes: &mut Pages, lost: &mut Lost, keep: &mut dyn FnMut() -> bool) {
        if let DataChange::SetLen(len) = self {
            if keep() {
                self.apply(bytes);
                lost.forget_from(*len);
            }
            return;
        }
        let (offset, len) = self.span();
        let mut from = offset;
        while from < offset + len {
            let to = (from / SECTOR + 1) * SECTOR;
            if keep() && !lost.contains(from) {
                self.apply_part(bytes, from, to);
            } else {
                lost.insert(from);
            }
            from = to;
        }
    }
}

/// Sectors of a file of which some unsynced write did not reach the disk. The page cache holds a sector with all that was written to it,
/// and so none of what came later did.
#[derive(Default)]
struct Lost(Vec<bool>);

impl Lost {
    fn contains(&self, offset: u64) -> bool {
        self.0.get((offset / SECTOR) as usize).is_some_and(|lost| *lost)
    }

    fn insert(&mut self, offset: u64) {
        let sector = (offset / SECTOR) as usize;
        self.0.resize(self.0.len().max(sector + 1), false);
        self.0[sector] = true;
    }

    /// Behind a new end of the file everything begins anew.
    fn forget_from(&mut self, len: u64) {
        self.0.truncate(len.div_ceil(SECTOR) as usize);
    }
}

#[derive(Clone, Debug, Default)]
struct FileBytes {
    live: Pages,
    durable: Pages,
    pending: Vec<DataChange>,
    /// When the newest pending change was made, to find the last write of the whole disk.
    touched: u64,
}

/// Which pending changes a crash image keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// Nothing, or everything.
    None,
    All,
    /// Everything, but of the last write only the first `n` bytes.
    LastTorn(u64),
    /// Only the last write, or its first `n` bytes.
    OnlyLast(u64),
}

/// Which unsynced changes of names a crash image keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeepNames {
    None,
    All,
    /// The newest, without those it may rely on.
    OnlyLast,
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    live: Names,
    durable: Names,
    pending: Vec<NameChange>,
    files: BTreeMap<u64, FileBytes>,
    next_id: u64,
    clock: u64,
    /// Sum of the live lengths of files that have a name.
    pub(super) used: u64,
}

const ROOT: u64 = 0;

impl Tree {
    pub(super) fn new() -> Tree {
        let names = BTreeMap::from([(ROOT, BTreeMap::new())]);
        Tree {
            live: names.clone(),
            durable: names,
            pending: Vec::new(),
            files: BTreeMap::new(),
            next_id: ROOT + 1,
            clock: 0,
            used: 0,
        }
    }

    fn node(&self, path: &str) -> Option<Node> {
        let mut at = Node::Dir(ROOT);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let Node::Dir(dir) = at else { return None };
            at = *self.live.get(&dir)?.get(part)?;
        }
        Some(at)
    }

    fn file(&self, file: &FileName) -> Result<u64, DiskError> {
        match self.node(file.as_str()) {
            Some(Node::File(id)) => Ok(id),
            _ => Err(DiskError::NotFound { file: file.clone() }),
        }
    }

    /// The directory a path is in, and its last part.
    fn parent(&self, file: &FileName) -> Result<(u64, String), DiskError> {
        let path = file.as_str();
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        match self.node(dir) {
            Some(Node::Dir(id)) => Ok((id, file.base().to_string())),
            _ => Err(DiskError::NotFound { file: FileName::new(dir) }),
        }
    }

    fn rename_node(&mut self, change: NameChange) {
        // The file that had the name is gone; one that gets it has been counted, or is empty.
        let (dir, name) = match &change {
            NameChange::Link { dir, name, .. } | NameChange::Unlink { dir, name } => (dir, name),
            NameChange::Move { to, .. } => (&to.0, &to.1),
        };
        if let Some(Node::File(id)) = self.live.get(dir).and_then(|names| names.get(name)) {
            self.used -= self.files[id].live.len();
        }
        change.apply(&mut self.live);
        self.pending.push(change);
        if self.pending.len() > NAME_CHANGES_MAX {
            for change in self.pending.drain(..NAME_CHANGES_MAX / 2) {
                change.apply(&mut self.durable);
            }
            self.forget_nameless();
        }
    }

    fn count_used(&mut self) {
        let mut used = 0;
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for node in self.live.get(&dir).into_iter().flat_map(|names| names.values()) {
                match node {
                    Node::Dir(id) => dirs.push(*id),
                    Node::File(id) => used += self.files[id].live.len(),
                }
            }
        }
        self.used = used;
    }

    fn change(&mut self, id: u64, change: DataChange) {
        self.clock += 1;
        let file = self.files.get_mut(&id).expect("a named file has bytes");
        let before = file.live.len();
        change.apply(&mut file.live);
        self.used = self.used + file.live.len() - before;
        file.pending.push(change);
        file.touched = self.clock;
    }

    pub(super) fn list(&self, dir: &FileName) -> Vec<String> {
        match self.node(dir.as_str()) {
            Some(Node::Dir(id)) => self.live[&id].keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn bytes(&self, file: &FileName) -> Option<&Pages> {
        self.file(file).ok().map(|id| &self.files[&id].live)
    }

    pub(super) fn flip_bit(&mut self, file: &FileName, offset: u64, bit: u8) -> bool {
        let Ok(id) = self.file(file) else {
            return false;
        };
        let bytes = self.files.get_mut(&id).expect("a named file has bytes");
        let [live, durable] =
            [&mut bytes.live, &mut bytes.durable].map(|b| b.flip_bit(offset, bit));
        live || durable
    }

    /// Runs one operation. `room` is how many bytes files may still grow.
    pub(super) fn run(&mut self, op: &DiskOp, room: u64) -> Result<(), DiskError> {
        match op {
            DiskOp::MakeDir { dir } => self.make_dir(dir),
            DiskOp::Create { file } => self.create(file),
            DiskOp::Write { file, offset, data } => {
                let id = self.file(file)?;
                let fits = self.fitting(id, *offset, data.len() as u64, room);
                // A full disk takes what fits: a short write.
                let data = data.slice(..fits as usize);
                let short = fits < data.len() as u64 || fits < op_len(op);
                self.change(id, DataChange::Write { offset: *offset, data });
                if short { Err(DiskError::NoSpace { file: file.clone() }) } else { Ok(()) }
            }
            DiskOp::Zero { file, offset, len } => {
                let id = self.file(file)?;
                let fits = self.fitting(id, *offset, *len, room);
                self.change(id, DataChange::Zero { offset: *offset, len: fits });
                if fits < *len { Err(DiskError::NoSpace { file: file.clone() }) } else { Ok(()) }
            }
            DiskOp::SetLen { file, len } => {
                let id = self.file(file)?;
                if *len > self.files[&id].live.len().saturating_add(room) {
                    return Err(DiskError::NoSpace { file: file.clone() });
                }
                self.change(id, DataChange::SetLen(*len));
                Ok(())
            }
            DiskOp::Reserve { file, len } => {
                let id = self.file(file)?;
                let most = self.files[&id].live.len();
                if *len <= most {
                    return Ok(());
                }
                if *len > most.saturating_add(room) {
                    return Err(DiskError::NoSpace { file: file.clone() });
                }
                self.change(id, DataChange::SetLen(*len));
                Ok(())
            }
            DiskOp::Sync { file } => {
                let id = self.file(file)?;
                self.sync(id);
                Ok(())
            }
            DiskOp::Rename { from, to } => self.rename(from, to),
            DiskOp::Remove { file } => self.remove(file),
            DiskOp::SyncDir { dir } => {
                let Some(Node::Dir(id)) = self.node(dir.as_str()) else {
                    return Err(DiskError::NotFound { file: dir.clone() });
                };
                self.sync_dir(id);
                Ok(())
            }
            DiskOp::Close { .. } => Ok(()),
        }
    }

    fn fitting(&self, id: u64, offset: u64, len: u64, room: u64) -> u64 {
        let most = self.files[&id].live.len();
        len.min((most.saturating_add(room)).saturating_sub(offset))
    }

    fn make_dir(&mut self, dir: &FileName) -> Result<(), DiskError> {
        let mut at = ROOT;
        for part in dir.as_str().split('/').filter(|part| !part.is_empty()) {
            at = match self.live[&at].get(part) {
                Some(Node::Dir(id)) => *id,
                Some(Node::File(_)) => {
                    return Err(io(dir, "make directory", "a file has this name"));
                }
                None => {
                    let id = self.next_id;
                    self.next_id += 1;
                    self.live.insert(id, BTreeMap::new());
                    self.durable.insert(id, BTreeMap::new());
                    let node = Node::Dir(id);
                    self.rename_node(NameChange::Link { dir: at, name: part.to_string(), node });
                    id
                }
            };
        }
        Ok(())
    }

    fn create(&mut self, file: &FileName) -> Result<(), DiskError> {
        let (dir, name) = self.parent(file)?;
        match self.live[&dir].get(&name) {
            Some(Node::File(id)) => {
                let id = *id;
                self.change(id, DataChange::SetLen(0));
            }
            Some(Node::Dir(_)) => return Err(io(file, "create", "is a directory")),
            None => {
                let id = self.next_id;
                self.next_id += 1;
                self.files.insert(id, FileBytes::default());
                self.rename_node(NameChange::Link { dir, name, node: Node::File(id) });
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        let source = self.parent(from)?;
        let target = self.parent(to)?;
        let Some(node) = self.live[&source.0].get(&source.1).copied() else {
            let again = self.live[&target.0].contains_key(&target.1);
            return if again { Ok(()) } else { Err(DiskError::NotFound { file: from.clone() }) };
        };
        match (node, self.live[&target.0].get(&target.1)) {
            (_, None) | (Node::File(_), Some(Node::File(_))) => {}
            (Node::Dir(_), Some(Node::Dir(id))) if self.live[id].is_empty() => {}
            _ => return Err(io(to, "rename onto", "the target is in the way")),
        }
        self.rename_node(NameChange::Move { from: source, to: target, node });
        Ok(())
    }

    fn remove(&mut self, file: &FileName) -> Result<(), DiskError> {
        match self.node(file.as_str()) {
            None => Ok(()),
            Some(Node::Dir(_)) => Err(io(file, "remove", "is a directory")),
            Some(Node::File(_)) => {
                let (dir, name) = self.parent(file)?;
                self.rename_node(NameChange::Unlink { dir, name });
                Ok(())
            }
        }
    }

    fn sync(&mut self, id: u64) {
        let file = self.files.get_mut(&id).expect("a named file has bytes");
        for change in std::mem::take(&mut file.pending) {
            change.apply(&mut file.durable);
        }
    }

    fn sync_dir(&mut self, id: u64) {
        let durable = &mut self.durable;
        let mut takes_away = false;
        self.pending.retain(|change| {
            let covered = change.touches(id);
            if covered {
                takes_away |= !matches!(change, NameChange::Link { .. });
                change.apply(durable);
            }
            !covered
        });
        if takes_away {
            self.forget_nameless();
        }
    }

    /// Files that have no name any more, here or after any crash, take no room. (What of them is not synced stays until the next
    /// crash, which draws something for every such write.)
    fn forget_nameless(&mut self) {
        let mut named = BTreeSet::new();
        let mut name = |node: &Node| {
            if let Node::File(id) = node {
                named.insert(*id);
            }
        };
        for names in [&self.live, &self.durable] {
            names.values().flat_map(BTreeMap::values).for_each(&mut name);
        }
        for change in &self.pending {
            if let NameChange::Link { node, .. } | NameChange::Move { node, .. } = change {
                name(node);
            }
        }
        self.files.retain(|id, file| {
            if !named.contains(id) {
                (file.live, file.durable) = (Pages::default(), Pages::default());
            }
            named.contains(id) || !file.pending.is_empty()
        });
    }

    /// A failed sync: what was to be synced is gone, although everybody still sees it.
    pub(super) fn lose_pending(&mut self, file: &FileName) {
        if let Ok(id) = self.file(file) {
            self.files.get_mut(&id).expect("a named file has bytes").pending.clear();
        }
    }

    /// Bytes of the newest unsynced write of the disk.
    pub(super) fn last_write_len(&self) -> Option<u64> {
        let id = self.last_touched()?;
        self.files[&id].pending.last().map(|change| change.span().1)
    }

    fn last_touched(&self) -> Option<u64> {
        let unsynced = self.files.iter().filter(|(_, file)| !file.pending.is_empty());
        unsynced.max_by_key(|(_, file)| file.touched).map(|(id, _)| *id)
    }

    /// The tree after a power loss, chosen exactly.
    pub(super) fn crash_exactly(&self, data: Keep, names: KeepNames) -> Tree {
        let mut after = self.clone();
        let last = self.last_touched();
        for (id, file) in &mut after.files {
            let pending = std::mem::take(&mut file.pending);
            let count = pending.len();
            let (last_at, _) = pending.last().map_or((0, 0), DataChange::span);
            for (at, change) in pending.into_iter().enumerate() {
                let is_file = last == Some(*id);
                let (offset, _) = change.span();
                match data {
                    Keep::None => {}
                    Keep::LastTorn(n) | Keep::OnlyLast(n) if is_file && at + 1 == count => {
                        change.apply_part(&mut file.durable, offset, offset + n);
                    }
                    // A sector that was written back is so with everything before.
                    Keep::OnlyLast(n) if is_file && n > 0 => {
                        let from = last_at / SECTOR * SECTOR;
                        let to = (last_at + n).next_multiple_of(SECTOR);
                        change.apply_part(&mut file.durable, from, to);
                    }
                    Keep::OnlyLast(_) => {}
                    Keep::All | Keep::LastTorn(_) => change.apply(&mut file.durable),
                }
            }
        }
        let pending = std::mem::take(&mut after.pending);
        let from = match names {
            KeepNames::None => pending.len(),
            KeepNames::All => 0,
            KeepNames::OnlyLast => pending.len().saturating_sub(1),
        };
        for change in &pending[from..] {
            change.apply(&mut after.durable);
        }
        after.restart_from_durable();
        after
    }

    /// The tree after a power loss, chosen by seed.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        // Whole-disk moods, so that "nothing was written back" and "everything was" are not rare.
        let mood = rng.below(6);
        for file in self.files.values_mut() {
            let pending = std::mem::take(&mut file.pending);
            let count = pending.len();
            let mut lost = Lost::default();
            for (at, change) in pending.into_iter().enumerate() {
                let (offset, len) = change.span();
                let (bytes, lost) = (&mut file.durable, &mut lost);
                match (mood, rng.below(4)) {
                    (0, _) | (2.., 0) => change.apply_sectors(bytes, lost, &mut || false),
                    (1, _) | (2.., 1) => change.apply_sectors(bytes, lost, &mut || true),
                    // A device tears between sectors. Within one it does not, but a write that was cut short in the
                    // page cache does, and that can only be the last.
                    (2.., 2) if at + 1 == count => {
                        change.first(rng.below(len + 1)).apply_sectors(bytes, lost, &mut || true);
                    }
                    _ if matches!(change, DataChange::SetLen(_)) => {
                        change.apply_sectors(bytes, lost, &mut || true);
                    }
                    _ => {
                        change.apply_sectors(bytes, lost, &mut || rng.chance(1, 2));
                        // The length may have reached the disk without the data.
                        if rng.chance(1, 2) && bytes.len() < offset + len {
                            bytes.resize(offset + len);
                        }
                    }
                }
            }
        }
        for change in std::mem::take(&mut self.pending) {
            if mood == 1 || (mood != 0 && rng.chance(1, 2)) {
                change.apply(&mut self.durable);
            }
        }
        self.restart_from_durable();
    }

    fn restart_from_durable(&mut self) {
        self.live = self.durable.clone();
        self.pending.clear();
        let mut reached = Vec::new();
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for node in self.live.get(&dir).into_iter().flat_map(|names| names.values()) {
                match node {
                    Node::Dir(id) => dirs.push(*id),
                    Node::File(id) => reached.push(*id),
                }
            }
        }
        self.files.retain(|id, _| reached.contains(id));
        for file in self.files.values_mut() {
            file.live = file.durable.clone();
        }
        self.count_used();
    }
}

fn op_len(op: &DiskOp) -> u64 {
    match op {
        DiskOp::Write { data, .. } => data.len() as u64,
        _ => 0,
    }
}

fn io(file: &FileName, action: &'static str, reason: &str) -> DiskError {
    DiskError::Io { file: file.clone(), action, reason: reason.to_string() }
}
