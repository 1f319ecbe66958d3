//! Waiting for a condition. A test never sleeps for a guessed time: it asks again until the answer is right or the
//! deadline has passed.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const STEP: Duration = Duration::from_millis(5);

/// Asks until the answer is `Some`; panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, ask: impl FnMut() -> Option<T>) -> T {
    within(limit, ask).unwrap_or_else(|| panic!("gave up after {limit:?} waiting for: {what}"))
}

/// As [`until`]; `None` after `limit`.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let found = ask();
        if found.is_some() || start.elapsed() >= limit {
            return found;
        }
        std::thread::sleep(STEP);
    }
}

/// The end of a child, or `None` if it still runs after `limit`.
pub fn end_within(limit: Duration, child: &mut Child) -> Option<ExitStatus> {
    within(limit, || child.try_wait().expect("a child can be waited for"))
}

/// As [`until`], for questions that are themselves asynchronous.
pub async fn until_async<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(start.elapsed() < limit, "gave up after {limit:?} waiting for: {what}");
        tokio::time::sleep(STEP).await;
    }
}
