//! A store's refusals in the protocol's words.

use flotilla_proto::errorpb;
use flotilla_raftstore::{RequestError, wire};

/// Refusal, and the name under which it is counted.
pub fn region_error(error: &RequestError) -> (&'static str, errorpb::Error) {
    let mut reply = errorpb::Error { message: error.to_string(), ..Default::default() };
    let kind = match error {
        RequestError::NotLeader { region, leader } => {
            let leader = leader.as_ref().map(wire::peer_to_wire);
            reply.not_leader = Some(errorpb::NotLeader { region_id: region.0, leader });
            "not_leader"
        }
        RequestError::RegionNotFound(region) => {
            reply.region_not_found = Some(errorpb::RegionNotFound { region_id: region.0 });
            "region_not_found"
        }
        RequestError::EpochNotMatch(regions) => {
            let current_regions = regions.iter().map(wire::region_to_wire).collect();
            reply.epoch_not_match = Some(errorpb::EpochNotMatch { current_regions });
            "epoch_not_match"
        }
        RequestError::KeyNotInRegion { key, region, range } => {
            reply.key_not_in_region = Some(errorpb::KeyNotInRegion {
                key: key.clone(),
                region_id: region.0,
                start_key: range.start.clone(),
                end_key: range.end.clone(),
            });
            "key_not_in_region"
        }
        RequestError::PeerMismatch { asked, actual } => {
            reply.mismatch_peer_id =
                Some(errorpb::MismatchPeerId { request_peer_id: asked.0, store_peer_id: actual.0 });
            "mismatch_peer_id"
        }
        RequestError::StoreMismatch { asked, actual } => {
            reply.store_not_match =
                Some(errorpb::StoreNotMatch { request_store_id: asked.0, actual_store_id: actual.0 });
            "store_not_match"
        }
        RequestError::Busy => {
            reply.server_is_busy =
                Some(errorpb::ServerIsBusy { reason: error.to_string(), ..Default::default() });
            "server_is_busy"
        }
        RequestError::Stale => {
            reply.stale_command = Some(errorpb::StaleCommand {});
            "stale_command"
        }
        RequestError::EntryTooLarge { region, bytes, .. } => {
            reply.raft_entry_too_large =
                Some(errorpb::RaftEntryTooLarge { region_id: region.0, entry_size: *bytes as u64 });
            "raft_entry_too_large"
        }
        RequestError::ReadNotReady(region) => {
            reply.read_index_not_ready =
                Some(errorpb::ReadIndexNotReady { reason: error.to_string(), region_id: region.0 });
            "read_index_not_ready"
        }
        RequestError::Merging(region) => {
            let merging = errorpb::ProposalInMergingMode { region_id: region.0 };
            reply.proposal_in_merging_mode = Some(merging);
            "proposal_in_merging_mode"
        }
        RequestError::Undetermined => {
            reply.undetermined_result = Some(errorpb::UndeterminedResult { message: error.to_string() });
            "undetermined_result"
        }
        RequestError::Refused(_) => "refused",
    };
    (kind, reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_region::{KeyRange, Peer, PeerId, Region, RegionId, StoreId};

    /// The number of kinds that a reply sets; a client takes at most one.
    fn kinds_set(reply: &errorpb::Error) -> usize {
        [
            reply.not_leader.is_some(),
            reply.region_not_found.is_some(),
            reply.key_not_in_region.is_some(),
            reply.epoch_not_match.is_some(),
            reply.server_is_busy.is_some(),
            reply.stale_command.is_some(),
            reply.store_not_match.is_some(),
            reply.raft_entry_too_large.is_some(),
            reply.read_index_not_ready.is_some(),
            reply.mismatch_peer_id.is_some(),
            reply.proposal_in_merging_mode.is_some(),
            reply.undetermined_result.is_some(),
        ]
        .into_iter()
        .filter(|set| *set)
        .count()
    }

    #[test]
    fn each_refusal_sets_exactly_one_kind_and_a_message() {
        let region = RegionId(7);
        let errors = [
            RequestError::NotLeader { region, leader: None },
            RequestError::RegionNotFound(region),
            RequestError::EpochNotMatch(vec![Region::default(); 2]),
            RequestError::KeyNotInRegion { key: "k".into(), region, range: KeyRange::ALL },
            RequestError::PeerMismatch { asked: PeerId(1), actual: PeerId(2) },
            RequestError::StoreMismatch { asked: StoreId(1), actual: StoreId(2) },
            RequestError::Busy,
            RequestError::Stale,
            RequestError::EntryTooLarge { region, bytes: 9, bytes_max: 8 },
            RequestError::ReadNotReady(region),
            RequestError::Merging(region),
            RequestError::Undetermined,
        ];
        for error in errors {
            let (_, reply) = region_error(&error);
            assert_eq!(kinds_set(&reply), 1, "{error:?}");
            assert!(!reply.message.is_empty(), "{error:?}");
        }
        assert_eq!(kinds_set(&region_error(&RequestError::Refused("why")).1), 0);
    }

    #[test]
    fn a_leader_is_named_only_when_it_is_known() {
        let hint = |leader| {
            region_error(&RequestError::NotLeader { region: RegionId(7), leader }).1.not_leader.unwrap()
        };
        assert_eq!(hint(None).leader, None);
        let peer = Peer { id: PeerId(3), store: StoreId(2), ..Peer::default() };
        let named = hint(Some(peer)).leader.unwrap();
        assert_eq!((named.id, named.store_id), (3, 2));
    }
}
