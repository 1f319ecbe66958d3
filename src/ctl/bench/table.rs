//! Figures of several servers, side by side: one row per question, one value per server and round.

use std::fmt::Write as _;

pub struct Row {
    pub name: String,
    pub unit: &'static str,
    /// One list per server.
    pub values: Vec<Vec<f64>>,
}

pub struct Table {
    pub servers: Vec<String>,
    pub rows: Vec<Row>,
}

/// What the project's design asks for, on the machine it was written on: there etcd 3.7.1 cost `etcd`.
pub struct Budget {
    pub etcd: f64,
    pub must: f64,
    pub goal: f64,
}

impl Table {
    pub fn new(servers: Vec<String>) -> Table {
        Table { servers, rows: Vec::new() }
    }

    pub fn add(&mut self, server: usize, name: &str, unit: &'static str, value: f64) {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let values = vec![Vec::new(); self.servers.len()];
            self.rows.push(Row { name: name.to_owned(), unit, values });
            self.rows.len() - 1
        });
        self.rows[at].values[server].push(value);
    }

    /// The last server is the one that the others are measured by.
    pub fn markdown(&self, budget: impl Fn(&str) -> Option<Budget>) -> String {
        let others = self.servers.len() - 1;
        let mut out = String::from("| | unit |");
        self.servers.iter().for_each(|server| _ = write!(out, " {server} |"));
        self.servers[..others]
            .iter()
            .for_each(|server| _ = write!(out, " {server} / {} |", self.servers[others]));
        out += " must | goal |\n|---|---|";
        out += &"---|".repeat(self.servers.len() + others + 2);
        out.push('\n');
        for row in &self.rows {
            let _ = write!(out, "| {} | {} |", row.name, row.unit);
            row.values.iter().for_each(|values| _ = write!(out, " {} |", cell(values)));
            for server in 0..others {
                let _ = match row.ratio(server) {
                    Some(ratio) => write!(out, " {ratio:.1} |"),
                    None => write!(out, " - |"),
                };
            }
            let _ = match budget(&row.name) {
                Some(b) => {
                    let (must, goal) = (b.etcd / b.must, b.etcd / b.goal);
                    writeln!(out, " {} ({must:.1}) | {} ({goal:.1}) |", b.must, b.goal)
                }
                None => writeln!(out, " | |"),
            };
        }
        out
    }
}

impl Row {
    /// How many times as much a server takes as the last one does.
    pub fn ratio(&self, server: usize) -> Option<f64> {
        let last = self.values.last().filter(|values| !values.is_empty())?;
        let values = self.values.get(server).filter(|values| !values.is_empty())?;
        Some(mean(values) / mean(last)).filter(|ratio| ratio.is_finite())
    }
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The mean, and half the spread when there is more than one value.
fn cell(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::MAX, 0f64), |(l, h), &v| (l.min(v), h.max(v)));
    let digits = if mean(values) < 10.0 { 2 } else { 0 };
    match values.len() {
        0 => "-".into(),
        1 => format!("{:.digits$}", values[0]),
        _ => format!("{:.digits$} ±{:.digits$}", mean(values), (high - low) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_means_spread_ratios_and_its_budget() {
        let mut table = Table::new(vec!["etcd".to_owned(), "norn".to_owned()]);
        table.add(0, "put", "us", 48.0);
        table.add(1, "put", "us", 3.0);
        table.add(1, "put", "us", 5.0);
        table.add(1, "only ours", "s", 20.0);
        let budget =
            |name: &str| (name == "put").then_some(Budget { etcd: 48.0, must: 10.0, goal: 3.0 });
        assert_eq!(
            table.markdown(budget),
            "| | unit | etcd | norn | etcd / norn | must | goal |\n\
             |---|---|---|---|---|---|---|\n\
             | put | us | 48 | 4.00 ±1.00 | 12.0 | 10 (4.8) | 3 (16.0) |\n\
             | only ours | s | - | 20 | - | | |\n"
        );
    }
}
