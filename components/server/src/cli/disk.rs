//! `flotilla ctl disk` and `flotilla ctl recover`: work on the data directories of stores that do not run.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_engine::{Engine, RocksConfig, RocksEngine, WalHealth};
use flotilla_kv::KvMachine;
use flotilla_raftstore::disk::recover::{self, Plan, Survivor};
use flotilla_raftstore::disk::{self, LocalRegion};
use flotilla_raftstore::{LogId, RegionState, Store, wire};
use flotilla_region::{Index, PeerId, Space, StoreId};
use prost::Message;
use serde_json::{Value, json};

use crate::threads::SystemClock;

use super::common::Output;
use super::error::CliError;
use super::render::{descriptor_json, table};
use super::text::{from_hex, show_short, show_size, to_hex};

/// Characters of a key in a table.
const KEY_CHARS_MAX: usize = 32;

/// Look at a store that does not run, without changing it
#[derive(Debug, clap::Args)]
pub(super) struct Disk {
    #[command(subcommand)]
    command: DiskCommand,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Data directory of a store that does not run
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// How to write the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum DiskCommand {
    /// List the regions, removed ones too
    Regions(Place),
    /// Show all that is known of one region
    Region {
        #[command(flatten)]
        place: Place,
        /// Its id
        #[arg(long)]
        id: u64,
    },
    /// Show the entries of a region's log
    Log {
        #[command(flatten)]
        place: Place,
        /// Id of the region
        #[arg(long)]
        id: u64,
        /// First index
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Index to stop before
        #[arg(long, default_value_t = u64::MAX)]
        to: u64,
    },
    /// Read everything and report what is damaged; exit status 1 if anything is
    Verify(Place),
}

/// Go on with what is left of regions that lost their quorum for good.
#[derive(Debug, clap::Args)]
pub(super) struct Recover {
    /// Data directory of a surviving store, which may not run; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    data_dir: Vec<PathBuf>,
    /// Ids of the stores that will never come back
    #[arg(long, value_name = "ID,...", value_delimiter = ',', required = true)]
    failed: Vec<u64>,
    /// What surviving stores on other machines say: a file that --report wrote there; may be given several times
    #[arg(long, value_name = "FILE")]
    others: Vec<PathBuf>,
    /// Write what these stores have to a file, for --others on another machine, and do nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "execute")]
    report: Option<PathBuf>,
    /// Do it; without this, only say what would be done and lost
    #[arg(long)]
    execute: bool,
    /// How to write the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn look(dir: &Path) -> Result<(Arc<RocksEngine>, WalHealth), CliError> {
    RocksEngine::look(dir, RocksConfig::small()).map_err(|error| CliError::disk(dir, &error.into()))
}

impl Disk {
    pub(super) fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        match self.command {
            DiskCommand::Regions(place) => {
                let (regions, health) = place.regions()?;
                place.warn(&health);
                place.print(out, &regions.iter().map(local_json).collect(), || local_table(&regions))
            }
            DiskCommand::Region { place, id } => {
                let (regions, health) = place.regions()?;
                place.warn(&health);
                let region = regions.into_iter().find(|local| local.id.0 == id);
                let region = region.ok_or(CliError::RegionNotFound { id })?;
                place.print(out, &local_json(&region), || details(&region))
            }
            DiskCommand::Log { place, id, from, to } => place.log(out, id, (Index(from), Index(to))),
            DiskCommand::Verify(place) => place.verify(out),
        }
    }
}

impl Place {
    fn regions(&self) -> Result<(Vec<LocalRegion>, WalHealth), CliError> {
        let (engine, health) = look(&self.data_dir)?;
        let regions = disk::regions(&*engine).map_err(|error| CliError::disk(&self.data_dir, &error))?;
        Ok((regions, health))
    }

    /// What is missing in the answer.
    fn warn(&self, health: &WalHealth) {
        if let Some(why) = &health.rot {
            eprintln!("flotilla: the log is read up to the first damage only: {why}");
        }
    }

    fn print(
        &self,
        out: &mut (dyn Write + Send),
        value: &Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let text = match self.output {
            Output::Json => value.to_string(),
            Output::Table => text(),
        };
        writeln!(out, "{text}").map_err(CliError::Output)
    }

