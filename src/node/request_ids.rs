//! Request ids: unique over members and restarts, without coordination.
//!
//! 16 bits of the member, then a counter that begins where the seed of this start says, moved on by 256 ids for each millisecond of the clock.
//! (etcd has only the clock. A start in the same millisecond, behind a clock that was set back, or after more than 256 requests per
//! millisecond would use ids of the life before again: an entry of that life, applied now, would pass for a new request, and its caller
//! would get an answer before anything was done.)

#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestIds {
    prefix: u64,
    suffix: u64,
}

impl RequestIds {
    pub(crate) fn new(member: u64, unix_ms: u64, seed: u64) -> RequestIds {
        let anywhere = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        RequestIds { prefix: member << 48, suffix: (unix_ms << 8).wrapping_add(anywhere) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.suffix = self.suffix.wrapping_add(1);
        self.prefix | (self.suffix & ((1 << 48) - 1))
    }
}
