//! Boxed tables, for the few replies that have one.

use super::{Reply, Unsupported, hash_rows, member_rows, status_rows};
use crate::go;

pub(super) fn render(out: &mut Vec<u8>, reply: &Reply<'_>) -> Result<(), Unsupported> {
    let (head, rows): (&[&str], _) = match reply {
        Reply::MemberList(r) => {
            (&["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], member_rows(r))
        }
        Reply::Health(all) => (
            &["ENDPOINT", "HEALTH", "TOOK", "ERROR"],
            all.iter()
                .map(|h| {
                    vec![
                        h.endpoint.clone(),
                        h.healthy.to_string(),
                        go::duration(h.took),
                        h.error.clone(),
                    ]
                })
                .collect(),
        ),
        Reply::Status(all) => (
            &[
                "ENDPOINT",
                "ID",
                "VERSION",
                "STORAGE VERSION",
                "DB SIZE",
                "IN USE",
                "PERCENTAGE NOT IN USE",
                "QUOTA",
                "IS LEADER",
                "IS LEARNER",
                "RAFT TERM",
                "RAFT INDEX",
                "RAFT APPLIED INDEX",
                "ERRORS",
                "DOWNGRADE TARGET VERSION",
                "DOWNGRADE ENABLED",
            ],
            status_rows(all),
        ),
        Reply::HashKv(all) => (&["ENDPOINT", "HASH", "HASH REVISION"], hash_rows(all)),
        _ => return Err(Unsupported),
    };
    out.extend_from_slice(boxed(head, &rows).as_bytes());
    Ok(())
}

fn boxed(head: &[&str], rows: &[Vec<String>]) -> String {
    let count = |s: &str| s.chars().count();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(i, h)| rows.iter().map(|r| count(&r[i])).chain([count(h)]).max().unwrap_or(0))
        .collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = widths.iter().map(|w| "─".repeat(w + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let row = |cells: Vec<String>| format!("│ {} │\n", cells.join(" │ "));
    let mut out = rule("┌", "┬", "┐");
    out += &row(head.iter().zip(&widths).map(|(h, &w)| format!("{h:^w$}")).collect());
    out += &rule("├", "┼", "┤");
    for cells in rows {
        out += &row(cells.iter().zip(&widths).map(|(c, &w)| format!("{c:>w$}")).collect());
    }
    out + &rule("└", "┴", "┘")
}
