//! Watch: history and the present, options, cancel, progress.

use norn_tests::pb::watch_create_request::FilterType;
use norn_tests::pb::*;
use norn_tests::req::*;
use norn_tests::{Client, Server, WatchStream};

use crate::revision;

async fn written(pairs: &[(&str, &str)]) -> (Server, Client) {
    let server = Server::start();
    let client = server.client();
    for (key, value) in pairs {
        client.put(put(key, value)).await.expect("put");
    }
    (server, client)
}

fn from(start_revision: i64, create: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..create }
}

#[tokio::test]
async fn history_comes_first_and_the_present_follows() {
    let (_server, client) = written(&[("a", "1"), ("b", "2"), ("a", "3")]).await;
    let mut watch = client.watch(from(1, watch_prefix(""))).await;
    assert_eq!(watch.events(3).await, ["PUT a=1@2", "PUT b=2@3", "PUT a=3@4"]);
    client.delete(del("a")).await.unwrap();
    client.put(put("c", "4")).await.unwrap();
    assert_eq!(watch.events(2).await, ["DELETE a@5", "PUT c=4@6"]);
}

#[tokio::test]
async fn a_watch_without_a_revision_starts_after_the_present() {
    let (_server, client) = written(&[("a", "1")]).await;
    let mut stream = client.open_watch();
    let created = stream.create(watch("a")).await;
    assert_eq!((created.created, created.watch_id, revision(&created.header)), (true, 0, 2));
    client.put(put("b", "no")).await.unwrap();
    client.put(put("a", "2")).await.unwrap();
    assert_eq!(stream.events(1).await, ["PUT a=2@4"]);
}

