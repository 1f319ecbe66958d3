//! Reports: a page in Markdown, and the pictures it shows.

use std::path::Path;

use crate::compare::{Figures, budget};
use crate::growth::Growth;
use crate::table::Table;
use crate::{chart, machine};

pub struct Pages {
    file: &'static str,
    pub text: String,
    /// Name and SVG.
    pictures: Vec<(String, String)>,
}

impl Pages {
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(self.file), &self.text)?;
        for (name, svg) in &self.pictures {
            std::fs::write(folder.join(name), svg)?;
        }
        Ok(())
    }
}

/// Paths say nothing to a reader, and they are somebody's own.
fn command(words: &[String]) -> String {
    let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let shown = words.iter().map(|word| match word.split_once('=') {
        Some((flag, value)) => {
            format!("{flag}={}", value.split(',').map(name).collect::<Vec<_>>().join(","))
        }
        None => word.split(',').map(name).collect::<Vec<_>>().join(","),
    });
    format!("nornbench {}", shown.collect::<Vec<_>>().join(" "))
}

fn made_by(words: &[String]) -> String {
    let commit = machine::commit().map_or_else(String::new, |commit| format!(", commit {commit}"));
    format!("`{}`{commit}, on {}.\n", command(words), machine::description())
}

pub fn comparison(figures: &Figures, words: &[String]) -> Pages {
    let last = figures.costs.servers.len() - 1;
    let (first, norn) = (&figures.costs.servers[0], &figures.costs.servers[last]);
    let ratios: Vec<(String, f64)> = figures
        .costs
        .rows
        .iter()
        .filter_map(|row| Some((row.name.clone(), row.ratio(0)?)))
        .collect();
    let title = format!("How many times as much {first} takes as {norn}");
    let text = format!(
        "# Norn beside etcd\n\n\
         Made by {}\n\
         Each server had its turn on the same machine in the same minutes, with real fsync, over loopback. CPU is user and system time of \
         the server's process per operation; keys of 16 bytes, values of 256, 100 clients on 10 connections unless a row says otherwise \
         (lists and watches: 10). Means of the rounds, ± half their spread. `must` and `goal` are the project's budgets on the machine they \
         were written on, and in brackets the ratio to etcd 3.7.1 that they were there: on another machine that is what to compare.\n\n\
         ![{title}](ratios.svg)\n\n{}\n## Pace\n\nClosed loops; the loader takes its share of the machine. (Of a rate, less than 1 means that Norn is faster.)\n\n{}",
        made_by(words),
        figures.costs.markdown(budget),
        figures.paces.markdown(|_| None),
    );
    let pictures = vec![("ratios.svg".to_owned(), chart::bars(&title, &ratios))];
    Pages { file: "REPORT.md", text, pictures }
}

pub fn growth(all: &[Growth], words: &[String]) -> Pages {
    let mut text = format!("# How costs grow\n\nMade by {}", made_by(words));
    let mut pictures = Vec::new();
    for growth in all {
        let file = format!("{}.svg", growth.file);
        text += &format!(
            "\n## {}\n\n![{}]({file})\n\n| {} |",
            growth.title, growth.title, growth.x_name
        );
        let servers = growth.curves.len();
        growth.curves.iter().for_each(|curve| text += &format!(" {} |", curve.name));
        text += &format!("\n|---|{}\n", "---|".repeat(servers));
        let points = growth.curves.iter().map(|curve| curve.points.len()).max().unwrap_or(0);
        for n in 0..points {
            let x = growth.curves.iter().find_map(|curve| curve.points.get(n)).map_or(0.0, |p| p.0);
            text += &format!("| {x:.0} |");
            for curve in &growth.curves {
                let y = curve.points.get(n).map_or(f64::NAN, |p| p.1);
                text += &format!(" {y:.2} {} |", growth.unit);
            }
            text.push('\n');
        }
        let picture = chart::curves(growth.title, growth.x_name, growth.unit, &growth.curves);
        pictures.push((file, picture));
    }
    Pages { file: "GROWTH.md", text, pictures }
}

pub fn strain(table: &Table, words: &[String]) -> Pages {
    let text = format!(
        "# Under strain\n\n\
         Made by {}\n\
         Each server is measured by what it can itself: puts of 100 clients as fast as answers come, then half of that rate, at which a wait \
         counts from when its put was due and 1000 may wait at once; while everything past is compacted every two seconds; while a learner joins, which gets a \
         snapshot of a store that is written to. At the end 5000 clients on 100 connections ask for twice of what it can. All members and \
         the loader share the machine; how long it holds threads up that ask it for nothing (over 1 ms each time) stands first, for no \
         server waits less.\n\n{}",
        made_by(words),
        table.markdown(|_| None),
    );
    Pages { file: "STRAIN.md", text, pictures: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_without_the_paths_of_its_machine() {
        let words = ["compare", "--etcd", "/a/etcd,/b/old/etcd", "--norn=/c/nornd", "--rounds=2"];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let shown = "nornbench compare --etcd etcd,etcd --norn=nornd --rounds=2";
        assert_eq!(command(&words), shown);
    }
}
