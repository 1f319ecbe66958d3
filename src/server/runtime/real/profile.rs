//! A profile of where this process spends its CPU time, as Go's tools read it ([`crate::profile_file`]).
//!
//! While one is taken, and only then, a timer of the system interrupts whichever thread is running, a hundred times per second of CPU
//! time, and its stack is noted by following frame pointers (`.cargo/config.toml` keeps them): no lock is taken there, no memory,
//! and what does not look like a stack is not followed. The innermost function has no frame to be found by: its time counts for the one
//! that called it.

use std::path::Path;
use std::time::SystemTime;

use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Symbol, UnresolvedReport};

use crate::profile_file::{Frame, ProfileFile};

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
    let mut file = ProfileFile::new(&[("samples", "count"), ("cpu", "nanoseconds")]);
    file.timed(began, PERIOD_NANOS);
    for (stack, times) in seen.data {
        let stack = Frames::from(stack);
        let times = i64::try_from(times).unwrap_or(i64::MAX);
        let places: Vec<Vec<Frame>> =
            stack.frames.iter().map(|place| place.iter().map(frame).collect()).collect();
        let values = vec![times, times.saturating_mul(PERIOD_NANOS)];
        file.sample(&places, values, Some(&stack.thread_name_or_id()));
    }
    file.encode()
}

fn frame(symbol: &Symbol) -> Frame {
    let (mut name, file) = (symbol.name(), symbol.filename().into_owned());
    // (Of inlined functions the program has not the whole name. There are many of that name.)
    if !name.contains("::")
        && let Some(file) = Path::new(&file).file_name()
    {
        name = format!("{}:{name}", file.to_string_lossy());
    }
    let system_name = symbol.sys_name().into_owned();
    Frame { name, system_name, file, line: i64::from(symbol.lineno()) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use prost::Message as _;

    use super::*;
    use crate::profile_file::{Line, Profile};
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
