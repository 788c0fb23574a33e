//! `flotilla ctl`.

use std::io::Write;
use std::time::Duration;

use flotilla_proto::flotilla::admin_request::Command as AdminCommand;
use flotilla_proto::flotilla::{CheckReply, SplitKeys};
use flotilla_proto::metapb::{Region, StoreState};
use serde_json::Value;
use tokio::time::Instant;

use super::admin::Admin;
use super::common::{Common, Output};
use super::disk::{Disk, Recover};
use super::error::CliError;
use super::render::{
    check_json, check_table, descriptor_json, descriptor_table, region_json, region_table, region_text,
    store_json, store_table,
};

/// How often a move or a drain is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the leader of a region has for a comparison.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);
/// A drain that makes no progress for so long may want for stores.
const DRAIN_STUCK: Duration = Duration::from_secs(15);
/// How long a cluster that cannot say how far a move is, is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Look at stores and regions, and change them.
#[derive(Debug, clap::Args)]
pub struct Ctl {
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CtlCommand {
    /// List stores
    Stores {
        #[command(flatten)]
        common: Common,
    },
    /// List regions in key order
    Regions {
        #[command(flatten)]
        common: Common,
    },
    /// Show one region, with its splits and merges
    Region {
        #[command(flatten)]
        common: Common,
        /// Its id
        #[arg(required_unless_present = "named")]
        id: Option<u64>,
        /// Its id, too
        #[arg(long = "id", value_name = "ID", conflicts_with = "id")]
        named: Option<u64>,
    },
    /// Split a region at keys
    Split {
        #[command(flatten)]
        common: Common,
        /// Its id
        #[arg(long)]
        region: u64,
        /// First key of the right part; may be given several times, in ascending order
        #[arg(long, required = true)]
        key: Vec<String>,
    },
    /// Merge a region into its neighbour
    Merge {
        #[command(flatten)]
        common: Common,
        /// Id of the region that ends
        #[arg(long)]
        region: u64,
        /// Id of the neighbour that takes its keys
        #[arg(long)]
        into: u64,
    },
    /// Make the peer on a store the leader
    TransferLeader(OnStore),
    /// Add a peer on a store
    AddPeer(OnStore),
    /// Remove the peer on a store
    RemovePeer(OnStore),
    /// Move the peer on one store to another store
    Move(MoveArgs),
    /// Compare the replicas of a region, or of all; exit status 1 if any differ or do not answer
    Check {
        #[command(flatten)]
        common: Common,
        /// Id of the region; without it, all regions one after the other
        #[arg(long)]
        region: Option<u64>,
    },
    /// Move everything away from a store, then remove it from the cluster
    DrainStore {
        #[command(flatten)]
        common: Common,
        /// Its id
        #[arg(long)]
        store: u64,
        /// Return at once instead of waiting until it is removed
        #[arg(long)]
        no_wait: bool,
        /// Longest time to wait until it is removed, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 1_800, conflicts_with_all = ["no_wait", "undo"])]
        wait: u64,
        /// Stop draining: the store stays
        #[arg(long, conflicts_with = "no_wait")]
        undo: bool,
    },
    /// Compact the files of a store
    Compact {
        #[command(flatten)]
        common: Common,
        /// Its id
        #[arg(long)]
        store: u64,
        /// Only those of this region; without it, all of them
        #[arg(long)]
        region: Option<u64>,
    },
    /// Look at a store that does not run
    Disk(Disk),
    /// Go on with what is left of regions that lost their quorum for good
    Recover(Recover),
}

#[derive(Debug, clap::Args)]
struct OnStore {
    #[command(flatten)]
    common: Common,
    /// Id of the region
    #[arg(long)]
    region: u64,
    /// Id of the store
    #[arg(long)]
    store: u64,
}

#[derive(Debug, clap::Args)]
struct MoveArgs {
    #[command(flatten)]
    common: Common,
    /// Id of the region
    #[arg(long)]
    region: u64,
    /// Id of the store that the peer is on
    #[arg(long)]
    from: u64,
    /// Id of the store that gets it
    #[arg(long)]
    to: u64,
    /// Return once the cluster has taken the order on, instead of waiting for the outcome
    #[arg(long)]
    no_wait: bool,
    /// Longest time to wait for the outcome, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1_800, conflicts_with = "no_wait")]
    wait: u64,
}

impl Ctl {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let text = match self.command {
            CtlCommand::Stores { common } => {
                let stores = common.admin()?.stores().await?;
                match common.output {
                    Output::Json => stores.iter().map(store_json).collect::<Value>().to_string(),
                    Output::Table => store_table(&stores),
                }
            }
            CtlCommand::Regions { common } => {
                let regions = common.admin()?.regions(0).await?;
                match common.output {
                    Output::Json => regions.iter().map(region_json).collect::<Value>().to_string(),
                    Output::Table => region_table(&regions, common.hex),
                }
            }
            CtlCommand::Region { common, id, named } => {
                let id = id.or(named).unwrap_or(0);
                let regions = common.admin()?.regions(id).await?;
                // An id of 0 would list all.
                if id == 0 || regions.is_empty() {
                    return Err(CliError::RegionNotFound { id });
                }
                if regions[0].merged_into != 0 {
                    return Err(CliError::RegionMerged { id, into: regions[0].merged_into });
                }
                match common.output {
                    Output::Json => region_json(&regions[0]).to_string(),
                    Output::Table => region_text(&regions[0], common.hex),
                }
            }
            CtlCommand::Split { common, region, key } => {
                let keys = key.iter().map(|key| common.parse(key)).collect::<Result<_, CliError>>()?;
                change(&common, region, AdminCommand::Split(SplitKeys { keys })).await?
            }
            CtlCommand::Merge { common, region, into } => {
                change(&common, into, AdminCommand::MergeSource(region)).await?
            }
            CtlCommand::TransferLeader(on) => {
                change(&on.common, on.region, AdminCommand::TransferLeaderToStore(on.store)).await?
            }
            CtlCommand::AddPeer(on) => {
                change(&on.common, on.region, AdminCommand::AddPeerOnStore(on.store)).await?
            }
            CtlCommand::RemovePeer(on) => {
                change(&on.common, on.region, AdminCommand::RemovePeerOnStore(on.store)).await?
            }
            CtlCommand::Move(args) => move_peer(&args).await?,
            CtlCommand::Check { common, region } => return check(&common, region, out).await,
            CtlCommand::DrainStore { common, store, no_wait, wait, undo } => {
                common.admin()?.drain(store, !undo).await?;
                if !no_wait && !undo {
                    wait_removed(&common, store, Duration::from_secs(wait)).await?;
                }
                done(&common)
            }
            CtlCommand::Compact { common, store, region } => {
                common.admin()?.compact(store, region.unwrap_or(0)).await?;
                done(&common)
            }
            CtlCommand::Disk(disk) => return disk.run(out),
            CtlCommand::Recover(recover) => return recover.run(out),
        };
        writeln!(out, "{text}").map_err(CliError::Output)
    }
}

