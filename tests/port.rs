//! Ports nobody else uses. They come from below the kernel's ephemeral range, so that no outgoing connection can take
//! one while its server is down between two starts, and each is held by a lock file for as long as it is wanted, so that
//! two test processes on one machine do not meet.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};

/// A port on 127.0.0.1 that stays ours until this and all its clones are dropped.
#[derive(Debug, Clone)]
pub struct Port {
    pub number: u16,
    _lock: Arc<File>,
}

/// Below 32768 (where Linux starts by default) and above what services commonly use.
const FIRST: u32 = 11_000;
const COUNT: u32 = 20_000;

impl Port {
    pub fn pick() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join("norn-test-ports");
        fs::create_dir_all(&dir).expect("the folder for port locks");
        let start = std::process::id().wrapping_mul(7_919);
        for _ in 0..COUNT {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = (FIRST + start.wrapping_add(turn) % COUNT) as u16;
            let lock = File::create(dir.join(number.to_string())).expect("a port's lock file");
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: Arc::new(lock) };
            }
        }
        panic!("no free port in {FIRST}..{}", FIRST + COUNT);
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