#[tokio::test]
async fn a_deletion_shows_only_key_and_revision() {
    let (_server, client) = written(&[("a", "1")]).await;
    let mut watch = client.watch(watch("a")).await;
    client.delete(del("a")).await.unwrap();
    let event = watch.next().await.events.remove(0);
    let kv = event.kv.unwrap();
    assert_eq!((event.r#type, kv.mod_revision), (1, 3));
    assert_eq!((kv.create_revision, kv.version, kv.lease, kv.value.len()), (0, 0, 0, 0));
    assert!(event.prev_kv.is_none());
}

#[tokio::test]
async fn previous_values_come_along_when_asked_for() {
    let (_server, client) = written(&[("a", "1")]).await;
    let asked = WatchCreateRequest { prev_kv: true, ..watch("a") };
    let mut live = client.watch(asked.clone()).await;
    client.put(put("a", "2")).await.unwrap();
    client.delete(del("a")).await.unwrap();
    client.put(put("a", "3")).await.unwrap();
    let mut past = client.watch(from(3, asked)).await;
    for watch in [&mut live, &mut past] {
        let mut previous = Vec::new();
        while previous.len() < 3 {
            let events = watch.next().await.events;
            previous.extend(events.into_iter().map(|e| e.prev_kv.map(|kv| kv.value)));
        }
        assert_eq!(previous, [Some(bytes("1")), Some(bytes("2")), None]);
    }
}

#[tokio::test]
async fn the_previous_value_at_the_compaction_revision_is_there() {
    let (_server, client) = written(&[("a", "1"), ("a", "2"), ("a", "3")]).await;
    client.compact(3).await.unwrap();
    let create = WatchCreateRequest { prev_kv: true, ..from(4, watch("a")) };
    let mut watch = client.watch(create).await;
    let event = watch.next().await.events.remove(0);
    assert_eq!(event.prev_kv.unwrap().value, bytes("2"));
    // At the compacted revision itself the value before is gone.
    let create = WatchCreateRequest { prev_kv: true, ..from(3, norn_tests::req::watch("a")) };
    let mut watch = client.watch(create).await;
    let event = watch.next().await.events.remove(0);
    assert_eq!((event.kv.unwrap().value, event.prev_kv), (bytes("2"), None));
}

#[tokio::test]
async fn filters_leave_events_out() {
    let (_server, client) = written(&[]).await;
    let filter = |f: FilterType| WatchCreateRequest { filters: vec![f.into()], ..watch("a") };
    let mut no_puts = client.watch(filter(FilterType::Noput)).await;
    let mut no_deletes = client.watch(filter(FilterType::Nodelete)).await;
    client.put(put("a", "1")).await.unwrap();
    client.delete(del("a")).await.unwrap();
    client.put(put("a", "2")).await.unwrap();
    assert_eq!(no_puts.events(1).await, ["DELETE a@3"]);
    assert_eq!(no_deletes.events(2).await, ["PUT a=1@2", "PUT a=2@4"]);
}

#[tokio::test]
async fn all_events_of_a_revision_come_in_one_answer_in_order() {
    let (_server, client) = written(&[("z", "0")]).await;
    let mut live = client.watch(watch_prefix("")).await;
    let ops = vec![op_put(put("b", "1")), op_put(put("a", "1")), op_del(del("z"))];
    client.txn(txn(vec![], ops, vec![])).await.unwrap();
    let mut past = client.watch(from(3, watch_prefix(""))).await;
    for watch in [&mut live, &mut past] {
        let answer = watch.next().await;
        let events: Vec<String> =
            answer.events.iter().map(norn_tests::client::show_event).collect();
        assert_eq!(events, ["PUT b=1@3", "PUT a=1@3", "DELETE z@3"]);
        assert_eq!(revision(&answer.header), 3);
    }
}

#[tokio::test]
async fn many_revisions_arrive_in_order_without_gaps() {
    let (_server, client) = written(&[]).await;
    let mut live = client.watch(watch("k")).await;
    for i in 0..300 {
        client.put(put("k", &i.to_string())).await.unwrap();
    }
    let mut past = client.watch(from(2, watch("k"))).await;
    let expected: Vec<String> = (0..300).map(|i| format!("PUT k={i}@{}", i + 2)).collect();
    assert_eq!(live.events(300).await, expected);
    assert_eq!(past.events(300).await, expected);
}

#[tokio::test]
async fn a_future_revision_waits_silently() {
    let (_server, client) = written(&[("a", "1")]).await;
    let mut watch = client.watch(from(4, watch("a"))).await;
    client.put(put("a", "2")).await.unwrap();
    client.put(put("a", "3")).await.unwrap();
    assert_eq!(watch.events(1).await, ["PUT a=3@4"]);
}

#[tokio::test]
async fn a_compacted_start_is_created_and_then_canceled() {
    let (_server, client) = written(&[("a", "1"), ("a", "2"), ("a", "3")]).await;
    client.compact(4).await.unwrap();
    let mut watch = client.watch(from(2, watch("a"))).await;
    let canceled = watch.next().await;
    assert!(canceled.canceled && !canceled.created, "{canceled:?}");
    assert_eq!((canceled.watch_id, canceled.compact_revision), (0, 4));
    assert_eq!((canceled.cancel_reason.as_str(), revision(&canceled.header)), ("", 0));
    let mut watch = client.watch(from(4, norn_tests::req::watch("a"))).await;
    assert_eq!(watch.events(1).await, ["PUT a=3@4"]);
}

/// Created and canceled at once, with the id -1.
fn assert_refused_create(answer: &WatchResponse, reason: &str) {
    assert!(answer.created && answer.canceled, "{answer:?}");
    assert_eq!((answer.watch_id, answer.compact_revision), (-1, 0));
    assert_eq!(answer.cancel_reason, reason);
}

#[tokio::test]
async fn bad_creates_are_refused_and_the_stream_lives_on() {
    let (_server, client) = written(&[("a", "1")]).await;
    let mut stream = client.open_watch();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_refused_create(&stream.create(from(-1, watch("a"))).await, compacted);
    let backwards = WatchCreateRequest { range_end: bytes("a"), ..watch("b") };
    assert_refused_create(&stream.create(backwards).await, "mvcc: watcher range is empty");
    let five = WatchCreateRequest { watch_id: 5, ..watch("a") };
    assert_eq!(stream.create(five.clone()).await.watch_id, 5);
    let twice = "mvcc: duplicate watch ID provided on the WatchStream";
    assert_refused_create(&stream.create(five).await, twice);
    client.put(put("a", "2")).await.unwrap();
    assert_eq!(stream.events(1).await, ["PUT a=2@3"]);
}

#[tokio::test]
async fn ids_are_counted_per_stream_and_may_be_chosen() {
    let (_server, client) = written(&[]).await;
    let mut stream = client.open_watch();
    let mut ids = Vec::new();
    for watch_id in [0, 0, -7, 3, 0] {
        ids.push(stream.create(WatchCreateRequest { watch_id, ..watch("a") }).await.watch_id);
    }
    assert_eq!(ids, [0, 1, -7, 3, 2]);
    let mut other = client.open_watch();
    assert_eq!(other.create(watch("a")).await.watch_id, 0);
}

#[tokio::test]
async fn an_empty_key_watches_from_the_first() {
    let (_server, client) = written(&[]).await;
    let open = WatchCreateRequest { range_end: bytes("\0"), ..watch("") };
    let mut watch = client.watch(open).await;
    client.put(put("a", "1")).await.unwrap();
    assert_eq!(watch.events(1).await, ["PUT a=1@2"]);
}

#[tokio::test]
async fn a_cancel_is_answered_and_ends_the_events() {
    let (_server, client) = written(&[]).await;
    let mut stream = client.open_watch();
    stream.create(watch("a")).await;
    stream.create(watch("a")).await;
    stream.cancel(99).await;
    stream.cancel(0).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.events.is_empty(), "{canceled:?}");
    assert_eq!((canceled.watch_id, canceled.cancel_reason.as_str()), (0, ""));
    assert_eq!(revision(&canceled.header), 1);
    client.put(put("a", "1")).await.unwrap();
    client.put(put("a", "2")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(stream.next().await.watch_id, 1);
    }
}

#[tokio::test]
async fn a_progress_request_is_answered_for_the_whole_stream() {
    let (_server, client) = written(&[("a", "1")]).await;
    let mut stream = client.open_watch();
    stream.create(watch("x")).await;
    stream.create(watch("y")).await;
    client.put(put("a", "2")).await.unwrap();
    stream.ask_progress().await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(revision(&progress.header), 3);
}

/// One that waits for a revision to come holds the answer back: until then there is nothing to be ahead of.
#[tokio::test]
async fn a_watcher_of_the_future_holds_progress_back() {
    let (_server, client) = written(&[]).await;
    let mut stream = client.open_watch();
    stream.create(from(3, watch("x"))).await;
    client.put(put("elsewhere", "1")).await.unwrap();
    stream.ask_progress().await;
    // (A stream's requests are answered in order.)
    let refused = stream.create(from(-1, watch("x"))).await;
    assert!(refused.created && refused.canceled, "{refused:?}");
    client.put(put("elsewhere", "2")).await.unwrap();
    stream.ask_progress().await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, revision(&progress.header)), (-1, 3));
}

