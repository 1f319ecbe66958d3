//! A smaller list of operations that still differs: pieces are left out, large ones first, as long as the budget of runs
//! lasts (each needs two fresh servers).

use crate::Options;
use crate::ops::Op;
use crate::pair::{self, Difference};

pub async fn shrink(options: &Options, list: Vec<Op>, found: Difference) -> (Vec<Op>, Difference) {
    let (mut best, mut last) = (list, found);
    let mut piece = best.len() / 2;
    let mut runs = 0;
    while piece > 0 {
        let mut at = 0;
        while at < best.len() && runs < options.shrink_runs {
            let mut fewer = best.clone();
            fewer.drain(at..(at + piece).min(best.len()));
            runs += 1;
            // Another difference than the one found is as good.
            match first(options, &fewer).await {
                Some(found) => {
                    fewer.truncate(found.at + 1);
                    (best, last) = (fewer, found);
                }
                None => at += piece,
            }
        }
        piece /= 2;
    }
    // Then pieces of what differs last, as long as it still does.
    'again: while runs < options.shrink_runs {
        let Some(op) = best.last() else { break };
        for smaller in op.smaller() {
            let mut fewer = best.clone();
            fewer.pop();
            fewer.push(smaller);
            runs += 1;
            if let Some(found) = first(options, &fewer).await {
                fewer.truncate(found.at + 1);
                (best, last) = (fewer, found);
                continue 'again;
            }
            if runs >= options.shrink_runs {
                break;
            }
        }
        break;
    }
    (best, last)
}

async fn first(options: &Options, list: &[Op]) -> Option<Difference> {
    pair::run(&options.etcd, &options.norn, list, false).await.into_iter().next()
}
