//! A recording as a page for a browser: one file with everything in it, drawn by `page/*.js` from the rows made here.

use std::collections::BTreeMap;

use norn_raft::MessageKind;
use serde::Serialize;

use crate::record::{Record, What};
use crate::recording::{Broken, Recording};
use crate::report::shorten;

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const SCRIPTS: [&str; 3] =
    [include_str!("data.js"), include_str!("draw.js"), include_str!("page.js")];
/// Longer texts end here: they are for a small box on a page. (`--trace` has all of it.)
const TEXT_CHARS_MAX: usize = 400;

pub struct Head {
    pub title: String,
    pub commit: String,
    pub replay: String,
}

/// What the scripts read. Times are microseconds; -1 stands for none.
#[derive(Default, Serialize)]
struct Rows<'a> {
    title: &'a str,
    commit: &'a str,
    replay: &'a str,
    options: &'a str,
    hash: String,
    promise: &'a str,
    detail: &'a str,
    /// The calls that show it: client, moment.
    calls: &'a [(usize, u64)],
    /// Or the watch that shows it: member, first revision, revision of the response.
    watch: Option<(usize, i64, i64)>,
    end: u64,
    nodes: usize,
    clients: usize,
    watchers: usize,
    kinds: Vec<&'static str>,
    messages: Vec<Message>,
    places: Vec<Place>,
    ops: Vec<Op>,
    /// Moment, watcher, node, revision, events, text.
    told: Vec<(u64, usize, usize, i64, usize, String)>,
    /// From, to, watcher, node, first revision.
    streams: Vec<(u64, i64, usize, usize, i64)>,
    /// From, to, between whom.
    cuts: Vec<(u64, i64, usize, usize)>,
    /// From, to, node.
    pauses: Vec<(u64, u64, usize)>,
    /// Moment, node, kind, text.
    marks: Vec<(u64, i64, &'static str, String)>,
}

/// Moment, node, role, term, leader, commit, applied, revision.
type Place = (u64, usize, u8, u64, i64, u64, u64, i64);
/// Sent, arrived, kind, from, to, term, index, entries, fate: 0 arrived, 1 lost, 2 cut off, 3 nobody there, 4 under way.
type Message = (u64, i64, u8, usize, usize, u64, u64, usize, u8);
/// Asked, answered, client, node, end (0 done, 1 refused, 2 unknown), revision, question, answer.
type Op = (u64, i64, usize, usize, u8, i64, String, String);

fn text(more: &str) -> String {
    let more = shorten(more);
    match more.char_indices().nth(TEXT_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &more[..at]),
        None => more,
    }
}

pub fn draw(recording: &Recording, head: &Head) -> String {
    let rows = rows(recording, head);
    let json = serde_json::to_string(&rows).expect("numbers and text");
    // (Inside a script element nothing else can end it.)
    let json = json.replace("</", "<\\/");
    let parts = [
        ("{{title}}", head.title.clone()),
        ("{{css}}", CSS.to_owned()),
        ("{{scripts}}", SCRIPTS.join("\n")),
        ("{{rows}}", json),
    ];
    let mut page = HTML.to_owned();
    for (name, part) in parts {
        page = page.replacen(name, &part, 1);
    }
    page
}

fn rows<'a>(recording: &'a Recording, head: &'a Head) -> Rows<'a> {
    let broken = recording.failure.as_ref();
    let mut rows = Rows {
        title: &head.title,
        commit: &head.commit,
        replay: &head.replay,
        options: &recording.options,
        hash: format!("{:016x}", recording.hash),
        promise: broken.map_or("", |broken: &Broken| &broken.promise),
        detail: broken.map_or("", |broken| &broken.detail),
        calls: broken.map_or(&[], |broken| &broken.calls),
        watch: broken.and_then(|broken| broken.watch),
        end: recording.records.last().map_or(0, |record| record.at),
        nodes: recording.nodes,
        clients: recording.clients,
        watchers: recording.watchers,
        kinds: MessageKind::ALL.iter().map(|kind| kind.name()).collect(),
        ..Rows::default()
    };
    let mut open = Open::default();
    for record in &recording.records {
        open.take(record, &mut rows);
    }
    rows
}

/// What has begun and not ended, by where it is in its rows.
#[derive(Default)]
struct Open {
    messages: BTreeMap<u64, usize>,
    ops: BTreeMap<usize, usize>,
    streams: BTreeMap<usize, usize>,
    cuts: BTreeMap<(usize, usize), usize>,
    /// Members by their ids.
    ids: BTreeMap<u64, usize>,
}