fn done(common: &Common) -> String {
    match common.output {
        Output::Json => "[]".to_owned(),
        Output::Table => "done".to_owned(),
    }
}

/// Waits until a drained store is removed, and says on standard error how far that is.
async fn wait_removed(common: &Common, id: u64, wait: Duration) -> Result<(), CliError> {
    let admin = common.admin()?;
    let give_up = Instant::now() + wait;
    let (mut said, mut hint_at) = (None, None);
    loop {
        let stores = admin.stores().await?;
        let known = || stores.iter().filter_map(|info| Some((info, info.store.as_ref()?)));
        let Some((info, store)) = known().find(|(_, store)| store.id == id) else { return Ok(()) };
        if store.state() == StoreState::Tombstone {
            return Ok(());
        }
        let regions = u64::from(info.region_count);
        if store.address.is_empty() && regions == 0 {
            eprintln!(
                "store {id}: another store has its address now; it holds nothing, and is not waited for"
            );
            return Ok(());
        }
        if said != Some(regions) {
            eprintln!("store {id}: {regions} regions left");
            (said, hint_at) = (Some(regions), Some(Instant::now() + DRAIN_STUCK));
        } else if regions > 0 && hint_at.is_some_and(|at| Instant::now() >= at) {
            eprintln!(
                "store {id}: still {regions} regions; {} other stores are up: add one if replicas have no place, or \
                 --undo",
                known().filter(|(_, store)| store.state() == StoreState::Up).count()
            );
            hint_at = None;
        }
        if Instant::now() >= give_up {
            return Err(CliError::NotDrained { id, regions });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Has a replica moved and waits for the outcome. The cluster is asked again and again with the same words, so that an
/// order which a placement leader took with it is begun anew by the next one.
async fn move_peer(args: &MoveArgs) -> Result<String, CliError> {
    let admin = args.common.admin()?;
    let give_up = Instant::now() + Duration::from_secs(args.wait);
    let mut answered = Instant::now();
    let mut said = String::new();
    loop {
        let reply = admin.move_peer(args.region, args.from, args.to).await?;
        let is_passing = reply.is_passing && answered.elapsed() < ANSWER_PATIENCE;
        if !reply.error.is_empty() && !is_passing {
            return Err(CliError::Refused { message: reply.error });
        }
        if reply.error.is_empty() {
            answered = Instant::now();
        }
        if reply.is_done || (args.no_wait && reply.error.is_empty()) {
            return show_region(&args.common, args.region).await;
        }
        let phase = if reply.error.is_empty() { reply.phase } else { reply.error };
        if phase != said {
            eprintln!("region {}: {phase}", args.region);
            said = phase;
        }
        if Instant::now() >= give_up {
            return Err(CliError::NotMoved { region: args.region, phase: said });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The region as a change leaves it.
async fn show_region(common: &Common, id: u64) -> Result<String, CliError> {
    let regions = common.admin()?.regions(id).await?;
    let regions: Vec<_> = regions.into_iter().filter_map(|info| info.region).collect();
    Ok(show_changed(common, &regions))
}

/// Compares replicas and shows what each holds.
async fn check(common: &Common, region: Option<u64>, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    // The leader waits for replicas that do not answer.
    let wait = common.timeout.map_or(CHECK_TIMEOUT, Duration::from_secs);
    let admin = Admin::new(&common.pd, Some(wait))?;
    let ids = match region {
        Some(id) => vec![id],
        None => {
            let regions = admin.regions(0).await?;
            regions.iter().filter_map(|info| info.region.as_ref()).map(|region| region.id).collect()
        }
    };
    let mut checked = Vec::new();
    for id in ids {
        checked.push((id, admin.check(id).await?));
    }
    let text = match common.output {
        Output::Json => {
            checked.iter().map(|(id, reply)| check_json(*id, reply)).collect::<Value>().to_string()
        }
        Output::Table => check_table(&checked),
    };
    writeln!(out, "{text}").map_err(CliError::Output)?;
    let that = |is: fn(&CheckReply) -> bool| -> Vec<u64> {
        checked.iter().filter(|(_, reply)| is(reply)).map(|(id, _)| *id).collect()
    };
    let (differing, silent) = (that(differs), that(is_incomplete));
    if !differing.is_empty() {
        return Err(CliError::ReplicasDiffer { regions: differing });
    }
    if silent.is_empty() { Ok(()) } else { Err(CliError::ReplicasSilent { regions: silent }) }
}

fn is_incomplete(reply: &CheckReply) -> bool {
    reply.replicas.iter().any(|replica| !replica.has_digest)
}

fn differs(reply: &CheckReply) -> bool {
    let mut digests = reply.replicas.iter().filter(|r| r.has_digest).map(|r| (r.crc, r.keys, r.bytes));
    let first = digests.next();
    digests.any(|digest| Some(digest) != first)
}

/// Carries out a command and shows the regions that it left.
async fn change(common: &Common, region: u64, command: AdminCommand) -> Result<String, CliError> {
    let regions = common.admin()?.command(region, command).await?;
    Ok(show_changed(common, &regions))
}

fn show_changed(common: &Common, regions: &[Region]) -> String {
    match common.output {
        Output::Json => regions.iter().map(descriptor_json).collect::<Value>().to_string(),
        Output::Table if regions.is_empty() => "done".to_owned(),
        Output::Table => descriptor_table(regions, common.hex),
    }
}
