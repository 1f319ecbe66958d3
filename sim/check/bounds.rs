//! What a member holds for others does not grow past its limits, and it holds nothing for those who are gone.

use norn_node::{Node, Reader};

use crate::history::{Failure, Verdict};

/// What one request may add to what is counted in bytes: the longest value of the workloads, a few times over, in a transaction.
const REQUEST_BYTES: usize = 64 << 10;
/// Responses that a client asked for are given although its stream is full: the server reads no more requests then.
const ASKED_FOR: usize = 8;

/// After every turn. (Who failed does nothing more, not even forget what it read when it started.)
pub fn observe<R: Reader>(node: &Node<R>) -> Verdict {
    if node.has_failed() {
        return Ok(());
    }
    for holding in node.holdings() {
        let more = if holding.is_bytes { REQUEST_BYTES } else { ASKED_FOR };
        if holding.count > holding.limit.saturating_add(more) {
            let detail = format!("{:x}: {holding:?}", node.id());
            return Err(Failure::new("Nothing grows past its limit.", detail));
        }
    }
    Ok(())
}

/// After every turn, with the number of calls that somebody waits for here.
pub fn waiting<R: Reader>(node: &Node<R>, calls: impl FnOnce() -> usize) -> Verdict {
    let held = node.waiting_calls();
    if held == 0 {
        return Ok(());
    }
    let calls = calls();
    if held <= calls {
        return Ok(());
    }
    let detail = format!("{:x}: {held} calls, of which {calls} are waited for", node.id());
    Err(Failure::new("Calls that nobody waits for are forgotten.", detail))
}
