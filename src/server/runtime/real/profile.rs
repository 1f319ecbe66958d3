//! A profile of where this process spends its CPU time, as Go's tools read it (pprof's `profile.proto`).
//!
//! While one is taken, and only then, a timer of the system interrupts whichever thread is running, a hundred times per second of CPU
//! time, and its stack is noted by following frame pointers (`.cargo/config.toml` keeps them): no lock is taken there, no memory,
//! and what does not look like a stack is not followed. The innermost function has no frame to be found by: its time counts for the one
//! that called it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Symbol, UnresolvedReport};
use prost::Message as _;

/// Samples per second of CPU time, as Go takes them.
const SAMPLES_HZ: i32 = 100;
const PERIOD_NANOS: i64 = 1_000_000_000 / SAMPLES_HZ as i64;

/// A profile that is being taken, until it is dropped.
pub struct Sampling {
    guard: ProfilerGuard<'static>,
    began: SystemTime,
}

impl Sampling {
    /// # Errors
    /// Another one is being taken, or the system gives no timer.
    pub fn start() -> Result<Sampling, String> {
        let guard = ProfilerGuardBuilder::default().frequency(SAMPLES_HZ).build();
        let guard = guard.map_err(|error| match error {
            pprof::Error::Running => "cpu profiling already in use".to_owned(),
            error => error.to_string(),
        })?;
        Ok(Sampling { guard, began: SystemTime::now() })
    }

    /// What was seen so far, encoded.
    ///
    /// # Errors
    /// The samples cannot be read.
    pub async fn finish(self) -> Result<Vec<u8>, String> {
        let seen = self.guard.report().build_unresolved().map_err(|error| error.to_string())?;
        let began = self.began;
        drop(self.guard);
        // (Finding names reads the whole program's: not on the thread that serves.)
        let named = tokio::task::spawn_blocking(move || encode(seen, began));
        named.await.map_err(|error| error.to_string())
    }
}

fn encode(seen: UnresolvedReport, began: SystemTime) -> Vec<u8> {
    let took = began.elapsed().unwrap_or_default();
    let mut tables = Tables::default();
    let number = |text| tables.strings.number(text);
    let [samples, count, cpu, nanoseconds, thread] =
        ["samples", "count", "cpu", "nanoseconds", "thread"].map(number);
    let cpu = ValueType { kind: cpu, unit: nanoseconds };
    let mut sample = Vec::with_capacity(seen.data.len());
    for (stack, times) in seen.data {
        let stack = Frames::from(stack);
        let name = tables.strings.number(&stack.thread_name_or_id());
        let times = i64::try_from(times).unwrap_or(i64::MAX);
        sample.push(Sample {
            locations: stack.frames.iter().map(|frame| tables.location(frame)).collect(),
            values: vec![times, times.saturating_mul(PERIOD_NANOS)],
            labels: vec![Label { key: thread, text: name }],
        });
    }
    let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let profile = Profile {
        sample_types: vec![ValueType { kind: samples, unit: count }, cpu.clone()],
        samples: sample,
        locations: tables.locations,
        functions: tables.functions,
        strings: tables.strings.texts,
        time_nanos: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        duration_nanos: i64::try_from(took.as_nanos()).unwrap_or(i64::MAX),
        period_type: Some(cpu),
        period: PERIOD_NANOS,
    };
    profile.encode_to_vec()
}

/// What stands once in a profile and is named by number.
#[derive(Default)]
struct Tables {
    strings: Strings,
    functions: Vec<Function>,
    function_ids: BTreeMap<(i64, i64), u64>,
    locations: Vec<Location>,
    location_ids: BTreeMap<Vec<(u64, i64)>, u64>,
}

impl Tables {
    /// Of a frame: a function, and behind it those that it is inlined into.
    fn location(&mut self, frame: &[Symbol]) -> u64 {
        let lines: Vec<(u64, i64)> = frame
            .iter()
            .map(|symbol| (self.function(symbol), i64::from(symbol.lineno())))
            .collect();
        let id = self.locations.len() as u64 + 1;
        *self.location_ids.entry(lines).or_insert_with_key(|lines| {
            let line = |(function, line): &(u64, i64)| Line { function: *function, line: *line };
            self.locations.push(Location { id, lines: lines.iter().map(line).collect() });
            id
        })
    }

    fn function(&mut self, symbol: &Symbol) -> u64 {
        let (mut name, file) = (symbol.name(), symbol.filename());
        // (Of inlined functions the program has not the whole name. There are many of that name.)
        if !name.contains("::")
            && let Some(file) = Path::new(&*file).file_name()
        {
            name = format!("{}:{name}", file.to_string_lossy());
        }
        let (name, file) = (self.strings.number(&name), self.strings.number(&file));
        let id = self.functions.len() as u64 + 1;
        *self.function_ids.entry((name, file)).or_insert_with(|| {
            let system_name = self.strings.number(&symbol.sys_name());
            self.functions.push(Function { id, name, system_name, file });
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
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_types: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    locations: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    functions: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    locations: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    values: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    labels: Vec<Label>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    /// The innermost first.
    #[prost(message, repeated, tag = "4")]
    lines: Vec<Line>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    file: i64,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::runtime;

    #[inline(never)]
    fn turns_in_circles(until: Instant) -> u64 {
        let mut turns = 0u64;
        while Instant::now() < until {
            turns = std::hint::black_box(turns + 1);
        }
        turns
    }

    #[test]
    fn a_profile_names_who_used_the_time_and_there_is_one_at_a_time() {
        let taken = runtime::block_on(async {
            let sampling = Sampling::start().expect("nobody else takes one");
            let second = Sampling::start().err();
            assert_eq!(second.as_deref(), Some("cpu profiling already in use"));
            turns_in_circles(Instant::now() + Duration::from_millis(500));
            let profile = sampling.finish().await.expect("samples");
            drop(Sampling::start().expect("the first is done"));
            profile
        });
        let profile = Profile::decode(&taken.expect("a runtime")[..]).expect("a profile");
        let text = |number: i64| &profile.strings[number as usize];
        assert_eq!(text(0), "");
        let kinds: Vec<_> =
            profile.sample_types.iter().map(|t| (text(t.kind), text(t.unit))).collect();
        assert_eq!(format!("{kinds:?}"), r#"[("samples", "count"), ("cpu", "nanoseconds")]"#);
        let values = profile.samples.iter().map(|sample| sample.values[1]).sum::<i64>();
        assert!(values >= 100_000_000, "{values} ns seen of half a second");
        let is_here = |line: &Line| {
            let function = profile.functions.iter().find(|f| f.id == line.function);
            let name = text(function.expect("a function that is listed").name);
            // (The loop itself is the innermost, but for the clock that it looks at.)
            name.contains("turns_in_circles") || name.contains("a_profile_names_who")
        };
        let named = profile.samples.iter().filter(|sample| {
            let of = |id: &u64| profile.locations.iter().find(|l| l.id == *id).expect("listed");
            sample.locations.iter().flat_map(|id| &of(id).lines).any(is_here)
        });
        assert!(named.count() > 0, "{profile:?}");
    }
}
