//! Put, Range, RangeStream, DeleteRange, Txn, Compact: one behaviour per test.

use norn_tests::mvccpb::KeyValue;
use norn_tests::pb::compare::{CompareResult, TargetUnion};
use norn_tests::pb::response_op::Response;
use norn_tests::pb::*;
use norn_tests::req::*;
use norn_tests::{Client, Server};
use tonic::Code;

use crate::{assert_refused, revision};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const EMPTY_KEY: &str = "etcdserver: key is not provided";
const KEY_NOT_FOUND: &str = "etcdserver: key not found";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

/// A server with the keys given, written one after another: the first has revision 2.
async fn server_with(pairs: &[(&str, &str)]) -> (Server, Client) {
    let server = Server::start();
    let client = server.client();
    for (key, value) in pairs {
        client.put(put(key, value)).await.expect("put");
    }
    (server, client)
}

fn keys(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

fn values(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect()
}

#[tokio::test]
async fn the_first_write_has_revision_two_and_a_read_finds_it() {
    let (_server, client) = server_with(&[]).await;
    let empty = client.range(get("a")).await.unwrap();
    assert_eq!((revision(&empty.header), empty.count, empty.kvs.len()), (1, 0, 0));
    let written = client.put(put("a", "1")).await.unwrap();
    assert_eq!(revision(&written.header), 2);
    assert!(written.prev_kv.is_none());
    let read = client.range(get("a")).await.unwrap();
    let kv = KeyValue {
        key: bytes("a"),
        value: bytes("1"),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 0,
    };
    assert_eq!((read.kvs, read.count, read.more), (vec![kv], 1, false));
}

#[tokio::test]
async fn headers_name_the_member_the_cluster_and_the_term() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let header = client.range(get("a")).await.unwrap().header.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!(header.member_id, status.leader);
    assert_ne!(header.cluster_id, 0);
    assert_eq!(header.raft_term, status.raft_term);
    assert!(header.raft_term >= 2, "{header:?}");
}

#[tokio::test]
async fn an_overwrite_keeps_the_creation_and_counts_versions() {
    let (_server, client) = server_with(&[("a", "1"), ("a", "2"), ("a", "2")]).await;
    let kv = client.range(get("a")).await.unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 4, 3));
}

#[tokio::test]
async fn a_deleted_key_starts_again_at_version_one() {
    let (_server, client) = server_with(&[("a", "1"), ("a", "2")]).await;
    let deleted = client.delete(del("a")).await.unwrap();
    assert_eq!((deleted.deleted, revision(&deleted.header)), (1, 4));
    assert_eq!(client.range(get("a")).await.unwrap().count, 0);
    client.put(put("a", "3")).await.unwrap();
    let kv = client.range(get("a")).await.unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[tokio::test]
async fn a_delete_of_nothing_makes_no_revision() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let deleted = client.delete(del("b")).await.unwrap();
    assert_eq!((deleted.deleted, revision(&deleted.header)), (0, 2));
}

#[tokio::test]
async fn a_range_delete_is_one_revision_and_shows_what_it_removed() {
    let (_server, client) = server_with(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    let request = DeleteRangeRequest { prev_kv: true, range_end: bytes("c"), ..del("a") };
    let deleted = client.delete(request).await.unwrap();
    assert_eq!((deleted.deleted, revision(&deleted.header)), (2, 5));
    assert_eq!(keys(&deleted.prev_kvs), ["a", "b"]);
    assert_eq!(values(&deleted.prev_kvs), ["1", "2"]);
}

#[tokio::test]
async fn a_put_shows_the_value_it_replaced_when_asked() {
    let (_server, client) = server_with(&[]).await;
    let asked = |value| PutRequest { prev_kv: true, ..put("a", value) };
    assert!(client.put(asked("1")).await.unwrap().prev_kv.is_none());
    let previous = client.put(asked("2")).await.unwrap().prev_kv.unwrap();
    assert_eq!((&previous.value[..], previous.mod_revision), (&b"1"[..], 2));
}

#[tokio::test]
async fn ignore_value_keeps_the_value_and_ignore_lease_the_lease() {
    let (_server, client) = server_with(&[]).await;
    client.lease_grant(7, 600).await.unwrap();
    client.put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    client.put(PutRequest { ignore_lease: true, ..put("a", "2") }).await.unwrap();
    let kv = client.range(get("a")).await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease), (&b"2"[..], 7));
    client.put(PutRequest { ignore_value: true, ..put("a", "") }).await.unwrap();
    let kv = client.range(get("a")).await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b"2"[..], 0, 3));
}