#[tokio::test]
async fn progress_is_announced_at_the_interval_given() {
    let setup = norn_tests::Setup::quick().flag("--watch-progress-notify-interval=100ms");
    let server = Server::start_with(setup);
    let client = server.client();
    client.put(put("a", "1")).await.unwrap();
    let mut stream = client.open_watch();
    stream.create(WatchCreateRequest { progress_notify: true, ..watch("x") }).await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len(), progress.created), (0, 0, false));
    assert_eq!(revision(&progress.header), 2);
}

#[tokio::test]
async fn a_large_answer_comes_in_fragments_when_asked_for() {
    let server = Server::start_with(norn_tests::Setup::quick());
    let client = server.client();
    let value = "v".repeat(400_000);
    let mut stream = client.open_watch();
    for i in 0..8 {
        client.put(put(&format!("k{i}"), &value)).await.unwrap();
    }
    let create = WatchCreateRequest { fragment: true, ..from(2, watch_prefix("k")) };
    assert!(stream.create(create).await.created);
    let (mut events, mut fragments) = (0, 0);
    while events < 8 {
        let answer = stream.next().await;
        events += answer.events.len();
        fragments += usize::from(answer.fragment);
        assert_eq!(answer.fragment, events < 8, "after {events} events");
    }
    assert!(fragments > 0);
    let whole = client.watch(from(2, watch_prefix("k"))).await.next().await;
    assert_eq!((whole.events.len(), whole.fragment), (8, false));
}

