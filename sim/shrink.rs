//! Leaves out of a failing run whatever it does not need to break the same promise: first time and operations, because
//! shorter runs are quicker, then faults, rates, clients, watchers, members and keys, and around again while that helps.
//!
//! Lists are cut as in delta debugging: halves, then quarters, down to single ones.

use std::fmt;
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::less::{Less, RATES};
use crate::runner::Ran;

/// How much may be spent.
pub struct Budget {
    runs: usize,
    until: Option<Instant>,
}

impl Budget {
    pub fn new(runs: usize, time: Option<Duration>) -> Budget {
        Budget { runs, until: time.map(|time| Instant::now() + time) }
    }

    fn spend(&mut self) -> bool {
        let is_left = self.runs > 0 && self.until.is_none_or(|until| Instant::now() < until);
        self.runs = self.runs.saturating_sub(1);
        is_left
    }
}

/// What is left of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    pub nodes: usize,
    pub clients: usize,
    pub watchers: usize,
    pub keys: u64,
    /// That were asked.
    pub ops: u64,
    pub faults: usize,
    pub rates: usize,
    pub safety_us: u64,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { nodes, clients, watchers, keys, ops, faults, rates, safety_us } = self;
        let ms = safety_us / 1000;
        write!(
            f,
            "{nodes} members, {clients} clients, {watchers} watchers, {keys} keys, {ops} operations, \
             {faults} faults, {rates} rates, {ms} ms"
        )
    }
}

/// Rounds over everything; what is left out in one may free something for the next.
const ROUNDS: usize = 4;

pub struct Shrinker<R> {
    run: R,
    budget: Budget,
    best: Case,
    ops: u64,
    drawn: u64,
    faults: usize,
    promise: String,
    runs: usize,
    /// Whether every step is told.
    pub tells: bool,
}

/// So few operations are tried in pieces, down to one by one: more than that is left to the limits of time and number.
const ASKS_MAX: u64 = 20_000;

type List = fn(&mut Less) -> &mut Option<Vec<usize>>;

impl<R: Fn(&Case) -> Result<Ran, String>> Shrinker<R> {
    /// # Errors
    /// The case does not break anything, or cannot be run.
    pub fn new(case: &Case, budget: Budget, run: R) -> Result<Shrinker<R>, String> {
        let ran = run(case)?;
        let Some(promise) = ran.promise else {
            return Err(format!("nothing to shrink: {} broke no promise", case.line()));
        };
        let (ops, drawn, faults) = (ran.stats.ops, ran.stats.drawn, ran.stats.faults as usize);
        let best = case.clone();
        Ok(Shrinker { run, budget, best, ops, drawn, faults, promise, runs: 1, tells: false })
    }

    pub fn promise(&self) -> &str {
        &self.promise
    }

    pub fn runs(&self) -> usize {
        self.runs
    }

    pub fn size(&self) -> Size {
        let (options, less) = (self.best.options(), &self.best.less);
        let left = |list: &Option<Vec<usize>>, all: usize| list.as_ref().map_or(all, Vec::len);
        let mut rates = 0;
        for (_, off) in RATES {
            let mut without = options.clone();
            off(&mut without);
            rates += usize::from(format!("{without:?}") != format!("{options:?}"));
        }
        Size {
            nodes: options.nodes,
            clients: left(&less.clients, options.clients),
            watchers: left(&less.watchers, options.watchers),
            keys: options.keys,
            ops: self.ops,
            faults: left(&less.faults, self.faults),
            rates,
            safety_us: options.safety_us,
        }
    }

    /// # Errors
    /// A case could not be run.
    pub fn shrink(&mut self) -> Result<Case, String> {
        for _ in 0..ROUNDS {
            let before = self.best.clone();
            let drawn = self.best.options().drawn();
            self.time()?;
            self.ops()?;
            self.list("faults", |less| &mut less.faults, self.faults)?;
            for (name, _) in RATES {
                if !self.best.less.off.contains(&name) && self.has_rate(name) {
                    self.attempt(name, |less| less.off.push(name))?;
                }
            }
            self.list("clients", |less| &mut less.clients, drawn.clients)?;
            self.list("watchers", |less| &mut less.watchers, drawn.watchers)?;
            self.number(1, self.best.options().keys, "keys", |less, n| less.keys = Some(n))?;
            if self.drawn <= ASKS_MAX {
                self.list("operations", |less| &mut less.asks, self.drawn as usize)?;
            }
            // (Last: with fewer members everything else is another run, and what breaks may be another thing.)
            for nodes in (1..self.best.options().nodes).filter(|nodes| nodes % 2 == 1) {
                if self.attempt("members", |less| less.nodes = Some(nodes))? {
                    break;
                }
            }
            if self.best == before {
                break;
            }
        }
        Ok(self.best.clone())
    }

