//! Expected texts were recorded from etcdctl 3.7.1 against etcd 3.7.1.

use bytes::Bytes;
use norn_proto::authpb;

use super::*;

fn show(format: &str, hex: bool, reply: &Reply<'_>) -> String {
    String::from_utf8(Printer::new(format, hex).unwrap().render(reply).unwrap()).unwrap()
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: 324_952_591_200_643_719,
        member_id: 3_319_814_642_761_637_952,
        revision,
        raft_term: 2,
    })
}

fn kv(
    key: &'static str,
    value: &'static str,
    create: i64,
    modified: i64,
    version: i64,
) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: 0,
    }
}

const HEAD: &str = r#""header":{"cluster_id":324952591200643719,"member_id":3319814642761637952,"revision":10,"raft_term":2}"#;
const FIELDS: &str = "\"ClusterID\" : 324952591200643719\n\"MemberID\" : 3319814642761637952\n\"Revision\" : 10\n\"RaftTerm\" : 2\n";

#[test]
fn get() {
    let r = pb::RangeResponse {
        header: header(10),
        kvs: vec![kv("a", "va3", 2, 8, 4)],
        more: true,
        count: 2,
    };
    let r = Reply::Get(&r);
    assert_eq!(show("simple", false, &r), "a\nva3\n");
    assert_eq!(show("simple", true, &r), "\\x61\n\\x76\\x61\\x33\n");
    assert_eq!(
        show("json", false, &r),
        format!(
            r#"{{{HEAD},"kvs":[{{"key":"YQ==","create_revision":2,"mod_revision":8,"version":4,"value":"dmEz"}}],"more":true,"count":2}}"#
        ) + "\n"
    );
    assert_eq!(
        show("fields", false, &r),
        format!(
            "{FIELDS}\"Key\" : \"a\"\n\"CreateRevision\" : 2\n\"ModRevision\" : 8\n\"Version\" : 4\n\"Value\" : \"va3\"\n\"Lease\" : 0\n\"More\" : true\n\"Count\" : 2\n"
        )
    );
    assert!(
        show("fields", true, &r)
            .starts_with("\"ClusterID\" : 48276a8f75b6a87\n\"MemberID\" : 2e1259d415f2a040\n")
    );
    assert!(show("fields", true, &r).contains("\"Lease\" : 0000000000000000\n"));
    assert_eq!(Printer::new("table", false).unwrap().render(&r), Err(Unsupported));
}

#[test]
fn writes() {
    let r = pb::PutResponse { header: header(10), prev_kv: Some(kv("a", "va2", 2, 5, 3)) };
    assert_eq!(show("simple", false, &Reply::Put(&r)), "OK\na\nva2\n");
    let r = pb::DeleteRangeResponse {
        header: header(10),
        deleted: 1,
        prev_kvs: vec![kv("b", "vb", 7, 7, 1)],
    };
    assert_eq!(show("simple", false, &Reply::Delete(&r)), "1\nb\nvb\n");
    assert_eq!(
        show("json", false, &Reply::Delete(&r)),
        format!(
            r#"{{{HEAD},"deleted":1,"prev_kvs":[{{"key":"Yg==","create_revision":7,"mod_revision":7,"version":1,"value":"dmI="}}]}}"#
        ) + "\n"
    );
}

#[test]
fn txn() {
    let inner = Some(pb::ResponseHeader { revision: 10, ..Default::default() });
    let get = pb::RangeResponse {
        header: inner,
        kvs: vec![kv("b", "vb", 10, 10, 1)],
        more: false,
        count: 1,
    };
    let del = pb::DeleteRangeResponse { header: inner, ..Default::default() };
    let r = pb::TxnResponse {
        header: header(10),
        succeeded: false,
        responses: vec![
            pb::ResponseOp { response: Some(pb::response_op::Response::ResponseRange(get)) },
            pb::ResponseOp { response: Some(pb::response_op::Response::ResponseDeleteRange(del)) },
        ],
    };
    assert_eq!(show("simple", false, &Reply::Txn(&r)), "FAILURE\n\nb\nvb\n\n0\n");
    assert_eq!(
        show("json", false, &Reply::Txn(&r)),
        format!(
            r#"{{{HEAD},"responses":[{{"Response":{{"response_range":{{"header":{{"revision":10}},"kvs":[{{"key":"Yg==","create_revision":10,"mod_revision":10,"version":1,"value":"dmI="}}],"count":1}}}}}},{{"Response":{{"response_delete_range":{{"header":{{"revision":10}}}}}}}}]}}"#
        ) + "\n"
    );
}