#[tokio::test]
async fn puts_with_contradictory_options_are_refused() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let refuse = |request, text| {
        let client = client.clone();
        async move { assert_refused(client.put(request).await, Code::InvalidArgument, text) }
    };
    refuse(put("", "1"), EMPTY_KEY).await;
    refuse(PutRequest { ignore_value: true, ..put("a", "x") }, "etcdserver: value is provided")
        .await;
    let both = PutRequest { ignore_lease: true, lease: 1, ..put("a", "x") };
    refuse(both, "etcdserver: lease is provided").await;
    refuse(PutRequest { ignore_value: true, ..put("b", "") }, KEY_NOT_FOUND).await;
    refuse(PutRequest { ignore_lease: true, ..put("b", "x") }, KEY_NOT_FOUND).await;
    let unknown = client.put(PutRequest { lease: 99, ..put("a", "x") }).await;
    assert_refused(unknown, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(revision(&client.range(get("a")).await.unwrap().header), 2);
}

#[tokio::test]
async fn ranges_are_half_open_prefixes_or_open_ended() {
    let (_server, client) = server_with(&[("a", "1"), ("ab", "2"), ("b", "3"), ("c", "4")]).await;
    for (request, expected) in [
        (span("a", "b"), vec!["a", "ab"]),
        (prefix("a"), vec!["a", "ab"]),
        (span("ab", "\0"), vec!["ab", "b", "c"]),
        (all(), vec!["a", "ab", "b", "c"]),
        (span("b", "a"), vec![]),
        (span("b", "b"), vec![]),
    ] {
        let answer = client.range(request.clone()).await.unwrap();
        assert_eq!(keys(&answer.kvs), expected, "{request:?}");
        assert_eq!(answer.count, expected.len() as i64, "{request:?}");
    }
}

#[tokio::test]
async fn an_empty_key_is_refused() {
    let (_server, client) = server_with(&[]).await;
    assert_refused(client.range(get("")).await, Code::InvalidArgument, EMPTY_KEY);
    assert_refused(client.range(span("", "\0")).await, Code::InvalidArgument, EMPTY_KEY);
    assert_refused(client.delete(del("")).await, Code::InvalidArgument, EMPTY_KEY);
}

