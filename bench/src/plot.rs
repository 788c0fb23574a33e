//! Plots as SVG, written by hand: a panel of bars for each metric, and one of curves for the latencies. A plotting
//! crate would bring fonts and a drawing back end for the sake of rectangles and text.

use std::fmt::Write;

use crate::report::{Figure, LatencyHistogram, Report};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 24.0;
const PLOT_HEIGHT: f64 = 180.0;
/// Above a panel's plot: its name and the legend.
const HEAD: f64 = 46.0;
/// Below it: the places.
const FOOT: f64 = 46.0;
const TITLE: f64 = 40.0;
/// A metric whose values span more than this is drawn on a logarithmic axis.
const LINEAR_SPAN_MAX: f64 = 60.0;
/// Okabe and Ito, "Color universal design" (2008): told apart by everybody.
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#000000"];

/// The plot of a result.
pub fn svg(report: &Report) -> String {
    let series = distinct(report.figures.iter().map(|figure| figure.series.as_str()));
    let metrics = distinct(report.figures.iter().map(|figure| figure.metric.as_str()));
    let panels = metrics.len() + usize::from(!report.histograms.is_empty());
    let height = TITLE + panels as f64 * (HEAD + PLOT_HEIGHT + FOOT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let quick = if report.is_quick { " (quick run)" } else { "" };
    text(&mut out, (LEFT, 24.0), "start", 15, &format!("{}: {}{quick}", report.name, report.title));
    let mut top = TITLE;
    for metric in metrics {
        let figures: Vec<&Figure> = report.figures.iter().filter(|f| f.metric == metric).collect();
        bars(&mut out, top, &report.axis, metric, &figures, &series);
        top += HEAD + PLOT_HEIGHT + FOOT;
    }
    if !report.histograms.is_empty() {
        curves(&mut out, top, &report.histograms);
    }
    out.push_str("</svg>\n");
    out
}

/// Each value once, in the order of appearance.
pub(crate) fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// Where a value stands between bottom (0) and top (1).
struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Scale {
    fn of(values: &[f64]) -> Scale {
        let positive = || values.iter().copied().filter(|value| *value > 0.0);
        let (low, high) = (positive().fold(f64::MAX, f64::min), positive().fold(0.0, f64::max));
        if high == 0.0 {
            return Scale { low: 0.0, high: 1.0, is_log: false };
        }
        let is_log = high / low > LINEAR_SPAN_MAX;
        if is_log {
            return Scale {
                low: 10_f64.powf(low.log10().floor()),
                high: 10_f64.powf(high.log10().ceil()),
                is_log,
            };
        }
        let step = 10_f64.powf(high.log10().floor()) / 2.0;
        Scale { low: 0.0, high: (high / step).ceil() * step, is_log }
    }

    fn share(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.low).log10() - self.low.log10())
                / (self.high.log10() - self.low.log10()).max(1e-9)
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            return (0..=4).map(|n| self.low + (self.high - self.low) * f64::from(n) / 4.0).collect();
        }
        let (from, to) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
        (from..=to).map(|power| 10_f64.powi(power)).collect()
    }
}

fn bars(out: &mut String, top: f64, axis: &str, metric: &str, figures: &[&Figure], series: &[&str]) {
    let places = distinct(figures.iter().map(|figure| figure.at.as_str()));
    let shown: Vec<&str> =
        series.iter().copied().filter(|name| figures.iter().any(|f| f.series == *name)).collect();
    let unit = figures.first().map_or("", |figure| figure.unit.as_str());
    let scale = Scale::of(&figures.iter().map(|figure| figure.value).collect::<Vec<_>>());
    frame(out, top, &format!("{metric} ({unit})"), &scale);
    legend(out, top, &shown, series);
    let bottom = top + HEAD + PLOT_HEIGHT;
    let slot = (WIDTH - LEFT - RIGHT) / places.len().max(1) as f64;
    let bar = (slot * 0.8 / shown.len().max(1) as f64).min(60.0);
    for (number, place) in places.iter().enumerate() {
        let middle = LEFT + slot * (number as f64 + 0.5);
        text(out, (middle, bottom + 16.0), "middle", 11, place);
        let first = middle - bar * shown.len() as f64 / 2.0;
        for (at, name) in shown.iter().enumerate() {
            let Some(figure) = figures.iter().find(|f| f.series == *name && f.at == *place) else { continue };
            let height = (PLOT_HEIGHT * scale.share(figure.value)).max(1.0);
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\"><title>{}</title></rect>",
                first + bar * at as f64,
                bottom - height,
                bar * 0.92,
                colour(series, name),
                escape(&format!("{name}, {place}: {} {}", figure.value, figure.unit)),
            );
            if bar >= 22.0 {
                let above = (first + bar * (at as f64 + 0.46), bottom - height - 3.0);
                text(out, above, "middle", 9, &short(figure.value));
            }
        }
    }
    text(out, (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, bottom + 32.0), "middle", 11, axis);
}