#[test]
fn watch_events() {
    let r = pb::WatchResponse {
        header: header(10),
        events: vec![mvccpb::Event { r#type: 1, kv: Some(kv("a", "", 0, 10, 0)), prev_kv: None }],
        ..Default::default()
    };
    assert_eq!(show("simple", false, &Reply::Watch(&r)), "DELETE\na\n\n");
    assert_eq!(
        show("json", false, &Reply::Watch(&r)),
        "{\"Header\":{\"cluster_id\":324952591200643719,\"member_id\":3319814642761637952,\"revision\":10,\"raft_term\":2},\"Events\":[{\"type\":1,\"kv\":{\"key\":\"YQ==\",\"mod_revision\":10}}],\"CompactRevision\":0,\"Canceled\":false,\"Created\":false,\"CancelReason\":\"\"}\n"
    );
    let r = pb::WatchResponse { header: header(10), ..Default::default() };
    assert_eq!(show("simple", false, &Reply::Watch(&r)), "progress notify: 10\n");
}

#[test]
fn leases() {
    let r = pb::LeaseTimeToLiveResponse {
        header: header(10),
        id: 291,
        ttl: -1,
        granted_ttl: 0,
        keys: vec![],
    };
    assert_eq!(
        show("json", false, &Reply::TimeToLive(&r, false)),
        "{\"cluster_id\":324952591200643719,\"member_id\":3319814642761637952,\"revision\":10,\"raft_term\":2,\"id\":291,\"ttl\":-1,\"granted-ttl\":0,\"keys\":null}\n"
    );
    assert_eq!(
        show("simple", false, &Reply::TimeToLive(&r, false)),
        "lease 0000000000000123 already expired\n"
    );
    let r = pb::LeaseTimeToLiveResponse {
        id: 291,
        ttl: 9,
        granted_ttl: 10,
        keys: vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")],
        ..r
    };
    assert_eq!(
        show("simple", false, &Reply::TimeToLive(&r, true)),
        "lease 0000000000000123 granted with TTL(10s), remaining(9s), attached keys([a b])\n"
    );
    let r = pb::LeaseGrantResponse {
        header: header(10),
        id: 0x2040_a1fd_4827_bb19,
        ttl: 100,
        error: String::new(),
    };
    assert_eq!(
        show("simple", false, &Reply::LeaseGrant(&r)),
        "lease 2040a1fd4827bb19 granted with TTL(100s)\n"
    );
    assert!(show("json", false, &Reply::LeaseGrant(&r)).ends_with("\"TTL\":100,\"Error\":\"\"}\n"));
}

#[test]
fn member_list() {
    let r = pb::MemberListResponse {
        header: header(0),
        members: vec![pb::Member {
            id: 0x2e12_59d4_15f2_a040,
            name: "n1".into(),
            peer_ur_ls: vec!["http://127.0.0.1:23800".into()],
            client_ur_ls: vec!["http://127.0.0.1:23790".into()],
            is_learner: false,
        }],
    };
    let r = Reply::MemberList(&r);
    assert_eq!(
        show("simple", false, &r),
        "2e1259d415f2a040, started, n1, http://127.0.0.1:23800, http://127.0.0.1:23790, false\n"
    );
    assert_eq!(
        show("json", true, &r),
        r#"{"header":{"cluster_id":"48276a8f75b6a87","member_id":"2e1259d415f2a040","raft_term":2},"members":[{"ID":"2e1259d415f2a040","name":"n1","peerURLs":["http://127.0.0.1:23800"],"clientURLs":["http://127.0.0.1:23790"]}]}"#.to_owned() + "\n"
    );
    assert_eq!(
        show("table", false, &r),
        "\
┌──────────────────┬─────────┬──────┬────────────────────────┬────────────────────────┬────────────┐
│        ID        │ STATUS  │ NAME │       PEER ADDRS       │      CLIENT ADDRS      │ IS LEARNER │
├──────────────────┼─────────┼──────┼────────────────────────┼────────────────────────┼────────────┤
│ 2e1259d415f2a040 │ started │   n1 │ http://127.0.0.1:23800 │ http://127.0.0.1:23790 │      false │
└──────────────────┴─────────┴──────┴────────────────────────┴────────────────────────┴────────────┘
"
    );
    assert!(show("fields", false, &r).ends_with("\"RaftTerm\" : 2\n\"ID\" : 3319814642761637952\n\"Name\" : \"n1\"\n\"PeerURL\" : \"http://127.0.0.1:23800\"\n\"ClientURL\" : \"http://127.0.0.1:23790\"\n\"IsLearner\" : false\n\n"));
}

#[test]
fn endpoint_status() {
    let s = pb::StatusResponse {
        header: header(10),
        version: "3.7.1".into(),
        storage_version: "3.7.0".into(),
        db_size: 20_480,
        db_size_in_use: 16_384,
        db_size_quota: 2_147_483_648,
        leader: 3_319_814_642_761_637_952,
        raft_index: 21,
        raft_term: 2,
        raft_applied_index: 21,
        downgrade_info: Some(pb::DowngradeInfo::default()),
        ..Default::default()
    };
    let all = [("127.0.0.1:23790".to_owned(), s)];
    assert_eq!(
        show("simple", false, &Reply::Status(&all)),
        "127.0.0.1:23790, 2e1259d415f2a040, 3.7.1, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 21, 21, , , false\n"
    );
    assert_eq!(
        show("json", false, &Reply::Status(&all)),
        format!(
            r#"[{{"Endpoint":"127.0.0.1:23790","Status":{{{HEAD},"version":"3.7.1","dbSize":20480,"leader":3319814642761637952,"raftIndex":21,"raftTerm":2,"raftAppliedIndex":21,"dbSizeInUse":16384,"storageVersion":"3.7.0","dbSizeQuota":2147483648,"downgradeInfo":{{}}}}}}]"#
        ) + "\n"
    );
    assert_eq!(show("json", false, &Reply::Status(&[])), "null\n");
}

#[test]
fn health_in_all_forms() {
    let all = [
        Health {
            endpoint: "127.0.0.1:23790".into(),
            healthy: true,
            took: Duration::from_nanos(3_067_477),
            error: String::new(),
        },
        Health {
            endpoint: "127.0.0.1:1".into(),
            healthy: false,
            took: Duration::from_nanos(1_000_686_209),
            error: "context deadline exceeded".into(),
        },
    ];
    assert_eq!(
        show("table", false, &Reply::Health(&all)),
        "\
┌─────────────────┬────────┬──────────────┬───────────────────────────┐
│    ENDPOINT     │ HEALTH │     TOOK     │           ERROR           │
├─────────────────┼────────┼──────────────┼───────────────────────────┤
│ 127.0.0.1:23790 │   true │   3.067477ms │                           │
│     127.0.0.1:1 │  false │ 1.000686209s │ context deadline exceeded │
└─────────────────┴────────┴──────────────┴───────────────────────────┘
"
    );
    assert_eq!(
        show("json", false, &Reply::Health(&all)),
        "[{\"endpoint\":\"127.0.0.1:23790\",\"health\":true,\"took\":\"3.067477ms\"},{\"endpoint\":\"127.0.0.1:1\",\"health\":false,\"took\":\"1.000686209s\",\"error\":\"context deadline exceeded\"}]\n"
    );
}

#[test]
fn roles() {
    let perm = |perm_type, key: &'static str, end: &'static str| authpb::Permission {
        perm_type,
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::from_static(end.as_bytes()),
    };
    let r = pb::AuthRoleGetResponse {
        header: header(10),
        perm: vec![perm(2, "a", ""), perm(0, "a", "b"), perm(0, "f", "\0"), perm(1, "p", "q")],
    };
    assert_eq!(
        show("simple", false, &Reply::RoleGet("r1", &r)),
        "Role r1\nKV Read:\n\ta\n\t[a, b) (prefix a)\n\t[f, <open ended>\nKV Write:\n\ta\n\t[p, q) (prefix p)\n"
    );
    assert_eq!(
        show("json", false, &Reply::RoleGet("r1", &r)),
        format!(
            r#"{{{HEAD},"perm":[{{"permType":2,"key":"YQ=="}},{{"key":"YQ==","range_end":"Yg=="}},{{"key":"Zg==","range_end":"AA=="}},{{"permType":1,"key":"cA==","range_end":"cQ=="}}]}}"#
        ) + "\n"
    );
}

#[test]
fn prefix_ends() {
    assert_eq!(prefix_end(b"a"), b"b");
    assert_eq!(prefix_end(b"a\xff"), b"b");
    assert_eq!(prefix_end(b"\xff"), b"\0");
}
