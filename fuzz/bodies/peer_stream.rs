//! The streams between members, and a posted snapshot: any bytes in any pieces, and messages there and back.

use bytes::Bytes;
use norn_raft::codec::RESPONSES_MAX;
use norn_raft::{
    ConfState, Entry, EntryKind, Index, Message, MessageKind, NodeId, Snapshot, Term, codec,
};
use norn_server::peer_codec::{
    BadHead, BadStream, Decoder, Encoder, Pieces, SnapshotHead, StreamKind,
};

use crate::choices::Choices;
use crate::memory;

const FROM: u64 = 1;
const TO: u64 = 2;

/// The first byte says which stream, and whether the rest is its bytes or what to send.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let switches = choices.byte();
    let kind = if switches & 1 == 0 { StreamKind::Message } else { StreamKind::MsgApp };
    match switches >> 1 & 3 {
        0 => any_bytes(kind, &mut choices),
        1 => snapshot(&mut choices),
        2 => there_and_back(kind, &mut choices),
        _ => codecs(choices.rest()),
    }
}

/// Of a decoder: the responses that a message may have are large beside their two bytes.
const FIXED_BYTES: usize = (16 << 10) + 2 * RESPONSES_MAX * size_of::<Message>();

type Outcome = (Vec<Message>, Option<BadStream>);

fn decode(kind: StreamKind, bytes: &[u8], step: usize) -> Outcome {
    memory::bounded(bytes.len(), 80, FIXED_BYTES, || {
        let mut decoder = Decoder::new(kind, FROM, TO);
        let mut messages = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.push(piece);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error)),
                }
            }
        }
        (messages, None)
    })
}

/// The same messages and the same refusal, in whatever pieces the bytes come.
fn any_bytes(kind: StreamKind, choices: &mut Choices<'_>) {
    let step = 1 + choices.below(16);
    let bytes = choices.rest();
    let whole = decode(kind, bytes, bytes.len().max(1));
    assert_eq!(decode(kind, bytes, step), whole, "in pieces of {step}");
    for message in whole.0 {
        same_again(&message);
    }
}

type Head = Result<Option<(Message, Vec<u8>)>, BadHead>;

/// The message and the whole database behind it.
fn head(bytes: &[u8], step: usize) -> Head {
    memory::bounded(bytes.len(), 80, FIXED_BYTES, || {
        let mut head = SnapshotHead::default();
        let mut pieces = bytes.chunks(step);
        while let Some(piece) = pieces.next() {
            head.push(piece);
            if let Some((message, first)) = head.take()? {
                let rest = pieces.flatten().copied();
                return Ok(Some((message, first.iter().copied().chain(rest).collect())));
            }
        }
        Ok(None)
    })
}

/// A posted snapshot in pieces: any bytes, or a message with any length in front of it and a database behind.
fn snapshot(choices: &mut Choices<'_>) {
    let step = 1 + choices.below(16);
    let mut bytes = Vec::new();
    let mut sent = None;
    if choices.bool() {
        let mut message = Message { from: NodeId(FROM), to: NodeId(TO), ..Message::default() };
        other_fields(&mut message, choices);
        codec::encode_message_into(&message, &mut bytes);
        let len = bytes.len() as u64;
        let told = if choices.one_in(4) { choices.long() } else { len };
        bytes.splice(..0, told.to_be_bytes());
        sent = (told == len).then_some(message);
    }
    let database = choices.rest();
    bytes.extend_from_slice(database);
    let whole = head(&bytes, bytes.len().max(1));
    assert_eq!(head(&bytes, step), whole, "in pieces of {step}");
    if let Some(message) = sent {
        let is_snapshot = message.kind == MessageKind::Snap;
        let expected = if is_snapshot {
            Ok(Some((message, database.to_vec())))
        } else {
            Err(BadHead::NoSnapshot)
        };
        assert_eq!(whole, expected);
    } else if let Ok(Some((message, _))) = whole {
        same_again(&message);
    }
}

