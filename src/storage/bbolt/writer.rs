//! Writing: sorted keys in, pages out, one pass. Of every level of the tree only the page being filled is kept, and of
//! every page the keys and values that are to stand on it, so memory does not grow with the database.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    BUCKET_BYTES, BoltError, ELEMENT_BYTES, KIND_BRANCH, KIND_LEAF, KIND_META, LEAF_IS_BUCKET,
    MAGIC, META_BYTES, NO_FREELIST, PAGE_HEADER_BYTES, PageSink, VERSION, fnv1a,
};

/// Longest key, and longest value, that bbolt takes.
const KEY_BYTES_MAX: usize = 32768;
const VALUE_BYTES_MAX: usize = (1 << 31) - 2;

/// Most elements of a page; 0xFFFF means something else in a freelist.
const ELEMENTS_MAX: usize = 65534;

/// Writes a bbolt file. The page size is that of the machine the file is for: 4096 nearly everywhere.
///
/// ```text
///   pages:  0 meta | 1 meta | leaves and branches of one bucket after the other | leaf or branches of the root bucket
///           written last      written as they fill up
/// ```
pub struct BoltWriter<K> {
    pages: Pages<K>,
    txid: u64,
    /// Name and root page of the finished buckets.
    buckets: Vec<(Bytes, u64)>,
    open: Option<(Bytes, Tree)>,
}

struct Pages<K> {
    sink: K,
    page_bytes: usize,
    next: u64,
    /// The page being put together, kept for its memory.
    buffer: BytesMut,
}

/// A tree being built from the left: the page being filled of every level, leaves first.
struct Tree {
    levels: Vec<Level>,
    last_key: Option<Bytes>,
}

#[derive(Default)]
struct Level {
    elements: Vec<Element>,
    /// Keys and values in the order they will stand, and their ends in the elements.
    packed: Vec<u8>,
    /// Pages written of this level.
    written: u64,
}

struct Element {
    /// Bucket flag of a leaf element.
    flags: u32,
    key_bytes: usize,
    value_bytes: usize,
    /// Page of a branch element.
    child: u64,
}

impl Level {
    fn page_len(&self) -> usize {
        PAGE_HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.packed.len()
    }

    fn first_key(&self) -> Bytes {
        Bytes::copy_from_slice(
            &self.packed[..self.elements.first().map_or(0, |first| first.key_bytes)],
        )
    }

    /// Whether an element of `len` bytes must go to a new page: bbolt wants two of them on each, unless it is the last,
    /// and etcd fills nine tenths.
    fn is_full_for(&self, len: usize, page_bytes: usize) -> bool {
        let fill = page_bytes - page_bytes / 10;
        self.elements.len() >= ELEMENTS_MAX
            || (self.elements.len() >= 2 && self.page_len() + ELEMENT_BYTES + len > fill)
    }
}

impl<K: PageSink> BoltWriter<K> {
    /// `page_bytes`: a power of two from 1024 on. `txid`: at least 1.
    pub fn new(sink: K, page_bytes: u32, txid: u64) -> BoltWriter<K> {
        assert!(
            page_bytes.is_power_of_two() && (1024..=1 << 16).contains(&page_bytes),
            "page size {page_bytes}"
        );
        assert!(txid >= 1, "the meta pages have two consecutive transactions");
        let pages =
            Pages { sink, page_bytes: page_bytes as usize, next: 2, buffer: BytesMut::new() };
        BoltWriter { pages, txid, buckets: Vec::new(), open: None }
    }

    /// Begins a bucket; ends the one before. Buckets may come in any order, each once.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), BoltError> {
        self.end_bucket()?;
        assert!(
            !name.is_empty() && !self.buckets.iter().any(|(known, _)| known == name),
            "bucket {name:?}"
        );
        self.open = Some((Bytes::copy_from_slice(name), Tree::new()));
        Ok(())
    }

    /// Adds a pair to the bucket; keys ascend.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        let (_, tree) = self.open.as_mut().expect("a bucket is open");
        tree.put(&mut self.pages, 0, key, value)
    }

    /// Writes what remains. Returns the sink and the length of the file.
    pub fn finish(mut self) -> Result<(K, u64), BoltError> {
        self.end_bucket()?;
        self.buckets.sort_unstable();
        let mut root = Tree::new();
        for (name, page) in std::mem::take(&mut self.buckets) {
            let mut value = [0; BUCKET_BYTES];
            value[..8].copy_from_slice(&page.to_le_bytes());
            root.put(&mut self.pages, LEAF_IS_BUCKET, &name, &value)?;
        }
        let root = root.finish(&mut self.pages)?;
        let used = self.pages.next;
        // As after a commit: the newer transaction on the page of its parity.
        for txid in [self.txid - 1, self.txid] {
            self.pages.write_meta(txid, root, used)?;
        }
        let bytes = used * self.pages.page_bytes as u64;
        Ok((self.pages.sink, bytes))
    }

    fn end_bucket(&mut self) -> Result<(), BoltError> {
        if let Some((name, tree)) = self.open.take() {
            let root = tree.finish(&mut self.pages)?;
            self.buckets.push((name, root));
        }
        Ok(())
    }
}

