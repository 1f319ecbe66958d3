//! Everything that happens, as a running hash, and as lines if somebody wants to read them.

use crate::rng::mix;

pub struct Trace {
    pub hash: u64,
    pub lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(keeps_lines: bool) -> Trace {
        Trace { hash: 0, lines: keeps_lines.then(Vec::new) }
    }

    pub fn note(&mut self, at: u64, what: &str, a: u64, b: u64, more: impl FnOnce() -> String) {
        let name = what.bytes().fold(0u64, |h, byte| h.wrapping_mul(31) + u64::from(byte));
        for part in [at, name, a, b] {
            self.hash = mix(self.hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ part);
        }
        if let Some(lines) = &mut self.lines {
            let (s, us) = (at / 1_000_000, at % 1_000_000);
            lines.push(format!("{s:3}.{us:06} {what:9} {a:3} {b:6x} {}", more()));
        }
    }
}
