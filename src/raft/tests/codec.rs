//! The wire format: golden bytes, round trips, and input that is none.

use bytes::Bytes;
use norn_raft::codec::{self, CodecError};
use norn_raft::{
    ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, ConfState,
    Entry, EntryKind, HardState, Index, Message, MessageKind, NodeId, Snapshot, Term,
};
use proptest::prelude::*;

#[test]
fn golden_bytes() {
    let entry = Entry { term: Term(2), index: Index(300), ..Entry::default() };
    assert_eq!(codec::encode_entry(&entry)[..], [0x08, 0, 0x10, 2, 0x18, 0xac, 2]);
    let entry = Entry { kind: EntryKind::ConfChange, data: Bytes::from_static(b"ab"), ..entry };
    assert_eq!(
        codec::encode_entry(&entry)[..],
        [0x08, 1, 0x10, 2, 0x18, 0xac, 2, 0x22, 2, b'a', b'b']
    );
    let keep_alive = Message { kind: MessageKind::Heartbeat, ..Message::default() };
    assert_eq!(
        codec::encode_message(&keep_alive)[..],
        [8, 8, 0x10, 0, 0x18, 0, 0x20, 0, 0x28, 0, 0x30, 0, 0x40, 0, 0x50, 0, 0x58, 0, 0x68, 0]
    );
    // etcd 3.7 leaves out what was never set.
    assert_eq!(codec::decode_message(Bytes::from_static(&[8, 8])).unwrap(), keep_alive);
    let hard = HardState { term: Term(1), vote: NodeId(2), commit: Index(0) };
    assert_eq!(codec::encode_hard_state(&hard)[..], [0x08, 1, 0x10, 2, 0x18, 0]);
    let state = ConfState {
        voters: vec![NodeId(1), NodeId(2)],
        learners: vec![NodeId(3)],
        ..ConfState::default()
    };
    assert_eq!(codec::encode_conf_state(&state)[..], [0x08, 1, 0x08, 2, 0x10, 3, 0x28, 0]);
    let packed = Bytes::from_static(&[0x0a, 2, 1, 2, 0x12, 1, 3]);
    assert_eq!(codec::decode_conf_state(packed).unwrap(), state);
    let change = ConfChange { id: 7, node_id: NodeId(9), ..ConfChange::default() };
    assert_eq!(codec::encode_conf_change(&change)[..], [0x08, 7, 0x10, 0, 0x18, 9]);
    let snapshot = Snapshot { index: Index(4), term: Term(3), ..Snapshot::default() };
    assert_eq!(
        codec::encode_snapshot(&snapshot)[..],
        [0x12, 8, 0x0a, 2, 0x28, 0, 0x10, 4, 0x18, 3]
    );
}