#[tokio::test]
async fn a_limit_cuts_the_list_and_says_so_but_not_the_count() {
    let (_server, client) = server_with(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    let cut = client.range(RangeRequest { limit: 2, ..all() }).await.unwrap();
    assert_eq!((keys(&cut.kvs), cut.more, cut.count), (vec!["a".into(), "b".into()], true, 3));
    let whole = client.range(RangeRequest { limit: 3, ..all() }).await.unwrap();
    assert_eq!((whole.kvs.len(), whole.more, whole.count), (3, false, 3));
}

#[tokio::test]
async fn count_only_and_keys_only_leave_the_rest_out() {
    let (_server, client) = server_with(&[("a", "1"), ("b", "2")]).await;
    let count = client.range(RangeRequest { count_only: true, limit: 1, ..all() }).await.unwrap();
    assert_eq!((count.kvs.len(), count.count, count.more), (0, 2, false));
    let only = client.range(RangeRequest { keys_only: true, ..all() }).await.unwrap();
    assert_eq!(
        (keys(&only.kvs), values(&only.kvs)),
        (vec!["a".into(), "b".into()], vec![String::new(); 2])
    );
    assert_eq!(only.kvs[1].mod_revision, 3);
}

#[tokio::test]
async fn keys_only_shows_no_lease() {
    let (_server, client) = server_with(&[]).await;
    client.lease_grant(7, 600).await.unwrap();
    client.put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    let only = client.range(RangeRequest { keys_only: true, ..get("a") }).await.unwrap();
    assert_eq!(only.kvs[0].lease, 0);
}

#[tokio::test]
async fn results_are_sorted_by_any_field_in_both_directions() {
    let (_server, client) = server_with(&[("b", "1"), ("a", "3"), ("c", "2"), ("b", "0")]).await;
    use range_request::{SortOrder::*, SortTarget::*};
    for (order, target, expected) in [
        (None, Key, ["a", "b", "c"]),
        (Ascend, Key, ["a", "b", "c"]),
        (Descend, Key, ["c", "b", "a"]),
        (Ascend, Value, ["b", "c", "a"]),
        (Descend, Value, ["a", "c", "b"]),
        (Ascend, Create, ["b", "a", "c"]),
        (Descend, Mod, ["b", "c", "a"]),
        (Ascend, Version, ["a", "c", "b"]),
        (None, Mod, ["a", "c", "b"]),
    ] {
        let sort = RangeRequest { sort_order: order.into(), sort_target: target.into(), ..all() };
        let answer = client.range(sort).await.unwrap();
        assert_eq!(keys(&answer.kvs), expected, "{order:?} {target:?}");
    }
}

#[tokio::test]
async fn unknown_sort_options_are_refused() {
    let (_server, client) = server_with(&[]).await;
    let text = "etcdserver: invalid sort option";
    for (order, target) in [(3, 0), (0, 5), (-1, 0)] {
        let request = RangeRequest { sort_order: order, sort_target: target, ..all() };
        assert_refused(client.range(request).await, Code::InvalidArgument, text);
    }
}

#[tokio::test]
async fn revision_filters_cut_the_list_but_not_the_count() {
    let (_server, client) = server_with(&[("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")]).await;
    let by_mod = RangeRequest { min_mod_revision: 4, max_mod_revision: 5, ..all() };
    let answer = client.range(by_mod).await.unwrap();
    assert_eq!((keys(&answer.kvs), answer.count), (vec!["a".into(), "c".into()], 3));
    let by_create = RangeRequest { max_create_revision: 3, limit: 1, ..all() };
    let answer = client.range(by_create).await.unwrap();
    assert_eq!((keys(&answer.kvs), answer.count, answer.more), (vec!["a".into()], 3, true));
}

#[tokio::test]
async fn old_revisions_are_readable_under_the_current_header() {
    let (_server, client) = server_with(&[("a", "1"), ("a", "2"), ("b", "3")]).await;
    let old = client.range(RangeRequest { revision: 2, ..all() }).await.unwrap();
    assert_eq!((values(&old.kvs), revision(&old.header)), (vec!["1".into()], 4));
    let future = client.range(RangeRequest { revision: 5, ..all() }).await;
    assert_refused(future, Code::OutOfRange, FUTURE);
}

#[tokio::test]
async fn serializable_reads_answer_too() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let answer = client.range(RangeRequest { serializable: true, ..get("a") }).await.unwrap();
    assert_eq!(values(&answer.kvs), ["1"]);
}

#[tokio::test]
async fn compaction_ends_older_revisions_and_keeps_its_own() {
    let (_server, client) = server_with(&[("a", "1"), ("a", "2"), ("b", "3")]).await;
    let at = |revision| RangeRequest { revision, ..all() };
    assert_eq!(revision(&client.compact(3).await.unwrap().header), 4);
    assert_refused(client.range(at(2)).await, Code::OutOfRange, COMPACTED);
    assert_eq!(values(&client.range(at(3)).await.unwrap().kvs), ["2"]);
    assert_eq!(values(&client.range(at(0)).await.unwrap().kvs), ["2", "3"]);
    assert_refused(client.compact(3).await, Code::OutOfRange, COMPACTED);
    assert_refused(client.compact(2).await, Code::OutOfRange, COMPACTED);
    assert_refused(client.compact(5).await, Code::OutOfRange, FUTURE);
    assert_eq!(revision(&client.compact(4).await.unwrap().header), 4);
}