impl Open {
    fn take(&mut self, record: &Record, rows: &mut Rows<'_>) {
        let at = record.at;
        let ends = at.cast_signed();
        match record.what {
            What::Send { id, from, to, kind, term, index, entries, copies } => {
                let fate = if copies == 0 { 1 } else { 4 };
                self.messages.insert(id, rows.messages.len());
                rows.messages.push((at, -1, kind, from, to, term, index, entries, fate));
            }
            What::Drop { id, is_cut } => {
                if let Some(message) = self.messages.get(&id).map(|m| &mut rows.messages[*m]) {
                    message.8 = if is_cut { 2 } else { 3 };
                }
            }
            What::Arrive { id, .. } => self.arrives(id, at, rows),
            What::Place { node, place } => {
                self.ids.insert(place.id, node);
                let leader = self.ids.get(&place.leader).map_or(-1, |node| *node as i64);
                let (term, commit, applied) = (place.term, place.commit, place.applied);
                let role = place.role;
                let row = (at, node, role, term, leader, commit, applied, place.revision);
                rows.places.push(row);
            }
            What::Ask { op, client, node } => {
                self.ops.insert(op, rows.ops.len());
                let question = text(&record.more);
                rows.ops.push((at, -1, client, node, 2, 0, question, String::new()));
            }
            What::Answer { op, end, revision, .. } => {
                if let Some(op) = self.ops.remove(&op).map(|op| &mut rows.ops[op]) {
                    (op.1, op.4, op.5, op.7) = (ends, end as u8, revision, text(&record.more));
                }
            }
            What::Watch { watcher, node, start } => {
                self.streams.insert(watcher, rows.streams.len());
                rows.streams.push((at, -1, watcher, node, start));
            }
            What::Unwatch { watcher } => {
                if let Some(stream) = self.streams.remove(&watcher) {
                    rows.streams[stream].1 = ends;
                }
            }
            What::Told { watcher, node, revision, events } => {
                rows.told.push((at, watcher, node, revision, events, text(&record.more)));
            }
            What::Cut { from, to } => {
                self.cuts.entry((from, to)).or_insert(rows.cuts.len());
                rows.cuts.push((at, -1, from, to));
            }
            What::Mend => {
                let open = std::mem::take(&mut self.cuts);
                open.values().for_each(|cut| rows.cuts[*cut].1 = ends);
                rows.cuts.retain(|cut| cut.1 != -1);
                rows.marks.push((at, -1, "mend", String::new()));
            }
            What::Pause { node, for_us } => rows.pauses.push((at, at + for_us, node)),
            What::Data { .. } => {}
            _ => self.mark(record, rows),
        }
    }

    /// A second copy is a message of its own.
    fn arrives(&self, id: u64, at: u64, rows: &mut Rows<'_>) {
        let Some(message) = self.messages.get(&id).map(|m| &mut rows.messages[*m]) else { return };
        let mut copy = *message;
        (copy.1, copy.8) = (at.cast_signed(), 0);
        if message.1 < 0 {
            *message = copy;
        } else {
            rows.messages.push(copy);
        }
    }

    fn mark(&self, record: &Record, rows: &mut Rows<'_>) {
        let (node, kind) = match record.what {
            What::Start { node, .. } => (Some(node), "start"),
            What::StartCut { node } => (Some(node), "start cut short"),
            What::Crash { node, power: true } => (Some(node), "power off"),
            What::Crash { node, .. } => (Some(node), "killed"),
            What::End { node } => (Some(node), "ended"),
            What::Failed { node } => (Some(node), "failed"),
            What::Fault { node, .. } => (node, "fault"),
            What::Heal => (None, "heal"),
            What::Snapshot { node, .. } => (Some(node), "snapshot"),
            What::Served { node } => (Some(node), "served"),
            What::Hash { node, .. } => (Some(node), "hash"),
            What::Leader { node } => (Some(node), "leader"),
            What::Operate { node } => (Some(node), "operator"),
            What::Retire { node } => (Some(node), "retired"),
            What::Log { node } => (Some(node), "log"),
            _ => return,
        };
        let more = match record.what {
            What::Fault { kind, .. } => format!("{}: {}", kind.name(), record.more),
            What::Start { life, .. } => format!("life {life}"),
            What::Snapshot { index, .. } => format!("index {index}"),
            What::Hash { hash, .. } => format!("{hash:08x}"),
            _ => text(&record.more),
        };
        rows.marks.push((record.at, node.map_or(-1, |node| node as i64), kind, more));
    }
}
