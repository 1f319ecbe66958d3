//! What all of them share: the members' addresses, and where the run is.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use norn_tests::req::get;
use norn_tests::{Client, poll};

/// A call without an answer by then has an unknown outcome.
const CALL_LIMIT: Duration = Duration::from_secs(3);
/// Before a client that was refused tries the next member.
const RETRY: Duration = Duration::from_millis(20);

pub struct Shared {
    urls: Vec<String>,
    pub stop_writing: AtomicBool,
    /// The newest revision, once nobody writes any more.
    pub last_revision: AtomicI64,
    /// Odd while something is broken.
    pub faults: AtomicU64,
}

impl Shared {
    pub fn new(urls: Vec<String>) -> Shared {
        Shared {
            urls,
            stop_writing: AtomicBool::new(false),
            last_revision: AtomicI64::new(0),
            faults: AtomicU64::new(0),
        }
    }

    /// All has been written: tells the caches where the end is.
    pub async fn finish(&self, client: Client) {
        let limit = Duration::from_secs(60);
        let revision = poll::until_async("the last revision", limit, async || {
            let answer = client.range(get("no such key")).await.ok()?;
            answer.header.map(|header| header.revision)
        })
        .await;
        self.last_revision.store(revision, Ordering::SeqCst);
    }
}

/// One client of the cluster: it stays with a member until that one fails.
pub struct Endpoint {
    clients: Vec<Client>,
    at: usize,
}

impl Endpoint {
    pub fn new(shared: &Shared, first: usize) -> Endpoint {
        let clients: Vec<Client> =
            shared.urls.iter().map(|url| Client::with_limit(url, CALL_LIMIT)).collect();
        Endpoint { at: first % clients.len(), clients }
    }

    pub fn client(&self) -> Client {
        self.clients[self.at].clone()
    }

    /// The next one, after a moment: three refusing members must not be asked in a hot loop.
    pub async fn fail(&mut self) {
        self.at = (self.at + 1) % self.clients.len();
        tokio::time::sleep(RETRY).await;
    }
}