impl Tree {
    fn new() -> Tree {
        Tree { levels: vec![Level::default()], last_key: None }
    }

    fn put<K: PageSink>(
        &mut self,
        pages: &mut Pages<K>,
        flags: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), BoltError> {
        assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "a key of {} bytes", key.len());
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
        assert!(
            self.last_key.as_ref().is_none_or(|last| last < key),
            "key {key:?} is not above the one before"
        );
        self.last_key = Some(Bytes::copy_from_slice(key));
        if self.levels[0].is_full_for(key.len() + value.len(), pages.page_bytes) {
            self.flush(pages, 0)?;
        }
        let level = &mut self.levels[0];
        level.packed.extend_from_slice(key);
        level.packed.extend_from_slice(value);
        level.elements.push(Element {
            flags,
            key_bytes: key.len(),
            value_bytes: value.len(),
            child: 0,
        });
        Ok(())
    }

    /// Writes the page being filled of a level and enters it in the level above.
    fn flush<K: PageSink>(&mut self, pages: &mut Pages<K>, at: usize) -> Result<(), BoltError> {
        let level = &mut self.levels[at];
        let key = level.first_key();
        let child = pages.write(if at == 0 { KIND_LEAF } else { KIND_BRANCH }, level)?;
        level.elements.clear();
        level.packed.clear();
        level.written += 1;
        if self.levels.len() == at + 1 {
            self.levels.push(Level::default());
        }
        if self.levels[at + 1].is_full_for(key.len(), pages.page_bytes) {
            self.flush(pages, at + 1)?;
        }
        let above = &mut self.levels[at + 1];
        above.packed.extend_from_slice(&key);
        above.elements.push(Element { flags: 0, key_bytes: key.len(), value_bytes: 0, child });
        Ok(())
    }

    /// Writes the pages being filled, from the leaves up; the root's number.
    fn finish<K: PageSink>(mut self, pages: &mut Pages<K>) -> Result<u64, BoltError> {
        let mut at = 0;
        loop {
            // The only page of the highest level is the root.
            if at + 1 == self.levels.len() && self.levels[at].written == 0 {
                return pages
                    .write(if at == 0 { KIND_LEAF } else { KIND_BRANCH }, &self.levels[at]);
            }
            if !self.levels[at].elements.is_empty() {
                self.flush(pages, at)?;
            }
            at += 1;
        }
    }
}

impl<K: PageSink> Pages<K> {
    /// Writes a page, over as many as it takes; its number.
    fn write(&mut self, kind: u16, level: &Level) -> Result<u64, BoltError> {
        let page_bytes = self.page_bytes;
        let count = level.page_len().div_ceil(page_bytes);
        let id = self.next;
        self.next += count as u64;
        let out = &mut self.buffer;
        out.clear();
        out.put_u64_le(id);
        out.put_u16_le(kind);
        out.put_u16_le(level.elements.len() as u16);
        out.put_u32_le(count as u32 - 1);
        let mut packed_at = PAGE_HEADER_BYTES + level.elements.len() * ELEMENT_BYTES;
        for (at, element) in level.elements.iter().enumerate() {
            let position = (packed_at - PAGE_HEADER_BYTES - at * ELEMENT_BYTES) as u32;
            if kind == KIND_LEAF {
                out.put_u32_le(element.flags);
                out.put_u32_le(position);
                out.put_u32_le(element.key_bytes as u32);
                out.put_u32_le(element.value_bytes as u32);
            } else {
                out.put_u32_le(position);
                out.put_u32_le(element.key_bytes as u32);
                out.put_u64_le(element.child);
            }
            packed_at += element.key_bytes + element.value_bytes;
        }
        out.put_slice(&level.packed);
        out.resize(count * page_bytes, 0);
        self.sink.write_at(id * page_bytes as u64, out)?;
        Ok(id)
    }

    fn write_meta(&mut self, txid: u64, root: u64, used: u64) -> Result<(), BoltError> {
        let id = txid % 2;
        let out = &mut self.buffer;
        out.clear();
        out.put_u64_le(id);
        out.put_u16_le(KIND_META);
        out.put_u16_le(0);
        out.put_u32_le(0);
        out.put_u32_le(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(self.page_bytes as u32);
        out.put_u32_le(0);
        out.put_u64_le(root);
        out.put_u64_le(0);
        out.put_u64_le(NO_FREELIST);
        out.put_u64_le(used);
        out.put_u64_le(txid);
        let hash = fnv1a(&out[PAGE_HEADER_BYTES..]);
        out.put_u64_le(hash);
        debug_assert_eq!(out.len(), PAGE_HEADER_BYTES + META_BYTES);
        out.resize(self.page_bytes, 0);
        self.sink.write_at(id * self.page_bytes as u64, out)
    }
}
