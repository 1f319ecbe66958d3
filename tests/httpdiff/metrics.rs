//! The names of metrics, each with the names of its labels.

use std::collections::BTreeSet;

use norn_tests::http::get;

/// What Norn has not, and why. (A name that ends in `*` is a prefix.)
const LEFT_OUT: &[(&str, &str)] = &[
    ("go_*", "there is no Go runtime to measure"),
    ("promhttp_*", "the page is made in one piece; nobody else asks for it meanwhile"),
    ("etcd_debugging_store_reads_*", "of the store of version 2, which Norn never had"),
    ("etcd_debugging_store_writes_*", "the same"),
    ("process_network_*", "of the machine, not of the process; node_exporter has them"),
];

/// What etcd shows and Norn does not, but should.
pub fn lacking(etcd: &str, norn: &str) -> Vec<String> {
    let (etcd, norn) = (names(etcd), names(norn));
    let is_left_out = |name: &str| {
        LEFT_OUT.iter().any(|(left, _)| match left.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *left,
        })
    };
    etcd.difference(&norn).filter(|name| !is_left_out(name)).cloned().collect()
}

fn names(address: &str) -> BTreeSet<String> {
    let page = get(address, "/metrics").text();
    page.lines().filter(|line| !line.starts_with('#')).filter_map(name).collect()
}

/// `a{b="c",d="e"} 1` as `a{b,d}`. Labels hold no quotes.
fn name(line: &str) -> Option<String> {
    let Some((name, rest)) = line.split_once('{') else {
        return line.split(' ').next().filter(|name| !name.is_empty()).map(str::to_owned);
    };
    let (labels, _) = rest.rsplit_once('}')?;
    // (Every other piece between quotes is a label's name with its comma and equals sign.)
    let labels = labels.split('"').step_by(2).map(|label| label.trim_matches([',', '=']));
    let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
    Some(format!("{name}{{{}}}", labels.join(",")))
}
