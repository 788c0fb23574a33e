//! What the process counts, in the text format of Prometheus.

use std::time::Instant;

use flotilla_raftstore::Store;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Counters and histograms of the services; those of the store are added when the page is asked for.
pub struct Metrics {
    registry: Registry,
    seconds: HistogramVec,
    region_errors: IntCounterVec,
    /// Frames that found no room in the queue to another store.
    pub frames_dropped: prometheus::IntCounter,
    /// Frames handed to the network.
    pub frames_sent: prometheus::IntCounter,
    /// Raft messages in them, a heartbeat of a region counting as one.
    pub messages_sent: prometheus::IntCounter,
    /// Bytes of them.
    pub frame_bytes_sent: prometheus::IntCounter,
    /// Frames taken from the network.
    pub frames_received: prometheus::IntCounter,
    /// Connections to other stores.
    pub links_up: IntGauge,
    /// Bytes of memory that the process may hold, as far as its limits say.
    pub memory_budget: IntGauge,
    /// Bytes per second that clients may write while `data` is behind; 0 = as fast as they can.
    pub write_rate: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let buckets = prometheus::exponential_buckets(0.000_05, 2.0, 20).expect("legal arguments");
        let seconds = HistogramVec::new(
            HistogramOpts::new("flotilla_rpc_seconds", "Time from a request's arrival to its reply.")
                .buckets(buckets),
            &["rpc"],
        );
        let region_errors = IntCounterVec::new(
            Opts::new("flotilla_region_errors_total", "Requests that a region refused, by reason."),
            &["kind"],
        );
        let counter = |name: &str, help: &str| {
            let counter = prometheus::IntCounter::new(name, help).expect("legal name");
            registry.register(Box::new(counter.clone())).expect("registered once");
            counter
        };
        let seconds = seconds.expect("legal names");
        let region_errors = region_errors.expect("legal names");
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("legal name");
            registry.register(Box::new(gauge.clone())).expect("registered once");
            gauge
        };
        registry.register(Box::new(seconds.clone())).expect("registered once");
        registry.register(Box::new(region_errors.clone())).expect("registered once");
        Self {
            frames_dropped: counter(
                "flotilla_frames_dropped_total",
                "Frames dropped because a queue was full.",
            ),
            frames_sent: counter("flotilla_frames_sent_total", "Frames sent to other stores."),
            messages_sent: counter(
                "flotilla_messages_sent_total",
                "Raft messages sent to other stores, a heartbeat of a region counting as one.",
            ),
            frame_bytes_sent: counter(
                "flotilla_frame_bytes_sent_total",
                "Bytes of frames sent to other stores.",
            ),
            frames_received: counter("flotilla_frames_received_total", "Frames received from other stores."),
            links_up: gauge("flotilla_links_up", "Connections to other stores."),
            memory_budget: gauge(
                "flotilla_memory_budget_bytes",
                "Memory that the process may hold, the sum of its limits.",
            ),
            write_rate: gauge(
                "flotilla_write_rate_limit_bytes",
                "Bytes per second that clients may write while compaction is behind; 0 = no limit.",
            ),
            registry,
            seconds,
            region_errors,
        }
    }

    /// Starts to time a request.
    pub fn start(&self, rpc: &'static str) -> Timed<'_> {
        Timed { metrics: self, rpc, started: Instant::now() }
    }

    /// Counts a refusal.
    pub fn region_error(&self, kind: &str) {
        self.region_errors.with_label_values(&[kind]).inc();
    }

    /// The page.
    pub fn page(&self, store: Option<&Store>) -> String {
        let mut page = Vec::new();
        if TextEncoder::new().encode(&self.registry.gather(), &mut page).is_err() {
            page.clear();
        }
        let mut page = String::from_utf8(page).unwrap_or_default();
        if let Some(store) = store {
            for (name, value) in store.counters().list() {
                page.push_str(&format!(
                    "# TYPE flotilla_{name}_total counter\nflotilla_{name}_total {value}\n"
                ));
            }
            let held = [
                ("entry_cache_bytes", store.cached_bytes()),
                ("request_bytes", store.request_bytes()),
                ("packed_peers", store.packed_peers()),
            ];
            for (name, value) in held {
                page.push_str(&format!("# TYPE flotilla_{name} gauge\nflotilla_{name} {value}\n"));
            }
            page.push_str("# TYPE flotilla_inflight_bytes gauge\n");
            for (to, bytes) in store.inflight_bytes() {
                page.push_str(&format!("flotilla_inflight_bytes{{store=\"{to}\"}} {bytes}\n"));
            }
            for (name, value) in store.engine().metrics() {
                page.push_str(&format!(
                    "# TYPE flotilla_engine_{name} gauge\nflotilla_engine_{name} {value}\n"
                ));
            }
        }
        page
    }
}

/// Counts a request when dropped, so that cancelled ones are seen too.
pub struct Timed<'a> {
    metrics: &'a Metrics,
    rpc: &'static str,
    started: Instant,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics.seconds.with_label_values(&[self.rpc]).observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_counted() {
        let metrics = Metrics::new();
        drop(metrics.start("raw_get"));
        metrics.region_error("not_leader");
        let page = metrics.page(None);
        assert!(page.contains("flotilla_rpc_seconds_count{rpc=\"raw_get\"} 1"), "{page}");
        assert!(page.contains("flotilla_region_errors_total{kind=\"not_leader\"} 1"), "{page}");
    }
}
