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
            match pair::run(&options.etcd, &options.norn, &fewer).await {
                Some(found) => {
                    fewer.truncate(found.at + 1);
                    (best, last) = (fewer, found);
                }
                None => at += piece,
            }
        }
        piece /= 2;
    }
    (best, last)
}
