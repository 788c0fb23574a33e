//! Closed loops of writers on the regions.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_bench::process::Usage;
use flotilla_kv::{Command, Put, Reply};
use flotilla_raftstore::RequestError;
use hdrhistogram::Histogram;

use crate::regions::{KEY_BYTES, Place, Regions, start_key};

/// Before a refused write is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
/// Longest time that any write may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the writers do.
pub struct Load {
    pub proposers: usize,
    pub value_bytes: usize,
    pub warmup: Duration,
    pub measured: Duration,
}

/// What a run showed.
#[derive(Debug)]
pub struct Outcome {
    /// Writes a second.
    pub ops_per_s: f64,
    /// Median latency, in microseconds.
    pub p50_us: u64,
    /// Latency that one of a hundred exceeds, in microseconds.
    pub p99_us: u64,
    /// Writes that were refused and tried again.
    pub retries: u64,
    /// CPU microseconds of the whole process per write, the writers' thread included.
    pub cpu_us_per_op: f64,
    /// Syncs of the three logs per write.
    pub syncs_per_op: f64,
    /// Log entries of the three stores per write.
    pub entries_per_op: f64,
    /// Bytes to the disks of the three stores per byte of keys and values.
    pub disk_bytes_per_byte: f64,
}

/// Counters at one moment.
struct Reading {
    at: Instant,
    usage: Usage,
    syncs: u64,
    entries: u64,
}

impl Reading {
    fn take(regions: &Regions) -> Reading {
        let count = |name: &str| -> u64 {
            let of = |list: Vec<(&'static str, u64)>| -> u64 {
                list.into_iter().filter(|(n, _)| *n == name).map(|(_, value)| value).sum()
            };
            regions.stores.values().map(|store| of(store.counters().list())).sum()
        };
        Reading {
            at: Instant::now(),
            usage: Usage::of("self"),
            syncs: count("log_syncs"),
            entries: count("log_entries"),
        }
    }
}

type Answer = (usize, Result<Bytes, RequestError>);

struct Writer {
    number: u64,
    started: Instant,
    region: usize,
}

struct Writers<'a> {
    regions: &'a Regions,
    places: Vec<Place>,
    value: Vec<u8>,
    writers: Vec<Writer>,
    tell: Sender<Answer>,
    told: Receiver<Answer>,
    retries: u64,
}

impl Load {
    /// Runs the writers and waits for the last answer.
    ///
    /// # Errors
    /// A sentence: a write was not answered.
    pub fn run(&self, regions: &Regions) -> Result<Outcome, String> {
        let (tell, told) = channel();
        let now = Instant::now();
        let writer = |number: usize| Writer { number: number as u64, started: now, region: 0 };
        let mut all = Writers {
            regions,
            places: regions.places.clone(),
            value: vec![b'v'; self.value_bytes],
            writers: (0..self.proposers).map(writer).collect(),
            tell,
            told,
            retries: 0,
        };
        (0..self.proposers).for_each(|number| all.begin(number));
        all.turn_until(now + self.warmup, None)?;
        let before = Reading::take(regions);
        all.retries = 0;
        let mut latencies = Histogram::<u64>::new_with_max(PATIENCE.as_micros() as u64, 3)
            .map_err(|error| error.to_string())?;
        all.turn_until(before.at + self.measured, Some(&mut latencies))?;
        let after = Reading::take(regions);
        let retries = all.retries;
        all.drain()?;
        let (ops, seconds) = (latencies.len(), (after.at - before.at).as_secs_f64());
        let per_op = |total: f64| if ops == 0 { 0.0 } else { round3(total / ops as f64) };
        Ok(Outcome {
            ops_per_s: (ops as f64 / seconds).round(),
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            retries,
            cpu_us_per_op: per_op((after.usage.cpu_s - before.usage.cpu_s) * 1e6),
            syncs_per_op: per_op((after.syncs - before.syncs) as f64),
            entries_per_op: per_op((after.entries - before.entries) as f64),
            disk_bytes_per_byte: per_op((after.usage.disk_bytes - before.usage.disk_bytes) as f64)
                / (KEY_BYTES + self.value_bytes) as f64,
        })
    }
}

fn round3(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Writers<'_> {
    /// Begins the next write of a writer: the regions in an order that looks random, keys of which there are many.
    fn begin(&mut self, number: usize) {
        let writer = &mut self.writers[number];
        writer.number =
            writer.number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writer.region = (writer.number >> 33) as usize % self.places.len();
        writer.started = Instant::now();
        self.send(number);
    }

    fn send(&self, number: usize) {
        let writer = &self.writers[number];
        let place = &self.places[writer.region];
        let mut key = start_key(writer.region).to_vec();
        key.extend_from_slice(format!("{:08}", (writer.number >> 20) % 100_000_000).as_bytes());
        let put = Put { key: &key, value: &self.value, ttl_s: 0 };
        let tell = self.tell.clone();
        let done = Box::new(move |result| drop(tell.send((number, result))));
        self.regions.stores[&place.leader].write(place.context(), Command::Put([put].into()).encode(), done);
    }

    fn turn_until(&mut self, end: Instant, mut latencies: Option<&mut Histogram<u64>>) -> Result<(), String> {
        while Instant::now() < end {
            let (number, result) = self.told.recv_timeout(PATIENCE).map_err(|_| "a write is not answered")?;
            match result.map(Reply::decode) {
                Ok(Some(Reply::Done)) => {}
                Ok(other) => return Err(format!("a write was not carried out: {other:?}")),
                Err(_) => {
                    self.retry(number)?;
                    continue;
                }
            }
            if let Some(latencies) = &mut latencies {
                let us = self.writers[number].started.elapsed().as_micros() as u64;
                latencies.saturating_record(us);
            }
            self.begin(number);
        }
        Ok(())
    }

    /// Asks the stores again where the region is.
    fn retry(&mut self, number: usize) -> Result<(), String> {
        self.retries += 1;
        // Routes change in the time of an election; asking faster only costs those who hold it.
        sleep(RETRY_PAUSE);
        let region = self.writers[number].region;
        if let Some(place) = self.regions.find(&start_key(region)) {
            self.places[region] = place;
        }
        if self.writers[number].started.elapsed() > PATIENCE {
            return Err(format!("region {region} takes no writes"));
        }
        self.send(number);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), String> {
        for _ in 0..self.writers.len() {
            let _ = self.told.recv_timeout(PATIENCE).map_err(|_| "a write is not answered")?;
        }
        Ok(())
    }
}
