//! `README.md` of a folder of results: every figure in tables, made from the JSON files beside it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::plot::{distinct, short};
use crate::report::{Figure, Report};

const HEAD: &str = "# Results

Written by `make bench` from the JSON files of this folder; do not edit. Load generators, stores and peers share the
machine's cores. A figure is worth no more than the run that it comes from: machine, commit and command stand above
each table, and differences below a quarter are noise on a shared machine. `make bench BENCH=NAME` repeats one,
`BENCH_FLAGS=--help` lists what can be chosen, `BENCH_FLAGS=--quick` only shows that it works.
";

/// The text for the results in `folder`.
///
/// # Errors
/// A sentence that names the file.
pub fn readme(folder: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".json").map(str::to_string));
    }
    names.sort();
    let mut tables = String::new();
    for name in names {
        let path = folder.join(format!("{name}.json"));
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let report = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        section(&mut tables, &report);
    }
    Ok(format!("{HEAD}{tables}"))
}

fn section(out: &mut String, report: &Report) {
    let origin = &report.origin;
    let machine = &origin.machine;
    let quick = if report.is_quick { " **A quick run: it shows that it works, not how fast.**" } else { "" };
    let _ = writeln!(out, "\n## {}\n{}.{quick}\n", report.name, report.title);
    let _ = writeln!(
        out,
        "`{}`, commit {}, {} × {}, {} GiB, Linux {}. [Plot]({name}.svg), [JSON]({name}.json).",
        origin.command,
        origin.commit,
        machine.cores,
        machine.cpu,
        machine.memory_mib / 1_024,
        machine.kernel,
        name = report.name,
    );
    let settings: Vec<String> = report.settings.iter().map(|(key, value)| format!("{key} {value}")).collect();
    if !settings.is_empty() {
        let _ = writeln!(out, "With {}.", settings.join(", "));
    }
    if !report.notes.is_empty() {
        out.push('\n');
    }
    report.notes.iter().for_each(|note| {
        let _ = writeln!(out, "- {note}");
    });
    for metric in distinct(report.figures.iter().map(|figure| figure.metric.as_str())) {
        let figures: Vec<&Figure> = report.figures.iter().filter(|figure| figure.metric == metric).collect();
        table(out, report, metric, &figures);
    }
}

fn table(out: &mut String, report: &Report, metric: &str, figures: &[&Figure]) {
    let series = distinct(figures.iter().map(|figure| figure.series.as_str()));
    let unit = figures.first().map_or("", |figure| figure.unit.as_str());
    let _ = writeln!(out, "\n| {metric} ({unit}), by {} | {} |", report.axis, series.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(series.len()));
    for place in distinct(figures.iter().map(|figure| figure.at.as_str())) {
        let cell = |name: &&str| {
            let found = figures.iter().find(|figure| figure.series == **name && figure.at == place);
            found.map_or("–".to_string(), |figure| short(figure.value))
        };
        let cells: Vec<String> = series.iter().map(cell).collect();
        let _ = writeln!(out, "| {place} | {} |", cells.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_all_results_stand_in_tables() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut report = Report::new("one", "What it is", "clients", false);
        report.setting("keys", 10);
        report.add("ours", 64, "rate", 12_345.0, "ops/s");
        report.add("theirs", 256, "rate", 2.5, "ops/s");
        report.write(folder.path()).expect("it is written");
        let text = readme(folder.path()).expect("it is made");
        assert!(text.contains("| rate (ops/s), by clients | ours | theirs |\n|---|---:|---:|\n"), "{text}");
        assert!(text.contains("| 64 | 12.3k | – |\n| 256 | – | 2.5 |"), "{text}");
        assert!(text.contains("With keys 10."), "{text}");
        fs::write(folder.path().join("two.json"), "{}").expect("a file");
        assert!(readme(folder.path()).is_err_and(|why| why.contains("two.json")), "no result of ours");
    }
}