    /// Whether the rate is one at all.
    fn has_rate(&self, name: &str) -> bool {
        let options = self.best.options();
        let mut without = options.clone();
        if let Some((_, off)) = RATES.iter().find(|(known, _)| *known == name) {
            off(&mut without);
        }
        format!("{without:?}") != format!("{options:?}")
    }

    /// Ends the faults and the clients sooner.
    fn time(&mut self) -> Result<(), String> {
        let most = self.best.options().safety_us / 1000;
        self.number(1, most, "time", |less, ms| less.safety_us = Some(ms * 1000))
    }

    fn ops(&mut self) -> Result<(), String> {
        self.number(0, self.drawn, "operations", |less, ops| less.ops = Some(ops as usize))
    }

    /// The smallest number that still fails, as halving finds it.
    fn number(
        &mut self,
        least: u64,
        most: u64,
        what: &str,
        set: impl Fn(&mut Less, u64),
    ) -> Result<(), String> {
        let (mut low, mut high) = (least, most);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.attempt(what, |less| set(less, middle))? {
                high = middle;
            } else {
                low = middle + 1;
            }
            // The last hundredth is not worth its runs.
            if high - low <= most / 100 {
                break;
            }
        }
        Ok(())
    }

    /// The fewest of a list, as delta debugging finds them.
    fn list(&mut self, what: &str, list: List, all: usize) -> Result<(), String> {
        let now = list(&mut self.best.less.clone()).clone();
        let mut left = now.unwrap_or_else(|| (0..all).collect());
        let mut chunk = left.len();
        while chunk > 0 {
            let mut at = 0;
            while at < left.len() {
                let end = (at + chunk).min(left.len());
                let without = [&left[..at], &left[end..]].concat();
                if self.attempt(what, |less| *list(less) = Some(without.clone()))? {
                    left = without;
                } else {
                    at = end;
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
        Ok(())
    }

    /// Whether it fails the same way with this left out too; then that is the new best.
    fn attempt(&mut self, what: &str, change: impl FnOnce(&mut Less)) -> Result<bool, String> {
        let mut case = self.best.clone();
        change(&mut case.less);
        if case == self.best || !self.budget.spend() {
            return Ok(false);
        }
        self.runs += 1;
        let ran = (self.run)(&case)?;
        let is_same = ran.promise.as_ref() == Some(&self.promise);
        if is_same {
            (self.ops, self.drawn) = (ran.stats.ops, ran.stats.drawn);
            self.best = case;
            if self.tells {
                println!("run {:3}, {what}: {}", self.runs, self.size());
            }
        }
        Ok(is_same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Exit, Stats};
    use crate::tally::Tally;

    /// Breaks if faults 3 and 17 are there, and client 1, and ten operations.
    fn run(case: &Case) -> Result<Ran, String> {
        let has = |list: &Option<Vec<usize>>, at| list.as_ref().is_none_or(|l| l.contains(&at));
        let less = &case.less;
        let ops = less.ops.unwrap_or(500);
        let breaks = has(&less.faults, 3)
            && has(&less.faults, 17)
            && has(&less.clients, 1)
            && ops >= 10
            && case.options().nodes > 0;
        Ok(Ran {
            exit: if breaks { Exit::Safety } else { Exit::Pass },
            stats: Stats { ops: ops as u64, drawn: ops as u64, faults: 40, ..Stats::default() },
            tally: Tally::default(),
            promise: breaks.then(|| "Water flows down.".to_owned()),
            text: String::new(),
        })
    }

    fn case() -> Case {
        Case { seed: 3, ..Case::default() }
    }

    #[test]
    fn what_is_needed_stays_and_the_rest_goes() {
        let mut shrinker = Shrinker::new(&case(), Budget::new(1000, None), run).unwrap();
        let less = shrinker.shrink().unwrap().less;
        assert_eq!(less.faults, Some(vec![3, 17]));
        assert_eq!(less.clients, Some(vec![1]));
        assert_eq!((less.ops, less.keys), (Some(10), Some(1)));
        let size = shrinker.size();
        assert_eq!((size.faults, size.clients, size.nodes, size.watchers), (2, 1, 1, 0));
    }

    #[test]
    fn the_budget_is_kept() {
        let mut shrinker = Shrinker::new(&case(), Budget::new(7, None), run).unwrap();
        let small = shrinker.shrink().unwrap();
        assert_eq!(shrinker.runs(), 8);
        assert!(run(&small).unwrap().promise.is_some());
        let whole = Case { less: Less { ops: Some(1), ..Less::default() }, ..case() };
        assert!(Shrinker::new(&whole, Budget::new(7, None), run).is_err());
    }
}
