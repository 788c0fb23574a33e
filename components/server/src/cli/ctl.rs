//! `flotilla ctl`.

use std::io::Write;

use flotilla_proto::flotilla::SplitKeys;
use flotilla_proto::flotilla::admin_request::Command as AdminCommand;
use serde_json::Value;

use super::admin::Admin;
use super::common::{Common, Output};
use super::error::CliError;
use super::render::{descriptor_json, descriptor_table, region_json, region_table, store_json, store_table};

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
    /// Show one region
    Region {
        #[command(flatten)]
        common: Common,
        /// Its id
        #[arg(long)]
        id: u64,
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

impl Ctl {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let text = match self.command {
            CtlCommand::Stores { common } => {
                let stores = Admin::new(&common.pd)?.stores().await?;
                match common.output {
                    Output::Json => stores.iter().map(store_json).collect::<Value>().to_string(),
                    Output::Table => store_table(&stores),
                }
            }
            CtlCommand::Regions { common } => {
                let regions = Admin::new(&common.pd)?.regions(0).await?;
                match common.output {
                    Output::Json => regions.iter().map(region_json).collect::<Value>().to_string(),
                    Output::Table => region_table(&regions, common.hex),
                }
            }
            CtlCommand::Region { common, id } => {
                let regions = Admin::new(&common.pd)?.regions(id).await?;
                // An id of 0 would list all.
                if id == 0 || regions.is_empty() {
                    return Err(CliError::RegionNotFound { id });
                }
                match common.output {
                    Output::Json => region_json(&regions[0]).to_string(),
                    Output::Table => region_table(&regions, common.hex),
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
        };
        writeln!(out, "{text}").map_err(CliError::Output)
    }
}

/// Carries out a command and shows the regions that it left.
async fn change(common: &Common, region: u64, command: AdminCommand) -> Result<String, CliError> {
    let regions = Admin::new(&common.pd)?.command(region, command).await?;
    Ok(match common.output {
        Output::Json => regions.iter().map(descriptor_json).collect::<Value>().to_string(),
        Output::Table if regions.is_empty() => "done".to_owned(),
        Output::Table => descriptor_table(&regions, common.hex),
    })
}
