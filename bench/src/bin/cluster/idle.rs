//! What regions cost while nothing is asked of them, and that each still answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::client::{Cluster, Request};
use crate::common::{Common, still};
use crate::stores::{self, STORES};

/// CPU, messages, bytes and memory of idle regions on three stores.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Numbers of regions, ascending [default: 1000,10000; quick 200]. 100000 takes a while
    #[arg(long, value_delimiter = ',')]
    regions: Vec<usize>,
    /// Measured seconds for each number [default: 30, quick 5]
    #[arg(long)]
    seconds: Option<u64>,
    /// Seconds of silence before, for every 10,000 regions: new ones are compared once, so many in a minute [default:
    /// 120, quick 3]
    #[arg(long)]
    settle_seconds: Option<u64>,
}

/// Longest key that clients may use.
const KEY_BYTES_MAX: usize = 8_192;
/// Puts under way while every region is asked for one.
const WRITERS: usize = 64;

/// Runs it.
///
/// # Errors
/// A sentence.
pub async fn run(args: &Args) -> Result<(), String> {
    let common = &args.common;
    let counts = common.options.pick_list(&args.regions, &[1_000, 10_000], &[200]);
    let seconds = args.seconds.unwrap_or(common.options.pick(30, 5));
    let settle = args.settle_seconds.unwrap_or(common.options.pick(120, 3));
    let mut report = common.report("idle", "Regions at rest on three stores, each on all of them", "regions");
    report.setting("measured seconds", seconds);
    report.setting("seconds of silence before, for 10,000 regions", settle);
    let folder = common.options.folder()?;
    let (stores, cluster) = common.start(folder.path(), &still()).await?;
    let empty = stores.reading().await?;
    for count in counts {
        let have = cluster.routes().len();
        // One region is there to begin with, and one lies behind all keys.
        let cuts: Vec<Bytes> = (have.saturating_sub(1)..count).map(|n| format!("k{n:015}").into()).collect();
        stores.split(&cluster, &cuts).await?;
        tokio::time::sleep(Duration::from_secs(settle * (count as u64).div_ceil(10_000))).await;
        let before = stores.reading().await?;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let after = stores.reading().await?;
        let cpu = after.cpu_s(&before) / after.seconds(&before) * 100.0;
        report.add("three stores", count, "CPU", cpu, "% of a core");
        let counters = [
            ("frames", "flotilla_frames_sent_total", "per s"),
            ("messages", "flotilla_messages_sent_total", "per s"),
            ("bytes between stores", "flotilla_frame_bytes_sent_total", "bytes/s"),
            ("syncs of the logs", "flotilla_log_syncs_total", "per s"),
        ];
        for (metric, counter, unit) in counters {
            if let Some(growth) = after.growth(&before, counter) {
                report.add("three stores", count, metric, growth / after.seconds(&before), unit);
            }
        }
        let written = after.usage.disk_bytes.saturating_sub(before.usage.disk_bytes) as f64;
        report.add("three stores", count, "bytes to disks", written / after.seconds(&before), "bytes/s");
        let memory = after.usage.resident_bytes as f64;
        report.add("three stores", count, "resident memory", memory / f64::from(1 << 20), "MiB");
        let peers = (count * STORES) as f64;
        let grown = memory - empty.usage.resident_bytes as f64;
        report.add("three stores", count, "memory of a peer", grown / peers / 1_024.0, "KiB");
        let spread: Vec<String> = stores::leaders(&cluster).values().map(u64::to_string).collect();
        report.setting(&format!("leaders of {count}"), spread.join("/"));
    }
    // Only now: regions that were written to are compared again, which is not rest.
    let last = cluster.routes().len().saturating_sub(1);
    report.add("three stores", last, "answer a put", put_everywhere(&cluster).await? as f64, "regions");
    stores.stop().await;
    common.options.write(&report)
}

/// Writes one key into each region that clients can write to; how many took it. All must.
async fn put_everywhere(cluster: &Arc<Cluster>) -> Result<usize, String> {
    let mut routes = cluster.routes();
    // One lies behind all keys.
    routes.retain(|route| route.region.start_key.len() < KEY_BYTES_MAX);
    let mut writers = JoinSet::new();
    for first in 0..WRITERS {
        let (cluster, routes) = (cluster.clone(), routes.clone());
        writers.spawn(async move {
            for route in routes.iter().skip(first).step_by(WRITERS) {
                let key = Bytes::from([&route.region.start_key[..], b"!"].concat());
                cluster.call(&Request::Put(key, "a value".into())).await?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer does not panic")?;
    }
    Ok(routes.len())
}
