//! Nodes' output in the form the scripts expect.

use std::fmt::Write;

use norn_raft::{
    ConfChangeKind, ConfChangeSingle, ConfState, Entry, EntryKind, HardState, Message, NodeId,
    Ready, Snapshot, codec,
};

/// A quoted string as Go's `%q` prints it.
fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\u{7}' => out.push_str("\\a"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{b}' => out.push_str("\\v"),
                c if c < ' ' || c == '\u{7f}' => write!(out, "\\x{:02x}", c as u32).unwrap(),
                c if c.is_control() => write!(out, "\\u{:04x}", c as u32).unwrap(),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").unwrap();
        }
    }
    out.push('"');
    out
}

fn changes(changes: &[ConfChangeSingle]) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| {
            let letter = match change.kind {
                ConfChangeKind::AddNode => 'v',
                ConfChangeKind::AddLearnerNode => 'l',
                ConfChangeKind::RemoveNode => 'r',
                ConfChangeKind::UpdateNode => 'u',
            };
            format!("{letter}{}", change.node_id.0)
        })
        .collect();
    words.join(" ")
}

pub fn entry(entry: &Entry) -> String {
    let (kind, text) = match entry.kind {
        EntryKind::Normal => ("EntryNormal", quote(&entry.data)),
        EntryKind::ConfChange => {
            let text = match codec::decode_conf_change(entry.data.clone()) {
                Ok(change) => changes(&change.to_v2().changes),
                Err(error) => error.to_string(),
            };
            ("EntryConfChange", text)
        }
        EntryKind::ConfChangeV2 => {
            let text = match codec::decode_conf_change_v2(entry.data.clone()) {
                Ok(change) => changes(&change.changes),
                Err(error) => error.to_string(),
            };
            ("EntryConfChangeV2", text)
        }
    };
    let space = if text.is_empty() { "" } else { " " };
    format!("{}/{} {kind}{space}{text}", entry.term, entry.index)
}

/// One line each.
pub fn entries(list: &[Entry]) -> String {
    list.iter().map(|e| entry(e) + "\n").collect()
}

fn conf_state(state: &ConfState) -> String {
    fn ids(ids: &[NodeId]) -> String {
        let words: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        format!("[{}]", words.join(" "))
    }
    format!(
        "Voters:{} VotersOutgoing:{} Learners:{} LearnersNext:{} AutoLeave:{}",
        ids(&state.voters),
        ids(&state.voters_outgoing),
        ids(&state.learners),
        ids(&state.learners_next),
        state.auto_leave
    )
}

fn snapshot(snapshot: &Snapshot) -> String {
    let state = conf_state(&snapshot.conf_state);
    format!("Index:{} Term:{} ConfState:{state}", snapshot.index, snapshot.term)
}

fn hard_state(state: &HardState) -> String {
    let vote = if state.vote.is_none() { String::new() } else { format!(" Vote:{}", state.vote.0) };
    format!("Term:{}{vote} Commit:{}", state.term, state.commit)
}

fn target(id: NodeId) -> String {
    match id {
        NodeId::NONE => "None".to_owned(),
        NodeId::LOCAL_APPEND_THREAD => "AppendThread".to_owned(),
        NodeId::LOCAL_APPLY_THREAD => "ApplyThread".to_owned(),
        id => id.to_string(),
    }
}

/// Without a newline at the end.
pub fn message(message: &Message) -> String {
    indented_message(message, "")
}

fn indented_message(m: &Message, indent: &str) -> String {
    let mut out = format!(
        "{indent}{}->{} {} Term:{} Log:{}/{}",
        target(m.from),
        target(m.to),
        m.kind.name(),
        m.term,
        m.log_term,
        m.index
    );
    if m.reject {
        write!(out, " Rejected (Hint: {})", m.reject_hint).unwrap();
    }
    if m.commit.0 != 0 {
        write!(out, " Commit:{}", m.commit).unwrap();
    }
    if !m.vote.is_none() {
        write!(out, " Vote:{}", m.vote.0).unwrap();
    }
    match m.entries.as_slice() {
        [] => {}
        [one] => write!(out, " Entries:[{}]", entry(one)).unwrap(),
        many => {
            out += " Entries:[";
            for e in many {
                write!(out, "\n{indent}  {}", entry(e)).unwrap();
            }
            write!(out, "\n{indent}]").unwrap();
        }
    }
    if let Some(s) = m.snapshot.as_ref().filter(|s| !s.is_empty()) {
        write!(out, "\n{indent}  Snapshot: {}", snapshot(s)).unwrap();
    }
    if !m.responses.is_empty() {
        out += " Responses:[";
        for response in &m.responses {
            write!(out, "\n{}", indented_message(response, &format!("{indent}  "))).unwrap();
        }
        write!(out, "\n{indent}]").unwrap();
    }
    out
}

pub fn ready(ready: &Ready) -> String {
    let mut out = String::new();
    if let Some(soft) = &ready.soft_state {
        writeln!(out, "Lead:{} State:{}", soft.leader.0, soft.role.name()).unwrap();
    }
    if let Some(hard) = &ready.hard_state {
        writeln!(out, "HardState {}", hard_state(hard)).unwrap();
    }
    if !ready.read_states.is_empty() {
        let states: Vec<String> = ready
            .read_states
            .iter()
            .map(|state| {
                let bytes: Vec<String> = state.context.iter().map(u8::to_string).collect();
                format!("{{{} [{}]}}", state.index, bytes.join(" "))
            })
            .collect();
        writeln!(out, "ReadStates [{}]", states.join(" ")).unwrap();
    }
    if !ready.entries.is_empty() {
        out += "Entries:\n";
        out += &entries(&ready.entries);
    }
    if let Some(s) = &ready.snapshot {
        writeln!(out, "Snapshot {}", snapshot(s)).unwrap();
    }
    if !ready.committed_entries.is_empty() {
        out += "CommittedEntries:\n";
        out += &entries(&ready.committed_entries);
    }
    if !ready.messages.is_empty() {
        out += "Messages:\n";
        for m in &ready.messages {
            out += &message(m);
            out.push('\n');
        }
    }
    if out.is_empty() {
        return "<empty Ready>".to_owned();
    }
    format!("Ready MustSync={}:\n{out}", ready.must_sync)
}
