//! Reading: every length and position is checked against what is there, so arbitrary bytes give an error at worst.

use std::ops::ControlFlow;

use bytes::Bytes;
use norn_planted::planted;

use super::{
    BUCKET_BYTES, BoltError, ELEMENT_BYTES, KIND_BRANCH, KIND_LEAF, KIND_META, LEAF_IS_BUCKET,
    MAGIC, META_BYTES, PAGE_HEADER_BYTES, PageSource, VERSION, fnv1a, u16_at, u32_at, u64_at,
};

/// A bbolt file as of its last transaction.
pub struct BoltReader<S> {
    source: S,
    page_bytes: u32,
    root: u64,
    /// First page number never used.
    pages: u64,
    txid: u64,
}

/// A bucket that was found; valid for the reader it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    root: u64,
    inline: Option<Bytes>,
    /// bbolt's counter for the caller's use; etcd does not use it.
    pub sequence: u64,
}

/// Trees are as deep as their keys are many; a deeper one has a loop.
const DEPTH_MAX: usize = 32;

struct Page {
    id: u64,
    is_leaf: bool,
    count: usize,
    bytes: Bytes,
}

struct Leaf {
    is_bucket: bool,
    key: Bytes,
    value: Bytes,
}

type Visit<'a> = &'a mut dyn FnMut(&Leaf) -> Result<ControlFlow<()>, BoltError>;

impl<S: PageSource> BoltReader<S> {
    /// Finds the newest valid meta page.
    pub fn open(source: S) -> Result<BoltReader<S>, BoltError> {
        let mut best: Option<BoltReader<()>> = None;
        let first = parse_meta(&source, 0, 0)?;
        // The second one stands behind a page whose size only the first one tells. Without it, sizes are tried.
        let sizes = match &first {
            Some(meta) => vec![u64::from(meta.page_bytes)],
            None => (0..15).map(|i| 1024 << i).collect(),
        };
        let mut metas = vec![first];
        for size in sizes {
            metas.push(
                parse_meta(&source, 1, size)?.filter(|meta| u64::from(meta.page_bytes) == size),
            );
        }
        for meta in metas.into_iter().flatten() {
            if best.as_ref().is_none_or(|best| best.txid < meta.txid) {
                best = Some(meta);
            }
        }
        let BoltReader { page_bytes, root, pages, txid, .. } =
            best.ok_or(BoltError::NotABoltFile)?;
        Ok(BoltReader { source, page_bytes, root, pages, txid })
    }

    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Number of the last transaction.
    pub fn txid(&self) -> u64 {
        self.txid
    }

    /// Length of the used part of the file.
    pub fn used_bytes(&self) -> u64 {
        self.pages.saturating_mul(u64::from(self.page_bytes))
    }

