//! Prometheus' text format: families in the order of their names, labels in the order given, numbers as Go prints them.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::histogram::Histogram;

/// Families by name.
#[derive(Default)]
pub struct Page {
    families: BTreeMap<&'static str, String>,
}

/// Name and value of labels, in alphabetical order of the names.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.counters(name, help).sample(&[], value as f64);
    }

    pub fn gauge(&mut self, name: &'static str, help: &str, value: f64) {
        self.gauges(name, help).sample(&[], value);
    }

    pub fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        self.histograms(name, help).histogram(&[], histogram);
    }

    pub fn counters(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    pub fn gauges(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    pub fn histograms(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "histogram")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        let text = self.families.entry(name).or_default();
        debug_assert!(text.is_empty(), "{name} is there twice");
        let head = text.len();
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { name, bare: text.len() - head, text }
    }

    pub fn finish(self) -> String {
        self.families.into_values().collect()
    }
}

/// One name with its samples. Without any it is not shown.
pub struct Family<'a> {
    name: &'static str,
    text: &'a mut String,
    /// Length of the head.
    bare: usize,
}

impl Family<'_> {
    pub fn sample(&mut self, labels: Labels<'_>, value: f64) -> &mut Self {
        self.line("", labels, None, &number(value));
        self
    }

    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let read = histogram.read();
        let mut below = 0;
        for (bound, count) in histogram.bounds().iter().zip(&read.counts) {
            below += count;
            self.line("_bucket", labels, Some(&number(*bound)), &below.to_string());
        }
        self.line("_bucket", labels, Some("+Inf"), &read.count.to_string());
        self.line("_sum", labels, None, &number(read.sum));
        self.line("_count", labels, None, &read.count.to_string());
        self
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: &str) {
        let text = &mut *self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (name, value) in labels {
            let _ = write!(text, "{before}{name}=\"{}\"", escaped(value));
            before = ',';
        }
        if before == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

impl Drop for Family<'_> {
    fn drop(&mut self) {
        if self.text.len() == self.bare {
            self.text.clear();
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// As Go's `%g` with as many digits as needed: an exponent from a million on, and below a ten-thousandth.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        let sign = if value < 0.0 { "-Inf" } else { "+Inf" };
        return if value.is_nan() { "NaN" } else { sign }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (20_480.0, "20480"),
            (999_999.0, "999999"),
            (1_048_576.0, "1.048576e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (0.0001, "0.0001"),
            (1.068_8e-5, "1.0688e-05"),
            (8.192, "8.192"),
            (-1.0, "-1"),
            (1.844_674_407_370_955_2e19, "1.8446744073709552e+19"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn families_are_in_order_and_empty_ones_are_not_there() {
        let mut page = Page::default();
        page.gauge("b", "Second.", 2.0);
        page.counters("a", "First.").sample(&[("x", "1\"2"), ("y", "z")], 1.0);
        page.counters("c", "Nothing.");
        let text = "# HELP a First.\n# TYPE a counter\na{x=\"1\\\"2\",y=\"z\"} 1\n\
                    # HELP b Second.\n# TYPE b gauge\nb 2\n";
        assert_eq!(page.finish(), text);
    }
}
