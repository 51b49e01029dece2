//! What was measured: printed as a table, written as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::histogram::Histogram;
use crate::process::{Reading, Usage};

/// One number of one case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Metric {
    name: String,
    unit: &'static str,
    value: f64,
}

/// One case of one scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    scenario: &'static str,
    case: String,
    metrics: Vec<Metric>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl Row {
    /// An empty row.
    pub(crate) fn new(scenario: &'static str, case: impl Into<String>) -> Self {
        Self { scenario, case: case.into(), metrics: Vec::new(), notes: Vec::new() }
    }

    /// Adds a number.
    #[must_use]
    pub(crate) fn metric(
        mut self,
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
    ) -> Self {
        self.metrics.push(Metric { name: name.into(), unit, value });
        self
    }

    /// Adds a count.
    #[must_use]
    pub(crate) fn count(self, name: impl Into<String>, value: u64) -> Self {
        self.metric(name, "", as_f64(value))
    }

    /// Adds `count` per second of `seconds`.
    #[must_use]
    pub(crate) fn rate(self, name: impl Into<String>, count: u64, seconds: f64) -> Self {
        self.metric(name, "/s", as_f64(count) / seconds.max(1e-6))
    }

    /// Adds the median and the 99th percentile, in milliseconds.
    #[must_use]
    pub(crate) fn latency(mut self, name: &str, histogram: &Histogram) -> Self {
        for (suffix, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            if let Some(value) = histogram.quantile_ms(quantile) {
                let name =
                    if name.is_empty() { suffix.to_owned() } else { format!("{name} {suffix}") };
                self.metrics.push(Metric { name, unit: "ms", value });
            }
        }
        self
    }

    /// Adds the mean, in milliseconds.
    #[must_use]
    pub(crate) fn mean(self, name: &str, histogram: &Histogram) -> Self {
        match histogram.mean_ms() {
            Some(value) => self.metric(format!("{name} mean"), "ms", value),
            None => self,
        }
    }

    /// Adds what was used between two readings: processor time and written bytes per one of `count`, memory at the end.
    #[must_use]
    pub(crate) fn usage(mut self, before: Reading, after: Reading, count: u64, per: &str) -> Self {
        let count = as_f64(count.max(1));
        let cpu_ms = |before: Usage, after: Usage| {
            after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1000.0 / count
        };
        if let (Some(before), Some(after)) = (before.server, after.server) {
            let written = after.written_bytes.saturating_sub(before.written_bytes);
            self = self
                .metric(format!("server cpu per {per}"), "ms", cpu_ms(before, after))
                .metric(format!("written per {per}"), "bytes", as_f64(written) / count)
                .metric("server memory", "MiB", as_f64(after.resident_bytes) / 1024.0 / 1024.0);
        }
        if let (Some(before), Some(after)) = (before.generator, after.generator) {
            self = self.metric(format!("generator cpu per {per}"), "ms", cpu_ms(before, after));
        }
        self
    }

    /// Adds failures: their count always, the first one's text if there is any.
    #[must_use]
    pub(crate) fn failures(self, failed: u64, first: Option<&str>) -> Self {
        let row = self.count("errors", failed);
        match first {
            Some(first) => row.note(format!("first error: {first}")),
            None => row,
        }
    }

    /// Adds a remark.
    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The row as text: a line that names it, a line of numbers, a line for each note.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}: {}\n   ", self.scenario, self.case);
        for metric in &self.metrics {
            // Writing to a string cannot fail.
            write!(text, " {} {}", metric.name, number(metric.value, metric.unit))
                .unwrap_or_default();
            text.push(';');
        }
        let mut text = text.trim_end_matches(';').to_owned();
        for note in &self.notes {
            text.push_str("\n    ");
            text.push_str(note);
        }
        text
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Processor, cores, memory and kernel of the machine that made the load (and, with `--serve`, ran the server).
    pub(crate) machine: String,
    /// The server's address.
    pub(crate) target: String,
    /// The seed that chose rooms and events.
    pub(crate) seed: u64,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// The rows in the order in which they were measured.
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// Adds `row` and prints it at once, so that an interrupted run has shown what it has.
    pub(crate) fn add(&mut self, row: Row) {
        println!("{}", row.text());
        self.rows.push(row);
    }

    /// A Markdown table: a line for each row, its numbers in one cell.
    pub(crate) fn table(&self) -> String {
        let mut table = "| scenario | case | result |\n|---|---|---|\n".to_owned();
        for row in &self.rows {
            let metrics: Vec<String> = row
                .metrics
                .iter()
                .map(|metric| format!("{} {}", metric.name, number(metric.value, metric.unit)))
                .collect();
            writeln!(table, "| {} | {} | {} |", row.scenario, row.case, metrics.join("; "))
                .unwrap_or_default();
        }
        table
    }

    /// Writes the report as JSON.
    pub(crate) fn write_json(&self, path: &Path) -> std::io::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        std::fs::write(path, json)
    }
}

/// A number with its unit, with about three significant digits.
fn number(value: f64, unit: &str) -> String {
    let digits = if value.fract() == 0.0 || value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else if value.abs() >= 1.0 {
        2
    } else {
        3
    };
    let space = if unit.is_empty() || unit.starts_with('/') { "" } else { " " };
    format!("{value:.digits$}{space}{unit}")
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes of a run are far below 2^52")]
pub(crate) fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(5012.4, "/s"), "5012/s");
        assert_eq!(number(12.34, "ms"), "12.3 ms");
        assert_eq!(number(1.234, "ms"), "1.23 ms");
        assert_eq!(number(0.0312, "ms"), "0.031 ms");
        assert_eq!(number(0.0, ""), "0");
    }

    #[test]
    fn usage_is_divided_by_what_was_done() {
        let of = |seconds, resident_bytes, written_bytes| {
            Some(Usage { cpu: Duration::from_secs(seconds), resident_bytes, written_bytes })
        };
        let before = Reading { server: of(1, 0, 1000), generator: of(0, 0, 0) };
        let after = Reading { server: of(3, 1 << 20, 5000), generator: of(1, 0, 0) };
        let row = Row::new("sends", "case").usage(before, after, 1000, "send");
        assert_eq!(
            row.text(),
            "sends: case\n    server cpu per send 2 ms; written per send 4 bytes; server memory 1 MiB; \
             generator cpu per send 1 ms"
        );
    }

    #[test]
    fn usage_of_an_unknown_process_is_left_out() {
        let nothing = Reading::default();
        let row =
            Row::new("sends", "case").rate("sends", 10, 2.0).usage(nothing, nothing, 10, "send");
        assert_eq!(row.text(), "sends: case\n    sends 5/s");
    }

    #[test]
    fn a_row_shows_its_first_error() {
        let row = Row::new("sends", "case").failures(2, Some("503 Service Unavailable"));
        assert_eq!(
            row.text(),
            "sends: case\n    errors 2\n    first error: 503 Service Unavailable"
        );
    }
}
