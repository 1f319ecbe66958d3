//! A range read in chunks, all at one revision, each chunk no larger than a request may be.

use bytes::Bytes;
use norn_mvcc::{KeyRange, KeyValue, RangeRequest, RangeResult, SortOrder, SortTarget};
use norn_proto::etcdserverpb as pb;

use crate::wire::Header;
use crate::{Error, Node, Reader, convert};

/// Keys of the first chunk; later ones follow the size of what was sent.
const FIRST_KEYS: i64 = 10;

/// How far a stream is. Each call of [`RangeStream::next`] reads one chunk.
#[derive(Clone, Debug)]
pub struct RangeStream {
    request: RangeRequest,
    end: Bytes,
    /// Header of the last chunk, taken with the first.
    header: Option<Header>,
    /// 0: no limit.
    limit: i64,
    sent: i64,
    chunk_keys: i64,
    is_done: bool,
    pub is_serializable: bool,
}

impl RangeStream {
    /// Checks the request as Range does, and that it can be streamed.
    pub fn new(r: &pb::RangeRequest) -> Result<RangeStream, Error> {
        let mut request = convert::range_request(r)?;
        let is_plain = request.sort_order == SortOrder::None
            || (request.sort_order == SortOrder::Ascend && request.sort_target == SortTarget::Key);
        if !is_plain {
            return Err(Error::RangeStreamSort);
        }
        let bounds =
            [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision];
        if bounds.iter().any(|bound| *bound != 0) {
            return Err(Error::RangeStreamFilter);
        }
        // Without an order the target cannot matter: chunks come in key order.
        request.sort_target = SortTarget::Key;
        Ok(RangeStream {
            end: r.range_end.clone(),
            header: None,
            limit: request.limit.max(0),
            sent: 0,
            chunk_keys: if request.limit < 0 { 0 } else { FIRST_KEYS },
            is_done: false,
            is_serializable: r.serializable,
            request,
        })
    }

    /// The next encoded `RangeStreamResponse`, `None` after the last.
    pub fn next<R: Reader>(&mut self, node: &Node<R>) -> Result<Option<Bytes>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let header = *self.header.get_or_insert_with(|| node.header());
        if self.request.revision == 0 {
            self.request.revision = header.revision;
        }
        let left = self.limit - self.sent;
        self.request.limit = match self.limit {
            0 => self.chunk_keys,
            _ => self.chunk_keys.min(left),
        };
        let result = node.store.range(&node.backend, &self.request)?;
        let got = result.kvs.len() as i64;
        self.sent += got;
        let is_last = !result.more || (self.limit > 0 && self.sent >= self.limit);
        if is_last || self.request.count_only {
            self.is_done = true;
            // `count` is of the whole range: what earlier chunks sent is not in this one's.
            let count = self.sent - got + result.count;
            let last = RangeResult { count, ..result };
            return Ok(Some(convert::range_last_chunk(&header, &last)));
        }
        let chunk = convert::range_chunk(&result.kvs);
        let max = node.config.request_bytes_max;
        if chunk.len() < max / 2 {
            self.chunk_keys *= 2;
        } else if chunk.len() > max * 2 {
            self.chunk_keys = (self.chunk_keys / 2).max(1);
        }
        self.go_on_behind(&result)?;
        Ok(Some(chunk))
    }

    fn go_on_behind(&mut self, result: &RangeResult) -> Result<(), Error> {
        let Some(last) = result.kvs.last() else { return Ok(()) };
        let key = KeyValue::decode_key(last).map_err(|e| Error::Storage(e.to_string()))?;
        let mut next = key.to_vec();
        next.push(0);
        self.request.range = KeyRange::new(next.into(), self.end.clone());
        Ok(())
    }
}