#[tokio::test]
async fn the_hash_of_a_known_history_is_etcds() {
    let (_server, client) = server_with(&[]).await;
    assert_eq!(client.hash_kv(0).await.unwrap().hash, 1_084_519_789);
    client.put(put("foo", "bar")).await.unwrap();
    assert_eq!(client.hash_kv(0).await.unwrap().hash, 3_305_255_506);
    client.put(put("foo", "baz")).await.unwrap();
    assert_eq!(client.hash_kv(0).await.unwrap().hash, 2_020_292_994);
    client.delete(del("foo")).await.unwrap();
    assert_eq!(client.hash_kv(0).await.unwrap().hash, 3_153_096_970);
    client.put(put("a", "1")).await.unwrap();
    let last = client.hash_kv(0).await.unwrap();
    assert_eq!((last.hash, last.compact_revision, last.hash_revision), (1_967_179_850, -1, 5));
    client.compact(4).await.unwrap();
    let cached = client.hash_kv(4).await.unwrap();
    assert_eq!((cached.hash, cached.compact_revision), (3_153_096_970, -1));
    let after = client.hash_kv(0).await.unwrap();
    assert_eq!((after.hash, after.compact_revision), (2_007_788_419, 4));
    assert_refused(client.hash_kv(3).await, Code::OutOfRange, COMPACTED);
    assert_refused(client.hash_kv(9).await, Code::OutOfRange, FUTURE);
}

#[tokio::test]
async fn a_transaction_takes_the_branch_its_compares_choose() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let is = |value| compare("a", CompareResult::Equal, TargetUnion::Value(bytes(value)));
    let request = |value| {
        txn(
            vec![is(value)],
            vec![op_put(put("a", "2"))],
            vec![op_get(get("a")), op_put(put("b", "1"))],
        )
    };
    let yes = client.txn(request("1")).await.unwrap();
    assert_eq!((yes.succeeded, yes.responses.len(), revision(&yes.header)), (true, 1, 3));
    let no = client.txn(request("1")).await.unwrap();
    assert_eq!((no.succeeded, no.responses.len(), revision(&no.header)), (false, 2, 4));
    let Some(Response::ResponseRange(read)) = &no.responses[0].response else {
        panic!("{no:?}");
    };
    assert_eq!(values(&read.kvs), ["2"]);
}

#[tokio::test]
async fn compares_know_versions_revisions_leases_and_absence() {
    let (_server, client) = server_with(&[("a", "1"), ("a", "2")]).await;
    use CompareResult::*;
    for (key, result, with, expected) in [
        ("a", Equal, TargetUnion::Version(2), true),
        ("a", Greater, TargetUnion::Version(1), true),
        ("a", Less, TargetUnion::ModRevision(3), false),
        ("a", Equal, TargetUnion::ModRevision(3), true),
        ("a", NotEqual, TargetUnion::CreateRevision(2), false),
        ("a", Equal, TargetUnion::Lease(0), true),
        ("a", Greater, TargetUnion::Value(bytes("1")), true),
        ("x", Equal, TargetUnion::Version(0), true),
        ("x", Equal, TargetUnion::CreateRevision(0), true),
        ("x", Equal, TargetUnion::Value(bytes("")), false),
        ("x", NotEqual, TargetUnion::Value(bytes("")), false),
    ] {
        let request = txn(vec![compare(key, result, with.clone())], vec![], vec![]);
        let answer = client.txn(request).await.unwrap();
        assert_eq!(answer.succeeded, expected, "{key} {result:?} {with:?}");
    }
}

