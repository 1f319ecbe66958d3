//! A thread whose work can wait a little leaves its core again and again.
//!
//! A low priority is not enough: a scheduler that lets whoever runs finish its slice (Linux 6.18 does) keeps a thread that has just become
//! ready, with a write of the log to start or an answer to send, waiting for the next tick of its clock, 4 ms, whatever the priorities are.

use std::cell::Cell;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What others wait for at most. (Between two looks at the time there may be a little more.)
const RUN: Duration = Duration::from_micros(500);
/// As short as the system can: whoever waits has the core by then. With what a timer is late (50 us), a sixth of the time where nobody does.
const REST: Duration = Duration::from_micros(50);

thread_local! {
    static RUNS_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// This thread rests from now on, wherever [`if_due`] is called.
pub fn begin() {
    RUNS_SINCE.set(Some(Instant::now()));
}

/// Lets others have the core, if this thread is one that rests and has had it for long enough.
pub fn if_due() {
    let Some(since) = RUNS_SINCE.get() else { return };
    if since.elapsed() >= RUN {
        sleep(REST);
        RUNS_SINCE.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rests() -> bool {
        let before = RUNS_SINCE.get();
        if_due();
        RUNS_SINCE.get() != before
    }

    #[test]
    fn a_thread_that_asked_for_it_rests_again_and_again() {
        let spin = || {
            let since = Instant::now();
            while since.elapsed() < RUN {}
        };
        spin();
        assert!(!rests(), "nobody asked for it");
        begin();
        spin();
        assert!(rests());
        spin();
        assert!(rests(), "and again");
        std::thread::spawn(move || {
            spin();
            assert!(!rests(), "another thread's affair");
        })
        .join()
        .unwrap();
    }
}
