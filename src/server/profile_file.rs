//! Profiles as Go's tools read them (pprof's `profile.proto`).

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;

/// What was counted of each sample, and in what.
pub type Kind = (&'static str, &'static str);

/// A function of a stack; a place of the program is one, and behind it those that it is inlined into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    pub name: String,
    pub system_name: String,
    pub file: String,
    pub line: i64,
}

impl Frame {
    /// Of something that is no function, by its name.
    pub fn named(name: impl Into<String>) -> Frame {
        let name = name.into();
        Frame { system_name: name.clone(), name, file: String::new(), line: 0 }
    }
}

/// A profile under way.
pub struct ProfileFile {
    profile: Profile,
    strings: Strings,
    function_ids: BTreeMap<(i64, i64), u64>,
    location_ids: BTreeMap<Vec<(u64, i64)>, u64>,
}

impl ProfileFile {
    pub fn new(kinds: &[Kind]) -> ProfileFile {
        let mut strings = Strings::default();
        let mut kind = |(kind, unit): &Kind| ValueType {
            kind: strings.number(kind),
            unit: strings.number(unit),
        };
        let sample_types: Vec<ValueType> = kinds.iter().map(&mut kind).collect();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let period_type = sample_types.last().cloned();
        let profile =
            Profile { sample_types, time_nanos, period_type, period: 1, ..Profile::default() };
        ProfileFile {
            profile,
            strings,
            function_ids: BTreeMap::new(),
            location_ids: BTreeMap::new(),
        }
    }

    /// Of so many nanoseconds from `began` on, one sample per `period` of the last kind.
    pub fn timed(&mut self, began: SystemTime, period: i64) {
        let nanos =
            |length: std::time::Duration| i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
        self.profile.time_nanos = nanos(began.duration_since(UNIX_EPOCH).unwrap_or_default());
        self.profile.duration_nanos = nanos(began.elapsed().unwrap_or_default());
        self.profile.period = period;
    }

    /// A stack, the innermost place first, with a value of each kind, on a thread of this name.
    pub fn sample(&mut self, stack: &[Vec<Frame>], values: Vec<i64>, thread: Option<&str>) {
        let locations = stack.iter().map(|place| self.location(place)).collect();
        let label = thread.map(|name| Label {
            key: self.strings.number("thread"),
            text: self.strings.number(name),
        });
        self.profile.samples.push(Sample {
            locations,
            values,
            labels: label.into_iter().collect(),
        });
    }

    pub fn encode(mut self) -> Vec<u8> {
        self.profile.strings = self.strings.texts;
        self.profile.encode_to_vec()
    }

    fn location(&mut self, place: &[Frame]) -> u64 {
        let lines: Vec<(u64, i64)> =
            place.iter().map(|frame| (self.function(frame), frame.line)).collect();
        let locations = &mut self.profile.locations;
        let id = locations.len() as u64 + 1;
        *self.location_ids.entry(lines).or_insert_with_key(|lines| {
            let line = |(function, line): &(u64, i64)| Line { function: *function, line: *line };
            locations.push(Location { id, lines: lines.iter().map(line).collect() });
            id
        })
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let (name, file) = (self.strings.number(&frame.name), self.strings.number(&frame.file));
        let functions = &mut self.profile.functions;
        let id = functions.len() as u64 + 1;
        *self.function_ids.entry((name, file)).or_insert_with(|| {
            let system_name = self.strings.number(&frame.system_name);
            functions.push(Function { id, name, system_name, file });
            id
        })
    }
}

struct Strings {
    texts: Vec<String>,
    numbers: BTreeMap<String, i64>,
}

impl Default for Strings {
    /// The first must be empty.
    fn default() -> Strings {
        Strings { texts: vec![String::new()], numbers: BTreeMap::from([(String::new(), 0)]) }
    }
}

impl Strings {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as i64;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_types: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) locations: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) functions: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) strings: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValueType {
    #[prost(int64, tag = "1")]
    pub(crate) kind: i64,
    #[prost(int64, tag = "2")]
    pub(crate) unit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) locations: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) values: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) labels: Vec<Label>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Label {
    #[prost(int64, tag = "1")]
    pub(crate) key: i64,
    #[prost(int64, tag = "2")]
    pub(crate) text: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Location {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    /// The innermost first.
    #[prost(message, repeated, tag = "4")]
    pub(crate) lines: Vec<Line>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    pub(crate) function: u64,
    #[prost(int64, tag = "2")]
    pub(crate) line: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Function {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    #[prost(int64, tag = "3")]
    pub(crate) system_name: i64,
    #[prost(int64, tag = "4")]
    pub(crate) file: i64,
}