#[tokio::test]
async fn a_range_compare_holds_for_every_key_of_the_range() {
    let (_server, client) = server_with(&[("a1", "1"), ("a2", "1"), ("b", "1"), ("a2", "2")]).await;
    let over = |prefix: &str, version| Compare {
        range_end: prefix_end(prefix),
        ..compare(prefix, CompareResult::Equal, TargetUnion::Version(version))
    };
    for (prefix, version, expected) in
        [("a", 1, false), ("b", 1, true), ("z", 0, true), ("z", 1, false)]
    {
        let answer = client.txn(txn(vec![over(prefix, version)], vec![], vec![])).await.unwrap();
        assert_eq!(answer.succeeded, expected, "{prefix} {version}");
    }
}

#[tokio::test]
async fn a_transaction_is_one_revision_and_reads_its_own_writes() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let ops = vec![op_put(put("b", "2")), op_get(all()), op_del(del("a")), op_get(all())];
    let answer = client.txn(txn(vec![], ops, vec![])).await.unwrap();
    assert_eq!(revision(&answer.header), 3);
    let reads: Vec<Vec<String>> = answer
        .responses
        .iter()
        .filter_map(|r| match &r.response {
            Some(Response::ResponseRange(r)) => Some(keys(&r.kvs)),
            _ => None,
        })
        .collect();
    assert_eq!(reads, [vec!["a", "b"], vec!["b"]]);
    let header = match &answer.responses[0].response {
        Some(Response::ResponsePut(p)) => p.header.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (header.revision, header.cluster_id, header.member_id, header.raft_term),
        (3, 0, 0, 0)
    );
}

#[tokio::test]
async fn nested_transactions_compare_the_state_before_the_whole() {
    let (_server, client) = server_with(&[]).await;
    let absent = compare("a", CompareResult::Equal, TargetUnion::Version(0));
    let inner =
        txn(vec![absent], vec![op_put(put("b", "absent"))], vec![op_put(put("b", "there"))]);
    let request = txn(vec![], vec![op_put(put("a", "1")), op_txn(inner)], vec![]);
    let answer = client.txn(request).await.unwrap();
    let Some(Response::ResponseTxn(inner)) = &answer.responses[1].response else {
        panic!("{answer:?}");
    };
    assert!(inner.succeeded);
    assert_eq!(inner.header.map(|h| h.revision), Some(0));
    assert_eq!(values(&client.range(get("b")).await.unwrap().kvs), ["absent"]);
}

#[tokio::test]
async fn transactions_that_touch_a_key_twice_are_refused() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let puts = vec![op_put(put("a", "1")), op_put(put("a", "2"))];
    let overlap = vec![op_put(put("ab", "1")), op_del(del_prefix("a"))];
    let nested =
        vec![op_put(put("a", "1")), op_txn(txn(vec![], vec![op_put(put("a", "2"))], vec![]))];
    for ops in [puts, overlap, nested] {
        let answer = client.txn(txn(vec![], ops, vec![])).await;
        assert_refused(answer, Code::InvalidArgument, DUPLICATE);
    }
    let deletes = vec![op_del(del("a")), op_del(del_prefix("a"))];
    assert!(client.txn(txn(vec![], deletes, vec![])).await.is_ok());
    let branches = txn(vec![], vec![op_put(put("a", "2"))], vec![op_put(put("a", "3"))]);
    let nested = vec![op_txn(branches)];
    assert!(client.txn(txn(vec![], nested, vec![])).await.is_ok());
}