/// What was decoded is encoded into bytes that say the same.
fn same_again(message: &Message) {
    let mut bytes = Vec::new();
    codec::encode_message_into(message, &mut bytes);
    assert_eq!(bytes.len(), codec::message_len(message));
    assert_eq!(codec::decode_message(Bytes::from(bytes)).as_ref(), Ok(message));
}

/// Any bytes as entry, change, membership or snapshot: refused, or understood in a way that survives encoding.
fn codecs(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(message) = codec::decode_message(bytes.clone()) {
        same_again(&message);
    }
    if let Ok(entry) = codec::decode_entry(bytes.clone()) {
        let mut again = Vec::new();
        codec::encode_entry_into(&entry, &mut again);
        assert_eq!(again.len(), codec::entry_len(&entry));
        assert_eq!(codec::decode_entry(Bytes::from(again)), Ok(entry));
    }
    if let Ok(change) = codec::decode_conf_change(bytes.clone()) {
        assert_eq!(codec::decode_conf_change(codec::encode_conf_change(&change)), Ok(change));
    }
    if let Ok(change) = codec::decode_conf_change_v2(bytes.clone()) {
        assert_eq!(codec::decode_conf_change_v2(codec::encode_conf_change_v2(&change)), Ok(change));
    }
}

/// Appends that go on where the last one ended, and that do not, with keep-alives in between.
fn there_and_back(kind: StreamKind, choices: &mut Choices<'_>) {
    let step = 1 + choices.below(40);
    let mut encoder = Encoder::new(kind);
    let mut wire = Vec::new();
    let mut sent = Vec::new();
    let (mut term, mut index) = (1, 0);
    while !choices.is_done() && sent.len() < 60 {
        let how = choices.byte();
        if how & 1 == 1 {
            wire.extend_from_slice(&kind.keep_alive());
        }
        term += u64::from(how >> 1 & 7 == 7);
        if how >> 4 & 3 == 3 {
            index = choices.long();
        }
        let log_term = if how >> 6 & 1 == 1 { term.saturating_sub(1) } else { term };
        let mut message = Message {
            kind: MessageKind::App,
            from: NodeId(FROM),
            to: NodeId(TO),
            term: Term(term),
            log_term: Term(log_term),
            index: Index(index),
            commit: Index(u64::from(choices.byte())),
            ..Message::default()
        };
        for _ in 0..choices.below(4) {
            let Some(next) = index.checked_add(1) else { break };
            index = next;
            message.entries.push(Entry {
                kind: [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2]
                    [choices.below(3)],
                term: Term(term),
                index: Index(index),
                data: Bytes::copy_from_slice(choices.bytes(20)),
            });
        }
        if kind == StreamKind::Message {
            other_fields(&mut message, choices);
        }
        let mut pieces = Pieces::default();
        encoder.encode(&message, &mut pieces);
        wire.extend(pieces.into_whole().concat());
        sent.push(message);
    }
    let (got, error) = decode(kind, &wire, step);
    assert_eq!(error, None);
    assert_eq!(got, sent, "in pieces of {step}");
}

fn other_fields(message: &mut Message, choices: &mut Choices<'_>) {
    message.kind = MessageKind::ALL[choices.below(24)];
    message.reject = choices.bool();
    message.reject_hint = Index(u64::from(choices.word()));
    message.vote = NodeId(choices.long());
    message.context = Bytes::copy_from_slice(choices.bytes(9));
    if choices.one_in(4) {
        let voters = (0..choices.below(4)).map(|at| NodeId(at as u64 + 1)).collect();
        message.snapshot = Some(Box::new(Snapshot {
            data: Bytes::copy_from_slice(choices.bytes(30)),
            // (One of index 0 is none.)
            index: Index(choices.long().max(1)),
            term: message.term,
            conf_state: ConfState { voters, auto_leave: choices.bool(), ..ConfState::default() },
        }));
    }
}