#[tokio::test]
async fn streams_do_not_disturb_each_other_and_a_slow_reader_misses_nothing() {
    let (_server, client) = written(&[]).await;
    let mut slow = client.watch(watch_prefix("k")).await;
    let mut quick = client.watch(watch_prefix("k")).await;
    // More than fits into the buffers between server and client, while nobody reads `slow`.
    let value = "v".repeat(20_000);
    let count = 1000;
    for i in 0..count {
        client.put(put(&format!("k{i:03}"), &value)).await.unwrap();
        if i % 100 == 0 {
            drain(&mut quick, i as usize).await;
        }
    }
    let mut last = 1;
    while last < count + 1 {
        for event in slow.next().await.events {
            let revision = event.kv.unwrap().mod_revision;
            assert_eq!(revision, last + 1, "an event is missing or out of order");
            last = revision;
        }
    }
}

/// Reads events up to that of revision `index + 2`.
async fn drain(watch: &mut WatchStream, index: usize) {
    let goal = index as i64 + 2;
    loop {
        let answer = watch.next().await;
        let last = answer.events.last().and_then(|e| e.kv.as_ref()).map(|kv| kv.mod_revision);
        if last.is_some_and(|r| r >= goal) {
            return;
        }
    }
}

#[tokio::test]
async fn a_closed_request_side_does_not_end_the_events() {
    let (_server, client) = written(&[]).await;
    let mut watch = client.watch(watch("a")).await;
    watch.half_close();
    client.put(put("a", "1")).await.unwrap();
    assert_eq!(watch.events(1).await, ["PUT a=1@2"]);
}

#[tokio::test]
async fn a_restarted_server_serves_the_same_history() {
    let (mut server, client) = written(&[("a", "1"), ("b", "2")]).await;
    client.delete(del("a")).await.unwrap();
    let expected = ["PUT a=1@2", "PUT b=2@3", "DELETE a@4"];
    assert_eq!(client.watch(from(1, watch_prefix(""))).await.events(3).await, expected);
    server.crash_and_restart();
    let client = server.client();
    assert_eq!(client.watch(from(1, watch_prefix(""))).await.events(3).await, expected);
}

/// Creates are answered, and who does not read the answers is not listened to any more, rather than given memory.
// The flood must go on while this thread asks for other things.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_creates_and_never_reads_is_held_back() {
    const CREATES: usize = 40_000;
    let (mut server, client) = written(&[("a", "1")]).await;
    // A small window, so that what waits waits in the server: a few hundred answers fit into the connection.
    let endpoint = tonic::transport::Endpoint::from_shared(server.client_url()).unwrap();
    let channel = endpoint.initial_stream_window_size(8_192).connect().await.unwrap();
    let mut flood = watch_client::WatchClient::new(channel);
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = sent.clone();
    tokio::spawn(async move {
        for i in 0..CREATES {
            let create = WatchCreateRequest { key: bytes(format!("{i:0>1000}")), ..watch("") };
            let union = watch_request::RequestUnion::CreateRequest(create);
            if requests.send(WatchRequest { request_union: Some(union) }).await.is_err() {
                return;
            }
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        // (Open until the answers have been read.)
        requests.closed().await;
    });
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = flood.watch(requests).await.unwrap().into_inner();
    // The clock is what others get done meanwhile: that is what must go on.
    let mut before = 0;
    loop {
        for _ in 0..300 {
            client.put(put("a", "2")).await.unwrap();
        }
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        assert!(now < CREATES, "nothing held the flood back");
        if now > 0 && now == before {
            break;
        }
        before = now;
    }
    server.assert_alive();
    // Nothing is lost: whoever reads is answered to the last.
    for i in 0..CREATES {
        let answer = answers.message().await.unwrap().expect("an answer");
        assert!(answer.created, "{answer:?}");
        assert_eq!(answer.watch_id, i as i64);
    }
}
