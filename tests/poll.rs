//! Waiting for a condition. A test never sleeps for a guessed time: it asks again until the answer is right or the
//! deadline has passed.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const STEP: Duration = Duration::from_millis(10);

/// Asks until the answer is `Some`; panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(start.elapsed() < limit, "gave up after {limit:?} waiting for: {what}");
        std::thread::sleep(STEP);
    }
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