    fn log(&self, out: &mut (dyn Write + Send), id: u64, range: (Index, Index)) -> Result<(), CliError> {
        let (engine, health) = look(&self.data_dir)?;
        self.warn(&health);
        let failed = |error| CliError::disk(&self.data_dir, &error);
        let regions = disk::regions(&*engine).map_err(failed)?;
        let region = regions.iter().find(|local| local.id.0 == id).ok_or(CliError::RegionNotFound { id })?;
        let mut rows = Vec::new();
        let mut damage = Vec::new();
        for log in &region.logs {
            let (entries, bad) = disk::log_entries(&*engine, region.id, log.peer, range).map_err(failed)?;
            rows.extend(entries.into_iter().map(|entry| (log.peer, entry)));
            damage.extend(bad.map(|why| format!("log of peer {}: {why}", log.peer)));
        }
        let value = rows.iter().map(|(peer, entry)| {
            json!({
                "peer": peer.0, "index": entry.at.index.0, "term": entry.at.term.0,
                "bytes": entry.bytes, "what": entry.what,
            })
        });
        let value = json!({ "entries": value.collect::<Vec<_>>(), "damage": damage });
        self.print(out, &value, || {
            let mut table = table(&["peer", "index", "term", "bytes", "what"]);
            for (peer, entry) in &rows {
                table.add_row([
                    peer.to_string(),
                    entry.at.index.to_string(),
                    entry.at.term.to_string(),
                    entry.bytes.to_string(),
                    entry.what.clone(),
                ]);
            }
            [vec![table.to_string()], damage.clone()].concat().join("\n")
        })
    }

    fn verify(&self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let (engine, health) = look(&self.data_dir)?;
        let failed = |error| CliError::disk(&self.data_dir, &error);
        let regions = disk::regions(&*engine).map_err(failed)?;
        let mut found = Vec::new();
        for local in &regions {
            found.push((local.id, disk::verify(&*engine, local).map_err(failed)?));
        }
        let damaged = found.iter().filter(|(_, checkup)| !checkup.damage.is_empty()).count();
        let value = json!({
            "log": {
                "batches": health.batches,
                "torn_at": health.torn_at.map(|(file, offset)| json!({ "file": file, "offset": offset })),
                "rot": health.rot,
            },
            "regions": found.iter().map(|(id, checkup)| json!({
                "id": id.0, "keys": checkup.keys, "bytes": checkup.bytes, "damage": checkup.damage,
            })).collect::<Vec<_>>(),
        });
        self.print(out, &value, || {
            let keys: u64 = found.iter().map(|(_, checkup)| checkup.keys).sum();
            let bytes: u64 = found.iter().map(|(_, checkup)| checkup.bytes).sum();
            let mut lines = vec![format!(
                "{} regions, {keys} keys, {}; {damaged} regions damaged",
                found.len(),
                show_size(bytes)
            )];
            for (id, checkup) in &found {
                lines.extend(checkup.damage.iter().map(|why| format!("region {id}: {why}")));
            }
            if let Some((file, offset)) = health.torn_at {
                lines.push(format!(
                    "log: unsynced tail from {offset} on in file {file}, which a start cuts off"
                ));
            }
            lines.extend(health.rot.iter().map(|why| {
                format!("log: {why}; the store will not start: wipe it, and it joins as a new one")
            }));
            lines.join("\n")
        })?;
        if damaged > 0 || health.rot.is_some() {
            Err(CliError::DamagedDisk { regions: damaged })
        } else {
            Ok(())
        }
    }
}

impl Recover {
    pub(super) fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let mut survivors = Vec::new();
        let mut stores = BTreeSet::new();
        for dir in &self.data_dir {
            let failed = |error| CliError::disk(dir, &error);
            // Opening makes a store of a directory that has none.
            drop(look(dir)?);
            let engine =
                RocksEngine::open(dir, RocksConfig::small()).map_err(|error| failed(error.into()))?;
            recover::replay(engine.clone(), Arc::new(SystemClock), Arc::new(KvMachine)).map_err(failed)?;
            let store = Store::ident(&*engine).map_err(failed)?.map(|ident| ident.store);
            if let Some(store) = store.filter(|store| self.failed.contains(&store.0)) {
                return Err(CliError::FailedSurvives { path: dir.clone(), store: store.0 });
            }
            stores.extend(store);
            survivors.extend(recover::survivors(&*engine).map_err(failed)?);
        }
        if let Some(path) = &self.report {
            return fs::write(path, report(&stores, &survivors).to_string()).map_err(CliError::file(path));
        }
        for path in &self.others {
            let text = fs::read_to_string(path).map_err(CliError::file(path))?;
            let bad = || CliError::BadReport { path: path.clone() };
            let (more, theirs) =
                serde_json::from_str(&text).ok().and_then(|v| parse_report(&v)).ok_or_else(bad)?;
            stores.extend(more);
            survivors.extend(theirs);
        }
        let is_member = |id: u64| survivors.iter().any(|s| s.region.peer_on(StoreId(id)).is_some());
        let strangers: Vec<u64> = self.failed.iter().copied().filter(|id| !is_member(*id)).collect();
        let failed = self.failed.iter().map(|id| StoreId(*id)).collect();
        let plan = recover::plan(&survivors, &stores, &failed);
        if self.execute {
            for dir in &self.data_dir {
                let engine = RocksEngine::open(dir, RocksConfig::small());
                let engine = engine.map_err(|error| CliError::disk(dir, &error.into()))?;
                recover::execute(&*engine as &dyn Engine, &plan)
                    .map_err(|error| CliError::disk(dir, &error))?;
            }
        }
        let text = match self.output {
            Output::Json => plan_json(&plan, &strangers, self.execute).to_string(),
            Output::Table => plan_text(&plan, &strangers, self.execute),
        };
        writeln!(out, "{text}").map_err(CliError::Output)
    }
}

