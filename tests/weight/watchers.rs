//! Watchers that hear nothing, and one that does not listen.

use std::time::{Duration, Instant};

use norn_tests::req::{put, watch, watch_prefix};
use norn_tests::{Server, WatchStream};

const CONNECTIONS: usize = 10;
const STREAMS: usize = 1_000;
const WATCHERS: usize = 10_000;
const BYTES_PER_WATCHER: u64 = 2_048;

/// What a stalled reader may cost: what waits in its connection, with room for what the writes themselves leave behind.
const STALLED_BYTES: u64 = 64 << 20;
const EVENTS: usize = 20_000;
const EVENT_BYTES: usize = 10_000;
/// Keys that are written over and over.
const KEYS: usize = 16;

pub async fn idle(server: &Server) -> Option<String> {
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| server.client()).collect();
    // The connections, and what the first stream brings with it, are not what is weighed.
    let mut streams: Vec<WatchStream> = Vec::new();
    for client in &clients {
        streams.push(client.watch(watch("first")).await);
    }
    let before = server.rss_kib();
    for n in 0..STREAMS {
        let mut stream = clients[n % CONNECTIONS].open_watch();
        for w in 0..WATCHERS / STREAMS {
            stream.create(watch(&format!("/registry/pods/namespace-{n}/name-{w}"))).await;
        }
        streams.push(stream);
    }
    let each = (server.rss_kib() - before) * 1024 / WATCHERS as u64;
    println!("norn-weight: {WATCHERS} idle watchers on {STREAMS} streams: {each} bytes each");
    (each > BYTES_PER_WATCHER).then(|| format!("an idle watcher costs {each} bytes"))
}

pub async fn stalled(server: &Server) -> Option<String> {
    let value = "v".repeat(EVENT_BYTES);
    let writer = server.client();
    let write = async |n: usize| {
        writer.put(put(&format!("key-{}", n % KEYS), &value)).await.expect("a put");
    };
    // (Caches fill, files are opened.)
    for n in 0..EVENTS / 10 {
        write(n).await;
    }
    let mut listening = server.client().watch(watch_prefix("key-")).await;
    let deaf = server.client().watch(watch_prefix("key-")).await;
    let before = server.rss_kib();
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    for n in 0..EVENTS {
        let begun = Instant::now();
        write(n).await;
        longest = longest.max(begun.elapsed());
        let event = listening.events(1).await;
        assert!(event[0].contains(&format!("key-{}=", n % KEYS)), "another event came first");
    }
    let took = start.elapsed();
    let more = (server.rss_kib().saturating_sub(before)) * 1024;
    drop(deaf);
    println!(
        "norn-weight: {} MB of events past a watcher that does not read: {} KB more, the other heard all, \
         the longest put {longest:?}, {took:?} in all",
        EVENTS * EVENT_BYTES / 1_000_000,
        more / 1024
    );
    (more > STALLED_BYTES).then(|| format!("a stalled watcher costs {more} bytes"))
}
