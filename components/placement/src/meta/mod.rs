//! The meta region's state machine: durable facts of the cluster, and the commands that change them.
//!
//! [`apply`] is a function of the facts and a command, run by every replica of the meta region at the same place of
//! its log. It reads through [`FactRead`] and returns what to write, so the store that hosts it chooses how facts are
//! kept; all writes of one command belong in one batch.

mod codec;
mod command;
mod facts;

use bytes::Bytes;
use flotilla_region::{ClusterId, PeerId, RegionId, StoreId};
use thiserror::Error;

pub use command::{ALLOC_COUNT_MAX, META_FORMAT, MetaCommand, MetaReply, Refusal, StoreProposal};
pub use facts::{FactRead, FactWrite, cluster_id, cluster_version, next_id, store, stores};

use crate::{StoreRecord, StoreState};
use facts::{
    CLUSTER_ID, NEXT_ID, put_number, put_record, put_store_ids, put_version, store_ids, store_of_uuid,
    uuid_key,
};

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MetaError {
    /// A command or reply of a format or kind this program does not know: a replica must stop there, never skip it.
    #[error("unknown meta command: format {format}, kind {kind}")]
    Unknown {
        /// Format byte.
        format: u8,
        /// Kind byte.
        kind: u8,
    },
    /// Bytes that no version of this program writes: the command or the fact is damaged; quarantine the region.
    #[error("malformed meta command or fact")]
    Malformed,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaEffect {
    /// Facts to write, in one batch with the applied index.
    pub writes: Vec<FactWrite>,
    /// Encoded [`MetaReply`].
    pub reply: Bytes,
}

/// Facts of a new cluster founded by `founder`, whose id lies below [`RegionId::FIRST_FREE`].
pub fn bootstrap(cluster: ClusterId, founder: &StoreRecord) -> Vec<FactWrite> {
    assert!(
        founder.id.get() < RegionId::FIRST_FREE.get(),
        "the allocator would hand the founder's id out again"
    );
    vec![
        put_number(CLUSTER_ID, cluster.get()),
        put_number(NEXT_ID, RegionId::FIRST_FREE.get()),
        put_version(founder.format_max),
        put_store_ids(&[founder.id]),
        put_number(uuid_key(founder.uuid), founder.id.get()),
        put_record(founder),
    ]
}

/// Applies an encoded [`MetaCommand`].
///
/// # Errors
/// The command cannot be read, or a fact is damaged; nothing may be applied then, see [`MetaError`].
pub fn apply(facts: &dyn FactRead, command: &[u8]) -> Result<MetaEffect, MetaError> {
    let decided = match MetaCommand::decode(command)? {
        MetaCommand::PutStore(proposal) => put_store(facts, proposal)?,
        MetaCommand::SetStoreState { store, state } => set_store_state(facts, store, state)?,
        MetaCommand::AllocIds { count } => alloc_ids(facts, count)?,
    };
    Ok(match decided {
        Ok((writes, reply)) => MetaEffect { writes, reply: reply.encode() },
        Err(refusal) => MetaEffect { writes: Vec::new(), reply: MetaReply::Refused(refusal).encode() },
    })
}

/// What a command decided: writes and a reply, or a refusal.
type Decided = Result<(Vec<FactWrite>, MetaReply), Refusal>;

fn put_store(facts: &dyn FactRead, proposal: StoreProposal) -> Result<Decided, MetaError> {
    let StoreProposal { uuid, address, status_address, labels, version, format_max } = proposal;
    if address.is_empty() {
        return Ok(Err(Refusal::Invalid));
    }
    if format_max < cluster_version(facts)? {
        return Ok(Err(Refusal::TooOld));
    }
    let mut writes = Vec::new();
    let known = store_of_uuid(facts, uuid)?;
    let (id, state) = match &known {
        Some(record) if record.state == StoreState::Tombstone => return Ok(Err(Refusal::Removed)),
        // It is back at an address that another disk had taken over.
        Some(record) if record.address.is_empty() => (record.id, StoreState::Up),
        Some(record) => (record.id, record.state),
        None => {
            let Some((first, next)) = ids_after(next_id(facts)?, 1) else {
                return Ok(Err(Refusal::Exhausted));
            };
            let mut ids = store_ids(facts)?;
            ids.push(StoreId(first));
            writes.extend([
                put_number(NEXT_ID, next),
                put_store_ids(&ids),
                put_number(uuid_key(uuid), first),
            ]);
            (StoreId(first), StoreState::Up)
        }
    };
    let record = StoreRecord { id, uuid, address, status_address, labels, version, format_max, state };
    let mut all = stores(facts)?;
    all.retain(|other| other.id != id);
    for other in all.iter_mut().filter(|other| other.address == record.address) {
        // One address is one process: the disk that was there before is not there any more. Its replicas need not
        // wait until it is given up for gone.
        other.address.clear();
        if other.state == StoreState::Up {
            other.state = StoreState::Offline;
        }
        writes.push(put_record(other));
    }
    if known.as_ref() != Some(&record) {
        writes.push(put_record(&record));
    }
    all.push(record.clone());
    writes.extend(raised_version(facts, &all)?);
    Ok(Ok((writes, MetaReply::Store(record))))
}

fn set_store_state(facts: &dyn FactRead, id: StoreId, state: StoreState) -> Result<Decided, MetaError> {
    let mut all = stores(facts)?;
    let up = all.iter().filter(|s| s.state == StoreState::Up).count();
    let Some(record) = all.iter_mut().find(|s| s.id == id) else { return Ok(Err(Refusal::UnknownStore)) };
    match (record.state, state) {
        (from, to) if from == to => return Ok(Ok((Vec::new(), MetaReply::Store(record.clone())))),
        (StoreState::Up, StoreState::Offline) if up == 1 => return Ok(Err(Refusal::LastStore)),
        (_, StoreState::Up) if record.address.is_empty() => return Ok(Err(Refusal::BadTransition)),
        (StoreState::Up, StoreState::Offline)
        | (StoreState::Offline, StoreState::Up | StoreState::Tombstone) => {}
        _ => return Ok(Err(Refusal::BadTransition)),
    }
    record.state = state;
    let record = record.clone();
    let mut writes = vec![put_record(&record)];
    writes.extend(raised_version(facts, &all)?);
    Ok(Ok((writes, MetaReply::Store(record))))
}

/// The cluster version only rises: to the oldest format among the stores that are not removed.
fn raised_version(facts: &dyn FactRead, all: &[StoreRecord]) -> Result<Option<FactWrite>, MetaError> {
    let members = all.iter().filter(|s| s.state != StoreState::Tombstone);
    let oldest = members.map(|s| s.format_max).min().unwrap_or(0);
    Ok((oldest > cluster_version(facts)?).then(|| put_version(oldest)))
}

fn alloc_ids(facts: &dyn FactRead, count: u64) -> Result<Decided, MetaError> {
    if count == 0 || count > ALLOC_COUNT_MAX {
        return Ok(Err(Refusal::Invalid));
    }
    Ok(match ids_after(next_id(facts)?, count) {
        Some((first, next)) => Ok((vec![put_number(NEXT_ID, next)], MetaReply::Ids { first, count })),
        None => Err(Refusal::Exhausted),
    })
}

/// `(next, next + count)`, as long as the ids are legal for everything they may name.
fn ids_after(next: u64, count: u64) -> Option<(u64, u64)> {
    let after = next.checked_add(count)?;
    (after <= PeerId::APPLY_THREAD.get()).then_some((next, after))
}

#[cfg(test)]
mod tests;