fn at_json(at: LogId) -> Value {
    json!({ "index": at.index.0, "term": at.term.0 })
}

fn local_json(local: &LocalRegion) -> Value {
    let state = match &local.state {
        Ok(Some(RegionState::Normal(region))) => descriptor_json(&wire::region_to_wire(region)),
        Ok(Some(RegionState::Tombstone { peer, epoch, .. })) => json!({
            "removed": { "peer": peer.0, "epoch": { "conf_ver": epoch.conf_ver, "version": epoch.version } },
        }),
        Ok(None) => Value::Null,
        Err(why) => json!({ "damaged": why }),
    };
    let applied = match &local.applied {
        Ok(applied) => json!(applied.map(at_json)),
        Err(why) => json!({ "damaged": why }),
    };
    let logs = local.logs.iter().map(|log| {
        json!({
            "peer": log.peer.0,
            "hard_state": log.hard_state.map(|s| json!({
                "term": s.term.0, "vote": s.vote.0, "commit": s.commit.0,
            })),
            "base": log.base.map(at_json),
            "last": at_json(log.last),
            "entries": log.entries,
            "bytes": log.bytes,
            "damaged": log.damage,
        })
    });
    json!({
        "id": local.id.0,
        "state": state,
        "applied": applied,
        "out_of_service": local.quarantine.as_ref().map(|(peer, why)| json!({ "peer": peer.0, "why": why })),
        "is_merging": local.is_merging,
        "approximate_bytes": local.bytes,
        "logs": logs.collect::<Vec<_>>(),
    })
}

fn local_table(regions: &[LocalRegion]) -> String {
    let mut table = table(&["region", "state", "start", "end", "epoch", "applied", "log", "size"]);
    for local in regions {
        let (state, start, end, epoch) = match &local.state {
            Ok(Some(RegionState::Normal(region))) => (
                if local.quarantine.is_some() { "out of service" } else { "here" },
                show_short(&region.range.start, KEY_CHARS_MAX),
                show_short(&region.range.end, KEY_CHARS_MAX),
                format!("{}/{}", region.epoch.conf_ver, region.epoch.version),
            ),
            Ok(Some(RegionState::Tombstone { epoch, .. })) => {
                ("removed", String::new(), String::new(), format!("{}/{}", epoch.conf_ver, epoch.version))
            }
            Ok(None) => ("log only", String::new(), String::new(), String::new()),
            Err(_) => ("damaged", String::new(), String::new(), String::new()),
        };
        let applied = match &local.applied {
            Ok(applied) => applied.map_or(String::new(), |at| at.index.to_string()),
            Err(_) => "damaged".to_owned(),
        };
        let logs: Vec<String> = local.logs.iter().map(log_text).collect();
        table.add_row([
            local.id.to_string(),
            state.to_owned(),
            start,
            end,
            epoch,
            applied,
            logs.join("; "),
            show_size(local.bytes),
        ]);
    }
    table.to_string()
}

fn log_text(log: &disk::LocalLog) -> String {
    let base = log.base.unwrap_or_default().index;
    let damaged = if log.damage.is_some() { ", damaged" } else { "" };
    format!("peer {}: {} to {}{damaged}", log.peer, base.next(), log.last.index)
}

/// One region, a line for each fact.
fn details(local: &LocalRegion) -> String {
    serde_json::to_string_pretty(&local_json(local)).unwrap_or_default()
}

// ---- recovery ----

fn report(stores: &BTreeSet<StoreId>, survivors: &[Survivor]) -> Value {
    let survivors = survivors.iter().map(|s| {
        json!({
            "store": s.store.0,
            "peer": s.peer.0,
            "region": to_hex(&wire::region_to_wire(&s.region).encode_to_vec()),
            "applied": at_json(s.applied),
            "last": at_json(s.last),
            "commit": s.commit.0,
            "split_at": s.split_at.map(|at| at.0),
            "is_unusable": s.is_unusable,
            "is_merging": s.is_merging,
        })
    });
    json!({
        "stores": stores.iter().map(|id| id.0).collect::<Vec<_>>(),
        "survivors": survivors.collect::<Vec<_>>(),
    })
}