#[tokio::test]
async fn a_transaction_has_at_most_128_operations_per_list() {
    let (_server, client) = server_with(&[]).await;
    let puts = |n| (0..n).map(|i| op_put(put(&format!("k{i}"), "v"))).collect::<Vec<_>>();
    let text = "etcdserver: too many operations in txn request";
    assert!(client.txn(txn(vec![], puts(128), vec![])).await.is_ok());
    assert_refused(client.txn(txn(vec![], puts(129), vec![])).await, Code::InvalidArgument, text);
    let one = compare("a", CompareResult::Equal, TargetUnion::Version(0));
    let many = txn(vec![one; 129], vec![], vec![]);
    assert_refused(client.txn(many).await, Code::InvalidArgument, text);
    let nested = txn(vec![], vec![op_txn(txn(vec![], puts(128), vec![]))], vec![]);
    assert_refused(client.txn(nested).await, Code::InvalidArgument, text);
}

#[tokio::test]
async fn a_transaction_that_fails_has_no_effect() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let future = op_get(RangeRequest { revision: 3, ..get("a") });
    let answer = client.txn(txn(vec![], vec![op_put(put("b", "1")), future], vec![])).await;
    assert_refused(answer, Code::OutOfRange, FUTURE);
    let lease = op_put(PutRequest { lease: 9, ..put("c", "1") });
    let answer = client.txn(txn(vec![], vec![op_put(put("b", "1")), lease], vec![])).await;
    assert_refused(answer, Code::NotFound, "etcdserver: requested lease not found");
    let state = client.range(all()).await.unwrap();
    assert_eq!((keys(&state.kvs), revision(&state.header)), (vec!["a".into()], 2));
}

#[tokio::test]
async fn operations_without_content_are_refused() {
    let (_server, client) = server_with(&[]).await;
    let answer = client.txn(txn(vec![], vec![RequestOp { request: None }], vec![])).await;
    assert_refused(answer, Code::InvalidArgument, KEY_NOT_FOUND);
    let empty = compare("", CompareResult::Equal, TargetUnion::Version(0));
    assert_refused(
        client.txn(txn(vec![empty], vec![], vec![])).await,
        Code::InvalidArgument,
        EMPTY_KEY,
    );
    let answer = client.txn(txn(vec![], vec![], vec![op_put(put("", "1"))])).await;
    assert_refused(answer, Code::InvalidArgument, EMPTY_KEY);
}

#[tokio::test]
async fn a_range_stream_adds_up_to_the_range() {
    let (_server, client) = server_with(&[]).await;
    for batch in 0..5 {
        let puts = (0..100).map(|i| op_put(put(&format!("k{batch}{i:02}"), "v"))).collect();
        client.txn(txn(vec![], puts, vec![])).await.unwrap();
    }
    for request in [prefix("k"), RangeRequest { limit: 33, ..prefix("k") }, prefix("none")] {
        let whole = client.range(request.clone()).await.unwrap();
        let (chunks, error) = client.range_stream(request).await;
        assert!(error.is_none(), "{error:?}");
        let last = chunks.len() - 1;
        let mut kvs = Vec::new();
        for (i, chunk) in chunks.into_iter().enumerate() {
            let chunk = chunk.range_response.unwrap();
            if i < last {
                assert_eq!((chunk.header, chunk.more, chunk.count), (None, false, 0), "chunk {i}");
            } else {
                assert_eq!((chunk.more, chunk.count), (whole.more, whole.count));
                assert_eq!(revision(&chunk.header), revision(&whole.header));
            }
            kvs.extend(chunk.kvs);
        }
        assert_eq!(kvs, whole.kvs);
    }
}

#[tokio::test]
async fn a_range_stream_comes_in_more_than_one_piece() {
    let (_server, client) = server_with(&[]).await;
    let puts = (0..100).map(|i| op_put(put(&format!("k{i:02}"), "v"))).collect();
    client.txn(txn(vec![], puts, vec![])).await.unwrap();
    let (chunks, _) = client.range_stream(prefix("k")).await;
    assert!(chunks.len() > 1, "{} chunks", chunks.len());
}

