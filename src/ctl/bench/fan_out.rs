//! Watchers of one key or of many: a put, then all its events.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use norn_proto::etcdserverpb as pb;
use tokio::sync::Notify;

use crate::calls::{self, PUT, WATCH};
use crate::shared::Shared;
use crate::unary::call;
use crate::wire::{Event, Wire};

/// Messages of all watches, and whoever waits for them.
#[derive(Default)]
struct Received {
    count: Cell<u64>,
    more: Notify,
}

/// The latency is from a put to the last of its events.
pub async fn run(shared: Rc<Shared>) -> io::Result<()> {
    let o = &shared.options;
    let received = Rc::new(Received::default());
    let mut readers = Vec::new();
    for conn in 0..o.conns {
        let wire = open(&shared, conn).await?;
        let (received, shared) = (Rc::clone(&received), Rc::clone(&shared));
        readers.push(tokio::task::spawn_local(read(shared, wire, received)));
    }
    let mut writer = shared.connect(0).await?;
    // First the answers to the creations.
    let mut expected = o.watchers as u64;
    received.until(expected).await;
    let mut message = Vec::new();
    for n in 0.. {
        if shared.stop.get() {
            break;
        }
        let key = n % o.watched_keys;
        calls::put(&mut message, &shared.key(key), &shared.value);
        let start = Instant::now();
        if let Err(failure) = call(&mut writer, PUT, &message).await? {
            shared.fail(failure);
            continue;
        }
        let events = watchers_of(&shared, key);
        expected += events;
        received.until(expected).await;
        shared.done_at_once(events, start.elapsed());
    }
    readers.iter().for_each(|reader| reader.abort());
    Ok(())
}

impl Received {
    async fn until(&self, count: u64) {
        while self.count.get() < count {
            self.more.notified().await;
        }
    }
}

/// Watcher `n` has key `n` modulo their number.
fn watchers_of(shared: &Shared, key: u64) -> u64 {
    let o = &shared.options;
    let (all, keys) = (o.watchers as u64, o.watched_keys);
    all / keys + u64::from(key < all % keys)
}

/// The streams of one connection, with their watchers.
async fn open(shared: &Shared, conn: usize) -> io::Result<Wire> {
    let o = &shared.options;
    let mut wire = shared.connect(conn).await?;
    for stream in (conn..o.streams).step_by(o.conns) {
        let mut opened = None;
        for watcher in (stream..o.watchers).step_by(o.streams) {
            let key = shared.key(watcher as u64 % o.watched_keys).into();
            let message = calls::watch(pb::WatchCreateRequest { key, ..Default::default() });
            match opened {
                None => opened = Some(wire.open(WATCH, &message, false)),
                Some(stream) => wire.send(stream, &message, false),
            }
        }
    }
    Ok(wire)
}

async fn read(shared: Rc<Shared>, mut wire: Wire, received: Rc<Received>) {
    let mut events = Vec::new();
    while wire.turn(&mut events).await.is_ok() {
        for event in events.drain(..) {
            match event {
                Event::Messages { count, .. } => {
                    received.count.set(received.count.get() + u64::from(count));
                }
                Event::End { outcome: Err(failure), .. } => shared.fail(failure),
                Event::End { .. } => {}
            }
        }
        received.more.notify_one();
    }
}