fn parse_report(value: &Value) -> Option<(Vec<StoreId>, Vec<Survivor>)> {
    let at = |value: &Value| {
        let number = |name: &str| value.get(name)?.as_u64();
        Some(LogId { index: Index(number("index")?), term: flotilla_region::Term(number("term")?) })
    };
    let stores = value.get("stores")?.as_array()?.iter().map(|id| id.as_u64().map(StoreId));
    let survivors = value.get("survivors")?.as_array()?.iter().map(|value| {
        let region = from_hex(value.get("region")?.as_str()?).ok()?;
        Some(Survivor {
            store: StoreId(value.get("store")?.as_u64()?),
            peer: PeerId(value.get("peer")?.as_u64()?),
            region: wire::region_from_wire(&Message::decode(region).ok()?),
            applied: at(value.get("applied")?)?,
            last: at(value.get("last")?)?,
            commit: Index(value.get("commit")?.as_u64()?),
            split_at: value.get("split_at")?.as_u64().map(Index),
            is_unusable: value.get("is_unusable")?.as_bool()?,
            is_merging: value.get("is_merging")?.as_bool()?,
        })
    });
    Some((stores.collect::<Option<_>>()?, survivors.collect::<Option<_>>()?))
}

fn plan_json(plan: &Plan, strangers: &[u64], is_done: bool) -> Value {
    json!({
        "executed": is_done,
        "failed_without_replica": strangers,
        "healthy": plan.healthy,
        "keep": plan.keep.iter().map(|kept| json!({
            "region": kept.after.id.0,
            "store": kept.survivor.store.0,
            "peer": kept.survivor.peer.0,
            "applied": at_json(kept.survivor.applied),
            "last": at_json(kept.survivor.last),
            "known_committed": kept.survivor.commit.0,
            "split_at": kept.survivor.split_at.map(|at| at.0),
            "lost_stores": kept.lost.iter().map(|peer| peer.store.0).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "bury": plan.bury.iter().map(|(s, _)| json!({
            "region": s.region.id.0, "store": s.store.0, "peer": s.peer.0, "last": at_json(s.last),
        })).collect::<Vec<_>>(),
        "refused": plan.refused.iter().map(|(id, why)| json!({ "region": id.0, "why": why })).collect::<Vec<_>>(),
        "lost_ranges": plan.gaps.iter().map(|(space, range)| json!({
            "meta_space": *space == Space::Meta,
            "start_key": to_hex(&range.start),
            "end_key": to_hex(&range.end),
        })).collect::<Vec<_>>(),
    })
}

fn plan_text(plan: &Plan, strangers: &[u64], is_done: bool) -> String {
    let stranger =
        |id: &u64| format!("store {id}, which --failed names, has no replica of any region of these stores");
    let mut lines: Vec<String> = strangers.iter().map(stranger).collect();
    lines.push(format!("{} regions still have a quorum and stay as they are", plan.healthy));
    for kept in &plan.keep {
        let lost: Vec<String> = kept.lost.iter().map(|peer| peer.store.to_string()).collect();
        let Survivor { store, last, commit, .. } = &kept.survivor;
        let unsure = match commit.next() <= last.index {
            true => {
                format!("; entries {} to {}, committed or not, become part of it", commit.next(), last.index)
            }
            false => String::new(),
        };
        lines.push(format!(
            "region {}: goes on with store {store} alone; what stores {} may have acknowledged after entry {} is \
             lost{unsure}",
            kept.after.id,
            lost.join(", "),
            last.index,
        ));
    }
    for kept in &plan.keep {
        if let Some(at) = kept.survivor.split_at {
            lines.push(format!(
                "region {}: entry {at} is a split that cannot be made any more; what was written after it is lost",
                kept.after.id
            ));
        }
    }
    for (buried, _) in &plan.bury {
        lines.push(format!(
            "region {}: the replica on store {}, up to entry {}, is removed",
            buried.region.id, buried.store, buried.last.index
        ));
    }
    lines.extend(plan.refused.iter().map(|(id, why)| format!("region {id}: cannot be recovered: {why}")));
    for (space, range) in &plan.gaps {
        let what = if *space == Space::Meta { "the cluster's own facts" } else { "keys" };
        let end = if range.end.is_empty() { "the end".into() } else { show_short(&range.end, KEY_CHARS_MAX) };
        let start = show_short(&range.start, KEY_CHARS_MAX);
        lines.push(format!("lost, unless another store has them: {what} from {start:?} to {end}"));
    }
    lines.push(match is_done {
        true => "done; start the stores, and never the failed ones with their old disks".to_owned(),
        false => "nothing was changed but what a start would do: --execute does it".to_owned(),
    });
    lines.join("\n")
}
