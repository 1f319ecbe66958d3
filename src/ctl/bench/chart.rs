//! Pictures for reports: bars and curves, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const COLORS: [&str; 4] = ["#1f5fa8", "#c2571a", "#2b7a4b", "#7a3b8f"];

fn open(out: &mut String, height: f64) {
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

/// One bar per row, from zero; the line is at 1.
pub fn bars(title: &str, rows: &[(String, f64)]) -> String {
    const ROW: f64 = 24.0;
    const LEFT: f64 = 390.0;
    let height = 50.0 + ROW * rows.len() as f64;
    let most = rows.iter().fold(1.0, |most: f64, (_, value)| most.max(*value));
    // (A row that is far ahead would leave nothing of the others.)
    let most = most.min(20.0);
    let scale = (WIDTH - LEFT - 70.0) / most;
    let mut out = String::new();
    open(&mut out, height);
    text(&mut out, 12.0, 22.0, "start", title);
    for (n, (name, value)) in rows.iter().enumerate() {
        let y = 38.0 + ROW * n as f64;
        text(&mut out, LEFT - 8.0, y + 14.0, "end", name);
        let width = value.min(most) * scale;
        let color = COLORS[0];
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"17\" fill=\"{color}\"/>"
        );
        text(&mut out, LEFT + width + 6.0, y + 14.0, "start", &format!("{value:.1}"));
    }
    let (one, bottom) = (LEFT + scale, height - 8.0);
    let _ = writeln!(
        out,
        "<line x1=\"{one:.1}\" y1=\"32\" x2=\"{one:.1}\" y2=\"{bottom}\" stroke=\"#444\" stroke-dasharray=\"3 3\"/>\n</svg>"
    );
    out
}

pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Curves over powers of ten: what grows with the logarithm is a straight line.
pub fn curves(title: &str, x_name: &str, unit: &str, curves: &[Curve]) -> String {
    const HEIGHT: f64 = 330.0;
    const LEFT: f64 = 70.0;
    const TOP: f64 = 50.0;
    const BOTTOM: f64 = 280.0;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let x_min = points().fold(f64::MAX, |least, p| least.min(p.0)).max(1.0);
    let x_max = points().fold(x_min * 10.0, |most, p| most.max(p.0));
    let y_max = points().fold(f64::MIN_POSITIVE, |most, p| most.max(p.1)) * 1.1;
    let right = WIDTH - 200.0;
    let x =
        |value: f64| LEFT + (value.max(1.0) / x_min).ln() / (x_max / x_min).ln() * (right - LEFT);
    let y = |value: f64| BOTTOM - value / y_max * (BOTTOM - TOP);
    let mut out = String::new();
    open(&mut out, HEIGHT);
    text(&mut out, 12.0, 22.0, "start", title);
    let _ =
        writeln!(out, "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{right}\" fill=\"none\" stroke=\"#444\"/>");
    for step in 0..=4 {
        let value = y_max * f64::from(step) / 4.0;
        let digits = if y_max < 10.0 { 1 } else { 0 };
        text(&mut out, LEFT - 6.0, y(value) + 4.0, "end", &format!("{value:.digits$}"));
    }
    text(&mut out, LEFT, TOP - 8.0, "end", unit);
    let mut ticks: Vec<f64> = points().map(|p| p.0).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        text(&mut out, x(tick), BOTTOM + 18.0, "middle", &format!("{tick:.0}"));
    }
    text(&mut out, right, BOTTOM + 38.0, "end", x_name);
    for (n, curve) in curves.iter().enumerate() {
        let color = COLORS[n % COLORS.len()];
        let line: Vec<String> =
            curve.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for p in &curve.points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>",
                x(p.0),
                y(p.1)
            );
        }
        let at = TOP + 20.0 * n as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{color}\"/>",
            right + 20.0,
            at
        );
        text(&mut out, right + 38.0, at + 11.0, "start", &curve.name);
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value_up_to_the_edge() {
        let rows = [("put & get".to_owned(), 5.0), ("list".to_owned(), 10.0)];
        let picture = bars("ratios", &rows);
        let widths: Vec<f64> = picture
            .split("width=\"")
            .skip(2)
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 2);
        assert_eq!(widths[1], 2.0 * widths[0]);
        assert!(picture.contains("put &amp; get"));
    }

    #[test]
    fn every_power_of_ten_is_one_step_to_the_right() {
        let points = vec![(1.0, 1.0), (10.0, 2.0), (100.0, 3.0)];
        let picture = curves("growth", "keys", "us", &[Curve { name: "put".to_owned(), points }]);
        let line = picture.split("points=\"").nth(1).and_then(|rest| rest.split('"').next());
        let xs: Vec<f64> = line
            .expect("a curve")
            .split(' ')
            .filter_map(|point| point.split(',').next()?.parse().ok())
            .collect();
        assert_eq!(xs, [70.0, 365.0, 660.0]);
    }
}