#[test]
fn bad_input_is_refused() {
    let decode = |bytes: &'static [u8]| codec::decode_message(Bytes::from_static(bytes));
    assert_eq!(decode(&[0x08]), Err(CodecError::Truncated));
    assert_eq!(decode(&[0x08, 99]), Err(CodecError::Enum { field: "message type", value: 99 }));
    // A length far beyond the input, before anything is allocated for it.
    assert_eq!(decode(&[0x62, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(CodecError::Truncated));
    assert_eq!(decode(&[0x3a, 5, 8]), Err(CodecError::Truncated));
    let eleven = [0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(codec::decode_message(Bytes::copy_from_slice(&eleven)), Err(CodecError::Varint));
    assert!(matches!(decode(&[0x0b]), Err(CodecError::Tag(_))));
    // An unknown field of every wire type is skipped.
    assert!(
        decode(&[0xa0, 1, 5, 0xa2, 1, 1, 0, 0xa5, 1, 0, 0, 0, 0, 0xa1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
            .is_ok()
    );
    let mut nested = Message::default();
    for _ in 0..10 {
        nested = Message { responses: vec![nested], ..Message::default() };
    }
    let bytes = codec::encode_message(&nested);
    assert_eq!(codec::decode_message(bytes), Err(CodecError::Depth));
}

#[test]
fn more_responses_than_any_storage_has_are_refused_however_nested() {
    let many = |count| Message { responses: vec![Message::default(); count], ..Message::default() };
    let decoded = |message: &Message| codec::decode_message(codec::encode_message(message));
    assert_eq!(decoded(&many(codec::RESPONSES_MAX)), Ok(many(codec::RESPONSES_MAX)));
    assert_eq!(decoded(&many(codec::RESPONSES_MAX + 1)), Err(CodecError::Responses));
    let nested = Message { responses: vec![many(32), many(32)], ..Message::default() };
    assert_eq!(decoded(&nested), Err(CodecError::Responses));
}

#[test]
fn payloads_share_the_input() {
    let entry = Entry::proposal(Bytes::from_static(b"payload"));
    let bytes = codec::encode_entry(&entry);
    let within = bytes.as_ptr_range();
    let decoded = codec::decode_entry(bytes.clone()).unwrap();
    assert!(within.contains(&decoded.data.as_ptr()));
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..300u64, any::<u64>()]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::vec(number().prop_map(NodeId), 0..5)
}

fn entry() -> impl Strategy<Value = Entry> {
    let kinds = vec![EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2];
    (prop::sample::select(kinds), number(), number(), bytes()).prop_map(
        |(kind, term, index, data)| Entry { kind, term: Term(term), index: Index(index), data },
    )
}

fn conf_state() -> impl Strategy<Value = ConfState> {
    (nodes(), nodes(), nodes(), nodes(), any::<bool>()).prop_map(
        |(voters, learners, voters_outgoing, learners_next, auto_leave)| ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        },
    )
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    (bytes(), number(), 1..u64::MAX, conf_state()).prop_map(|(data, term, index, conf_state)| {
        Snapshot { data, index: Index(index), term: Term(term), conf_state }
    })
}

fn message() -> impl Strategy<Value = Message> {
    let flat = (
        prop::sample::select(MessageKind::ALL.to_vec()),
        [number(), number(), number(), number(), number(), number(), number(), number()],
        prop::collection::vec(entry(), 0..4),
        prop::option::of(snapshot()),
        any::<bool>(),
        bytes(),
    )
        .prop_map(|(kind, numbers, entries, snapshot, reject, context)| Message {
            kind,
            to: NodeId(numbers[0]),
            from: NodeId(numbers[1]),
            term: Term(numbers[2]),
            log_term: Term(numbers[3]),
            index: Index(numbers[4]),
            entries,
            commit: Index(numbers[5]),
            snapshot: snapshot.map(Box::new),
            vote: NodeId(numbers[6]),
            reject,
            reject_hint: Index(numbers[7]),
            context,
            responses: Vec::new(),
        })
        .boxed();
    (flat.clone(), prop::collection::vec(flat, 0..3))
        .prop_map(|(message, responses)| Message { responses, ..message })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_come_back(message in message()) {
        let bytes = codec::encode_message(&message);
        prop_assert_eq!(bytes.len(), codec::message_len(&message));
        prop_assert_eq!(codec::decode_message(bytes).unwrap(), message);
    }

    #[test]
    fn states_and_changes_come_back(
        state in conf_state(),
        hard in (number(), number(), number()),
        change in (number(), number(), bytes()),
        singles in prop::collection::vec((0..4usize, number()), 0..5),
        transition in 0..3usize,
    ) {
        prop_assert_eq!(codec::decode_conf_state(codec::encode_conf_state(&state)).unwrap(), state);
        let hard = HardState { term: Term(hard.0), vote: NodeId(hard.1), commit: Index(hard.2) };
        prop_assert_eq!(codec::decode_hard_state(codec::encode_hard_state(&hard)).unwrap(), hard);
        let kinds = [
            ConfChangeKind::AddNode,
            ConfChangeKind::RemoveNode,
            ConfChangeKind::UpdateNode,
            ConfChangeKind::AddLearnerNode,
        ];
        let (id, node, context) = change;
        let v1 = ConfChange { id, kind: kinds[transition], node_id: NodeId(node), context: context.clone() };
        prop_assert_eq!(codec::decode_conf_change(codec::encode_conf_change(&v1)).unwrap(), v1);
        let v2 = ConfChangeV2 {
            transition: [
                ConfChangeTransition::Auto,
                ConfChangeTransition::JointImplicit,
                ConfChangeTransition::JointExplicit,
            ][transition],
            changes: singles
                .into_iter()
                .map(|(kind, n)| ConfChangeSingle { kind: kinds[kind], node_id: NodeId(n) })
                .collect(),
            context,
        };
        prop_assert_eq!(codec::decode_conf_change_v2(codec::encode_conf_change_v2(&v2)).unwrap(), v2);
    }

    #[test]
    fn any_bytes_are_an_answer_not_a_crash(bytes in bytes()) {
        let _ = codec::decode_message(bytes.clone());
        let _ = codec::decode_snapshot(bytes.clone());
        let _ = codec::decode_entry(bytes.clone());
        let _ = codec::decode_conf_state(bytes.clone());
        let _ = codec::decode_conf_change_v2(bytes);
    }
}