#[tokio::test]
async fn a_range_stream_refuses_sorts_and_filters() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    use range_request::{SortOrder::*, SortTarget::*};
    let sort = |order: range_request::SortOrder, target: range_request::SortTarget| RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        ..all()
    };
    let no_sort = "RangeStream does not support custom sort orders";
    let no_filter = "RangeStream does not support revision filters";
    for (request, code, text) in [
        (sort(Descend, Key), Code::Unimplemented, no_sort),
        (sort(Ascend, Mod), Code::Unimplemented, no_sort),
        (RangeRequest { min_mod_revision: 1, ..all() }, Code::Unimplemented, no_filter),
        (RangeRequest { max_create_revision: 1, ..all() }, Code::Unimplemented, no_filter),
        (get(""), Code::InvalidArgument, EMPTY_KEY),
        (RangeRequest { revision: 9, ..all() }, Code::OutOfRange, FUTURE),
    ] {
        let (chunks, error) = client.range_stream(request).await;
        assert_refused(error.map_or(Ok(chunks), Err), code, text);
    }
    let (chunks, error) = client.range_stream(sort(Ascend, Key)).await;
    assert!(error.is_none() && chunks.len() == 1, "{error:?} {chunks:?}");
}

#[tokio::test]
async fn a_range_stream_below_the_compaction_is_refused() {
    let (_server, client) = server_with(&[("a", "1"), ("a", "2"), ("a", "3")]).await;
    client.compact(4).await.unwrap();
    let (chunks, error) = client.range_stream(RangeRequest { revision: 2, ..all() }).await;
    assert_refused(error.map_or(Ok(chunks), Err), Code::OutOfRange, COMPACTED);
}

#[tokio::test]
async fn the_space_alarm_refuses_puts_and_allows_deletes() {
    let (_server, client) = server_with(&[("a", "1")]).await;
    let member = client.status().await.unwrap().leader;
    let alarm =
        |action| AlarmRequest { action, member_id: member, alarm: AlarmType::Nospace.into() };
    let raised = client.alarm(alarm(alarm_request::AlarmAction::Activate.into())).await.unwrap();
    assert_eq!(
        raised.alarms,
        [AlarmMember { member_id: member, alarm: AlarmType::Nospace.into() }]
    );
    let text = "etcdserver: mvcc: database space exceeded";
    assert_refused(client.put(put("b", "1")).await, Code::ResourceExhausted, text);
    assert_refused(client.lease_grant(5, 60).await, Code::ResourceExhausted, text);
    assert_eq!(client.delete(del("a")).await.unwrap().deleted, 1);
    assert_eq!(client.range(all()).await.unwrap().count, 0);
    client.alarm(alarm(alarm_request::AlarmAction::Deactivate.into())).await.unwrap();
    assert!(client.put(put("b", "1")).await.is_ok());
}

/// Whoever it is about: what is not said of it is not printed.
#[tokio::test]
async fn status_names_the_alarms() {
    let (_server, client) = server_with(&[]).await;
    for member_id in [0, 7] {
        let alarm = AlarmType::Corrupt.into();
        let action = alarm_request::AlarmAction::Activate.into();
        client.alarm(AlarmRequest { action, member_id, alarm }).await.unwrap();
    }
    // (Go's text format puts one blank or two between fields.)
    let errors = client.status().await.unwrap().errors;
    let words = |error: &String| error.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut errors: Vec<_> = errors.iter().map(words).collect();
    errors.sort();
    assert_eq!(errors, ["alarm:CORRUPT", "memberID:7 alarm:CORRUPT"]);
}

#[tokio::test]
async fn concurrent_increments_by_compare_and_swap_lose_nothing() {
    let (server, client) = server_with(&[("n", "0")]).await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let client = server.client();
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let kv = client.range(get("n")).await.unwrap().kvs.remove(0);
                let n: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
                let same =
                    compare("n", CompareResult::Equal, TargetUnion::ModRevision(kv.mod_revision));
                let next = vec![op_put(put("n", &(n + 1).to_string()))];
                if client.txn(txn(vec![same], next, vec![])).await.unwrap().succeeded {
                    done += 1;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let kv = client.range(get("n")).await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.version), (&b"80"[..], 81));
}