/// Share of the operations by latency, one curve for each histogram.
fn curves(out: &mut String, top: f64, histograms: &[LatencyHistogram]) {
    let bounds = || histograms.iter().flat_map(|h| &h.steps).map(|step| step.up_to_us as f64 / 1_000.0);
    let low = bounds().fold(f64::MAX, f64::min).log10().floor();
    let high = bounds().fold(0.001, f64::max).log10().ceil().max(low + 1.0);
    let x = |ms: f64| LEFT + (WIDTH - LEFT - RIGHT) * ((ms.log10() - low) / (high - low)).clamp(0.0, 1.0);
    let scale = Scale { low: 0.0, high: 100.0, is_log: false };
    frame(out, top, "operations that took at most so long (%)", &scale);
    let bottom = top + HEAD + PLOT_HEIGHT;
    for power in low as i32..=high as i32 {
        let ms = 10_f64.powi(power);
        text(out, (x(ms), bottom + 16.0), "middle", 11, &short(ms));
    }
    text(out, (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, bottom + 32.0), "middle", 11, "latency (ms)");
    let names: Vec<String> = histograms.iter().map(|h| format!("{} {}", h.at, h.series)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    legend(out, top, &names, &names);
    for (histogram, name) in histograms.iter().zip(&names) {
        let total: u64 = histogram.steps.iter().map(|step| step.count).sum();
        let (mut seen, mut points) = (0, String::new());
        for step in &histogram.steps {
            seen += step.count;
            let y = bottom - PLOT_HEIGHT * seen as f64 / total.max(1) as f64;
            let _ = write!(points, "{:.1},{y:.1} ", x(step.up_to_us as f64 / 1_000.0));
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>",
            points.trim_end(),
            colour(&names, name)
        );
    }
}

fn frame(out: &mut String, top: f64, name: &str, scale: &Scale) {
    text(out, (LEFT, top + 16.0), "start", 13, name);
    let bottom = top + HEAD + PLOT_HEIGHT;
    for tick in scale.ticks() {
        let y = bottom - PLOT_HEIGHT * scale.share(tick);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>",
            WIDTH - RIGHT
        );
        text(out, (LEFT - 6.0, y + 4.0), "end", 11, &short(tick));
    }
}

fn legend(out: &mut String, top: f64, shown: &[&str], all: &[&str]) {
    let mut x = LEFT;
    for name in shown {
        let width = 24.0 + 6.6 * name.chars().count() as f64;
        if x + width > WIDTH {
            // Tooltips name the rest.
            break;
        }
        let colour = colour(all, name);
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            top + 25.0
        );
        text(out, (x + 14.0, top + 34.0), "start", 11, name);
        x += width;
    }
}

fn colour(all: &[&str], name: &str) -> &'static str {
    let at = all.iter().position(|other| *other == name).unwrap_or_default();
    COLOURS[at % COLOURS.len()]
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, words: &str) {
    let words = escape(words);
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{words}</text>"
    );
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number in few characters.
pub(crate) fn short(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 1e6 => format!("{:.2}M", value / 1e6),
        size if size >= 1e4 => format!("{:.1}k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    match text.strip_suffix(['M', 'k']) {
        Some(number) => format!("{}{}", trim(number), &text[number.len()..]),
        None => trim(&text).to_string(),
    }
}

fn trim(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latencies;

    #[test]
    fn every_figure_has_a_bar_and_words_are_escaped() {
        let mut report = Report::new("a", "b < c & d", "clients", true);
        for (series, at, value) in [("x", "1", 10.0), ("y", "1", 20.0), ("x", "64", 9_000.0)] {
            report.add(series, at, "rate", value, "ops/s");
        }
        let mut latencies = Latencies::default();
        latencies.record(std::time::Duration::from_millis(3));
        report.add_histogram("x", "1", &latencies);
        let svg = svg(&report);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert_eq!(svg.matches("<polyline").count(), 1);
        assert!(svg.contains("b &lt; c &amp; d (quick run)") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn wide_spans_are_drawn_on_a_logarithmic_axis() {
        let scale = Scale::of(&[3.0, 5_000.0]);
        assert!(scale.is_log && scale.low == 1.0 && scale.high == 10_000.0);
        assert_eq!(scale.share(100.0), 0.5);
        let scale = Scale::of(&[3.0, 50.0]);
        assert!(!scale.is_log && scale.share(50.0) == 1.0);
        assert_eq!(Scale::of(&[0.0]).share(0.0), 0.0);
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.5, 12.0, 345.0, 6_789.0, 12_345.0, 2_500_000.0].map(short);
        assert_eq!(all, ["0", "0.5", "12", "345", "6789", "12.3k", "2.5M"]);
    }
}
