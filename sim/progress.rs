//! How far a long command is: one line that changes on a terminal, a line now and then elsewhere. On stderr, because what a
//! command found is on stdout.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TERMINAL_EVERY: Duration = Duration::from_millis(200);
const PLAIN_EVERY: Duration = Duration::from_secs(30);

pub struct Progress {
    count: usize,
    started: Instant,
    is_terminal: bool,
    /// When it was told last, and whether that is still to be seen.
    last: Mutex<(Instant, bool)>,
}

impl Progress {
    pub fn new(count: usize) -> Progress {
        let now = Instant::now();
        let is_terminal = std::io::stderr().is_terminal();
        Progress { count, started: now, is_terminal, last: Mutex::new((now, false)) }
    }

    pub fn tell(&self, done: usize, failed: usize) {
        let mut last = self.last.lock().expect("no holder panics");
        let every = if self.is_terminal { TERMINAL_EVERY } else { PLAIN_EVERY };
        if last.0.elapsed() < every {
            return;
        }
        let line = line(done, self.count, failed, self.started.elapsed());
        *last = (Instant::now(), self.is_terminal);
        match self.is_terminal {
            true => eprint!("\r{line}\x1b[K"),
            false => eprintln!("{line}"),
        }
        let _ = std::io::stderr().flush();
    }

    /// Makes room for something else.
    pub fn clear(&self) {
        let mut last = self.last.lock().expect("no holder panics");
        if std::mem::take(&mut last.1) {
            eprint!("\r\x1b[K");
            // (The next word of progress comes at once.)
            last.0 -= TERMINAL_EVERY.min(self.started.elapsed());
        }
    }
}

fn line(done: usize, count: usize, failed: usize, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let left = (count - done.min(count)) as f64 / rate.max(1e-3);
    format!("{done} of {count}, {failed} failed, {rate:.1} seeds/s, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_rest() {
        let line = line(20, 100, 1, Duration::from_secs(10));
        assert_eq!(line, "20 of 100, 1 failed, 2.0 seeds/s, 40 s left");
    }
}
