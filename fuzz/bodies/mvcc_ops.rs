//! The key space beside the naive model of its own tests, under any operations, compactions and restarts.

use crate::choices::Choices;
use model::{Action, Pair};

#[path = "../../src/mvcc/tests/model/mod.rs"]
mod model;

pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut pair = Pair::new();
    let mut steps = 0;
    while !choices.is_done() && steps < 120 {
        steps += 1;
        match action(&mut choices) {
            Some(action) => pair.run(&action),
            None => pair.restart(),
        }
    }
    pair.settle();
    pair.restart();
    pair.run(&Action::Events { a: 0, b: 15, back: 11 });
}

/// `None`: a restart. The bounds are those of the model's own strategy.
fn action(choices: &mut Choices<'_>) -> Option<Action> {
    let kind = choices.byte() % 32;
    let mut below = |n: usize| choices.below(n) as u8;
    Some(match kind {
        0..=13 => Action::Txn((0..=below(3)).map(|_| (below(4), below(14), below(6))).collect()),
        14..=23 => Action::Range {
            a: below(14),
            b: below(16),
            back: below(8),
            limit: below(6),
            order: below(3),
            target: below(5),
            flags: below(8),
            bounds: below(6),
        },
        24..=26 => Action::Compact { back: below(8), steps: below(9) },
        27 | 28 => Action::Events { a: below(14), b: below(16), back: below(12) },
        29 | 30 => Action::Hash { back: below(5) },
        _ => return None,
    })
}