    /// Top-level buckets in the order of their names.
    pub fn buckets(&self) -> Result<Vec<(Bytes, Bucket)>, BoltError> {
        let mut buckets = Vec::new();
        self.walk(self.root, &[], &mut |leaf| {
            if leaf.is_bucket {
                buckets.push((Bytes::copy_from_slice(&leaf.key), self.parse_bucket(&leaf.value)?));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(buckets)
    }

    /// A top-level bucket.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, BoltError> {
        let mut found = None;
        self.walk(self.root, name, &mut |leaf| {
            if leaf.is_bucket && leaf.key == name {
                found = Some(self.parse_bucket(&leaf.value)?);
            }
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// Visits keys and values from the first key >= `from`, in byte order, until `visit` breaks. Nested buckets, which
    /// etcd does not use, are passed over. Both are slices of the page they stand on.
    pub fn scan(
        &self,
        bucket: &Bucket,
        from: &[u8],
        visit: &mut dyn FnMut(&Bytes, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), BoltError> {
        let mut each = |leaf: &Leaf| {
            Ok(if leaf.is_bucket {
                ControlFlow::Continue(())
            } else {
                visit(&leaf.key, &leaf.value)
            })
        };
        match &bucket.inline {
            Some(bytes) => walk_leaf(&parse_page(0, bytes.clone())?, from, &mut each).map(|_| ()),
            None => self.walk(bucket.root, from, &mut each),
        }
    }

    /// The value of a key.
    pub fn value(&self, bucket: &Bucket, key: &[u8]) -> Result<Option<Bytes>, BoltError> {
        let mut found = None;
        self.scan(bucket, key, &mut |at, value| {
            found = (at == key).then(|| value.clone());
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    fn parse_bucket(&self, value: &Bytes) -> Result<Bucket, BoltError> {
        if value.len() < BUCKET_BYTES {
            return Err(corrupt(self.root, "a bucket is too short"));
        }
        let (root, sequence) = (u64_at(value, 0), u64_at(value, 8));
        let inline = (root == 0).then(|| value.slice(BUCKET_BYTES..));
        Ok(Bucket { root, inline, sequence })
    }

    fn page(&self, id: u64) -> Result<Page, BoltError> {
        if id < 2 || id >= self.pages {
            return Err(corrupt(id, "page number out of range"));
        }
        let size = self.page_bytes as usize;
        let offset =
            id.checked_mul(size as u64).ok_or_else(|| corrupt(id, "page number out of range"))?;
        let first = self.source.read_at(offset, size)?;
        if first.len() < size {
            return Err(corrupt(id, "the file ends before"));
        }
        if u64_at(&first, 0) != id {
            return Err(corrupt(id, "the page has another number"));
        }
        let overflow = u64::from(u32_at(&first, 12));
        if overflow == 0 {
            return parse_page(id, first);
        }
        let len = (overflow + 1) * size as u64;
        if overflow >= self.pages - id || len > self.source.length()?.saturating_sub(offset) {
            return Err(corrupt(id, "more overflow than pages"));
        }
        parse_page(id, self.source.read_at(offset, len as usize)?)
    }

    /// Visits leaf elements from the first key >= `from` on.
    fn walk(&self, root: u64, from: &[u8], visit: Visit<'_>) -> Result<(), BoltError> {
        // Pages from the root down, with the next element of each.
        let mut path: Vec<(Page, usize)> = Vec::new();
        let mut seeking = true;
        let mut next = Some(root);
        // A damaged file whose branches share pages would take for ever.
        let pages = self.source.length()? / u64::from(self.page_bytes);
        let mut steps = pages.min(self.pages);
        loop {
            if let Some(id) = next.take() {
                steps = steps.checked_sub(1).ok_or_else(|| corrupt(id, "the tree has a loop"))?;
                let page = self.page(id)?;
                // Also what it takes beyond its first page: else each of many branches could lead to one large leaf.
                let more = page.bytes.len() as u64 / u64::from(self.page_bytes) - 1;
                steps =
                    steps.checked_sub(more).ok_or_else(|| corrupt(id, "the tree has a loop"))?;
                if page.is_leaf {
                    let from = if seeking { from } else { &[] };
                    seeking = false;
                    if walk_leaf(&page, from, visit)?.is_break() {
                        return Ok(());
                    }
                } else {
                    if path.len() >= DEPTH_MAX {
                        return Err(corrupt(id, "the tree is too deep"));
                    }
                    let at = if seeking { seek_branch(&page, from)? } else { 0 };
                    path.push((page, at));
                }
            }
            let Some((page, at)) = path.last_mut() else {
                return Ok(());
            };
            if *at < page.count {
                next = Some(branch_element(page, *at)?.1);
                *at += 1;
            } else {
                path.pop();
            }
        }
    }
}

/// Visits the elements of a leaf from the first key >= `from` on.
fn walk_leaf(page: &Page, from: &[u8], visit: Visit<'_>) -> Result<ControlFlow<()>, BoltError> {
    if !page.is_leaf {
        return Err(corrupt(page.id, "a leaf was due"));
    }
    let (mut low, mut high) = (0, page.count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if leaf_element(page, middle)?.key < from {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    // Elements lie behind each other. If they could share bytes, a page would yield its square.
    let mut free = 0;
    for at in low..page.count {
        let (leaf, begin, end) = leaf_element_at(page, at)?;
        if begin < free {
            return Err(corrupt(page.id, "elements overlap"));
        }
        free = end;
        if visit(&leaf)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The last child whose first key is <= `from`, else the first one.
fn seek_branch(page: &Page, from: &[u8]) -> Result<usize, BoltError> {
    let (mut low, mut high) = (0, page.count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if branch_element(page, middle)?.0 <= from {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low.saturating_sub(1))
}

fn parse_page(id: u64, bytes: Bytes) -> Result<Page, BoltError> {
    if bytes.len() < PAGE_HEADER_BYTES {
        return Err(corrupt(id, "the page is too short"));
    }
    let is_leaf = match u16_at(&bytes, 8) {
        KIND_LEAF => true,
        KIND_BRANCH => false,
        _ => return Err(corrupt(id, "neither branch nor leaf")),
    };
    let count = usize::from(u16_at(&bytes, 10));
    if (bytes.len() - PAGE_HEADER_BYTES) / ELEMENT_BYTES < count {
        return Err(corrupt(id, "more elements than bytes"));
    }
    Ok(Page { id, is_leaf, count, bytes })
}

fn leaf_element(page: &Page, at: usize) -> Result<Leaf, BoltError> {
    leaf_element_at(page, at).map(|(leaf, ..)| leaf)
}

/// An element, and where its key and value begin and end in the page.
fn leaf_element_at(page: &Page, at: usize) -> Result<(Leaf, usize, usize), BoltError> {
    let element = PAGE_HEADER_BYTES + at * ELEMENT_BYTES;
    let word = |n: usize| u32_at(&page.bytes, element + 4 * n);
    let key_at = element + word(1) as usize;
    let value_at = key_at + word(2) as usize;
    let end = value_at + word(3) as usize;
    if end > page.bytes.len() && !planted!(BoltElementUnchecked) {
        return Err(corrupt(page.id, "an element reaches beyond the page"));
    }
    let is_bucket = word(0) & LEAF_IS_BUCKET != 0;
    let key = page.bytes.slice(key_at..value_at);
    let value = page.bytes.slice(value_at..end);
    Ok((Leaf { is_bucket, key, value }, key_at, end))
}

/// First key and number of a child.
fn branch_element(page: &Page, at: usize) -> Result<(&[u8], u64), BoltError> {
    let element = PAGE_HEADER_BYTES + at * ELEMENT_BYTES;
    let key_at = element + u32_at(&page.bytes, element) as usize;
    let end = key_at + u32_at(&page.bytes, element + 4) as usize;
    let key = page.bytes.get(key_at..end);
    let key = key.ok_or_else(|| corrupt(page.id, "an element reaches beyond the page"))?;
    Ok((key, u64_at(&page.bytes, element + 8)))
}

/// The meta page at `offset`, if it is valid.
fn parse_meta(
    source: &impl PageSource,
    id: u64,
    offset: u64,
) -> Result<Option<BoltReader<()>>, BoltError> {
    let page = source.read_at(offset, PAGE_HEADER_BYTES + META_BYTES)?;
    if page.len() < PAGE_HEADER_BYTES + META_BYTES
        || u64_at(&page, 0) != id
        || u16_at(&page, 8) != KIND_META
    {
        return Ok(None);
    }
    let meta = &page[PAGE_HEADER_BYTES..];
    let page_bytes = u32_at(meta, 8);
    let valid = u32_at(meta, 0) == MAGIC
        && u32_at(meta, 4) == VERSION
        && u64_at(meta, 56) == fnv1a(&meta[..56])
        && page_bytes.is_power_of_two()
        && (1024..=1 << 24).contains(&page_bytes);
    let (root, pages, txid) = (u64_at(meta, 16), u64_at(meta, 40), u64_at(meta, 48));
    Ok(valid.then_some(BoltReader { source: (), page_bytes, root, pages, txid }))
}

fn corrupt(page: u64, what: &'static str) -> BoltError {
    BoltError::Corrupt { page, what }
}
