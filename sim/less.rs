//! What a run leaves out of what its seed draws. The draws stay the same, so that what is left does what it did.

use std::fmt;

use crate::options::Options;

/// Nothing is left out by default. Lists name what is kept, by its number in the order of drawing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Less {
    pub nodes: Option<usize>,
    pub keys: Option<u64>,
    /// After so many operations in all, clients stop asking.
    pub ops: Option<usize>,
    /// Of these, the ones that are asked; instead of the others clients wait a while.
    pub asks: Option<Vec<usize>>,
    /// The end of the faults and of the clients.
    pub safety_us: Option<u64>,
    pub faults: Option<Vec<usize>>,
    pub clients: Option<Vec<usize>>,
    pub watchers: Option<Vec<usize>>,
    /// Rates that are zero: names in [`RATES`].
    pub off: Vec<&'static str>,
}

type Off = fn(&mut Options);

/// What goes wrong not at a moment, but now and then.
pub const RATES: [(&str, Off); 15] = [
    ("loss", |o| o.loss_permille = 0),
    ("duplicates", |o| o.duplicate_permille = 0),
    ("tails", |o| o.tail_permille = 0),
    ("slow-disks", |o| o.slow_disk_permille = 0),
    ("drift", |o| o.drift_ppm = 0),
    ("slow-watchers", |o| o.slow_watcher_permille = 0),
    ("padding", |o| o.value_bytes = 1),
    ("operator", |o| o.member_every_us = 0),
    ("quota", |o| o.quota_bytes = 0),
    ("mixed-flags", |o| o.hardships.has_mixed_flags = false),
    ("late-replies", |o| o.late_reply_permille = 0),
    ("lost-answers", |o| o.lost_answer_permille = 0),
    ("mixture", |o| o.is_mixed = false),
    ("damaged-messages", |o| o.garble_permille = 0),
    ("snapshot-crashes", |o| o.snapshot_crash_permille = 0),
];

/// Longer lists than any seed draws are no lists of ours.
const LIST_MAX: usize = 10_000;

fn keeps(list: Option<&Vec<usize>>, at: usize) -> bool {
    list.is_none_or(|list| list.contains(&at))
}

impl Less {
    pub fn apply(&self, options: &mut Options) {
        options.nodes = self.nodes.unwrap_or(options.nodes).clamp(1, options.nodes);
        options.keys = self.keys.unwrap_or(options.keys).clamp(1, options.keys);
        let safety_us = self.safety_us.unwrap_or(options.safety_us);
        options.safety_us = safety_us.clamp(1, options.safety_us);
        for (name, off) in RATES {
            if self.off.contains(&name) {
                off(options);
            }
        }
        options.less = self.clone();
    }

    pub fn keeps_client(&self, client: usize) -> bool {
        keeps(self.clients.as_ref(), client)
    }

    pub fn keeps_watcher(&self, watcher: usize) -> bool {
        keeps(self.watchers.as_ref(), watcher)
    }

    /// Whether clients have drawn enough operations.
    pub fn is_enough(&self, drawn: usize) -> bool {
        self.ops.is_some_and(|most| drawn >= most)
    }

    pub fn keeps_ask(&self, ask: usize) -> bool {
        keeps(self.asks.as_ref(), ask)
    }

    /// Of the drawn faults, those that are kept and find their member in time.
    pub fn kept<F>(
        options: &Options,
        drawn: Vec<(u64, F)>,
        node: impl Fn(&F) -> Option<usize>,
    ) -> Vec<(u64, F)> {
        let kept = drawn.into_iter().enumerate().filter(|(at, (us, fault))| {
            keeps(options.less.faults.as_ref(), *at)
                && *us < options.safety_us
                && node(fault).is_none_or(|node| node < options.nodes)
        });
        kept.map(|(_, fault)| fault).collect()
    }

    /// # Errors
    /// The word that it does not know.
    pub fn parse(text: &str) -> Result<Less, String> {
        let mut less = Less::default();
        for part in text.split(':').filter(|part| !part.is_empty()) {
            let wrong = || format!("{part}: not what a run can leave out");
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let number = || value.parse::<u64>().map_err(|_| wrong());
            let list = || {
                let numbers = value.split(',').filter(|number| !number.is_empty());
                let list: Result<Vec<usize>, _> =
                    numbers.take(LIST_MAX).map(str::parse::<usize>).collect();
                list.map_err(|_| wrong())
            };
            match name {
                "nodes" => less.nodes = Some(number()? as usize),
                "keys" => less.keys = Some(number()?),
                "ops" => less.ops = Some(number()? as usize),
                "us" => less.safety_us = Some(number()?),
                "asks" => less.asks = Some(list()?),
                "faults" => less.faults = Some(list()?),
                "clients" => less.clients = Some(list()?),
                "watchers" => less.watchers = Some(list()?),
                "off" => {
                    for word in value.split(',') {
                        let known = RATES.iter().find(|(name, _)| *name == word);
                        less.off.push(known.ok_or_else(wrong)?.0);
                    }
                }
                _ => return Err(wrong()),
            }
        }
        Ok(less)
    }
}

impl fmt::Display for Less {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let numbers = [
            ("nodes", self.nodes.map(|n| n as u64)),
            ("keys", self.keys),
            ("ops", self.ops.map(|n| n as u64)),
            ("us", self.safety_us),
        ];
        parts.extend(numbers.iter().filter_map(|(name, n)| Some(format!("{name}={}", (*n)?))));
        let lists = [
            ("asks", &self.asks),
            ("faults", &self.faults),
            ("clients", &self.clients),
            ("watchers", &self.watchers),
        ];
        for (name, list) in lists {
            if let Some(list) = list {
                let list: Vec<String> = list.iter().map(usize::to_string).collect();
                parts.push(format!("{name}={}", list.join(",")));
            }
        }
        if !self.off.is_empty() {
            parts.push(format!("off={}", self.off.join(",")));
        }
        f.write_str(&parts.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Profile;

    #[test]
    fn text_and_back() {
        let text = "nodes=3:keys=1:ops=40:us=2000000:asks=2,3:faults=0,4,7:clients=1:watchers=:off=loss,tails";
        assert_eq!(Less::parse(text).unwrap().to_string(), text);
        assert_eq!(Less::parse("").unwrap(), Less::default());
        for wrong in ["nodes", "nodes=x", "moons=3", "off=light", "faults=1,-1"] {
            assert!(Less::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_grows() {
        let drawn = Options::draw(3, Profile::Storm, None);
        let mut options = drawn.clone();
        Less::parse("nodes=100:keys=0:us=0:off=drift").unwrap().apply(&mut options);
        assert_eq!((options.nodes, options.keys, options.safety_us), (drawn.nodes, 1, 1));
        assert_eq!(options.drift_ppm, 0);
    }
}
