//! Strikes of the nemesis at the moment when a certain message passes: coincidences that drawn moments hardly ever meet.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::flotilla as pb;
use flotilla_proto::flotilla::merge_message::Message as MergeNews;
use flotilla_raft::MessageKind;
use flotilla_region::{PeerId, RegionId, StoreId};
use prost::Message;

use super::network::Delivery;
use super::profile::Fault;
use super::world::{Event, World};

/// Kinds of messages that make a store create a peer which it does not have.
const CREATING: [MessageKind; 4] =
    [MessageKind::Append, MessageKind::Heartbeat, MessageKind::Vote, MessageKind::PreVote];

/// Peers whose mail is kept at most.
const LETTERS_MAX: usize = 256;

/// Letters that arrive again for one peer at most. The answers to them may bring the next tombstone, and so on for ever.
const LATE_LETTERS_MAX: u8 = 8;

/// The latest frame for each peer that would create it if it were not there.
#[derive(Default)]
pub struct Letters {
    latest: BTreeMap<(RegionId, PeerId), Delivery>,
    late: BTreeMap<(RegionId, PeerId), u8>,
}

impl World {
    /// A frame arrives, and its receiver has not read it yet.
    pub(super) fn ambush(&mut self, (from, to): (StoreId, StoreId), frame: &pb::StoreFrame, bytes: &Bytes) {
        if !self.nemesis.is_active() {
            return;
        }
        for raft in &frame.messages {
            let of = (RegionId(raft.region_id), PeerId(raft.to_peer.as_ref().map_or(0, |peer| peer.id)));
            if raft.is_tombstone {
                self.on_removal(of, to);
            } else if is_final(&raft.merge) {
                self.on_yield(from, to);
            }
            let Some(message) = &raft.message else { continue };
            if message.kind == MessageKind::TimeoutNow as u32 {
                self.on_offer(from);
            }
            if CREATING.into_iter().any(|kind| kind as u32 == message.kind) {
                let letters = &mut self.nemesis.letters.latest;
                letters.insert(of, Delivery::Frame { from, to, bytes: bytes.clone() });
                if letters.len() > LETTERS_MAX {
                    letters.pop_first();
                }
            }
        }
    }

    /// An offer of leadership arrived, and no word of what came of it has left yet. The old leader may never hear that
    /// it is one no more (trap T21).
    fn on_offer(&mut self, from: StoreId) {
        if self.profile.faults.contains(&Fault::Transfer) && self.nemesis.rng.chance(1, 2) {
            self.deafen(from);
        }
    }

    /// A target hears that its source is final, and takes it over. The source's leader may never hear that it was (trap
    /// T21), and some store may hear it from others before its own peer of the target does (traps T10, T16).
    fn on_yield(&mut self, source: StoreId, target: StoreId) {
        let others: Vec<StoreId> = self.hosts.keys().copied().filter(|id| *id != target).collect();
        if others.is_empty() {
            return;
        }
        let rng = &mut self.nemesis.rng;
        match rng.below(5) {
            0 | 1 => self.deafen(source),
            2 | 3 => {
                let (other, for_us) = (*rng.pick(&others), rng.range(1_000_000..4_000_000));
                self.estrange((target, other), for_us);
            }
            _ => {}
        }
    }

    /// A peer hears that it was removed. Once its tombstone is on disk nothing else keeps it away, and what it was sent
    /// before may arrive late, in this life of its store or in the next (trap T30).
    fn on_removal(&mut self, of: (RegionId, PeerId), store: StoreId) {
        let Some(letter) = self.nemesis.letters.latest.remove(&of) else { return };
        let late = self.nemesis.letters.late.entry(of).or_default();
        if *late == LATE_LETTERS_MAX || self.nemesis.rng.chance(1, 4) {
            return;
        }
        *late += 1;
        let now = self.now_us();
        self.trace.note(now, &[47, of.0.0, of.1.0], || {
            format!("a frame to peer {} of region {} will arrive again", of.1, of.0)
        });
        for after in [30_000, 500_000] {
            let after = after + self.nemesis.rng.below(50_000);
            self.plan(after, Event::Checkpoint(store));
        }
        if self.profile.faults.contains(&Fault::Kill) && self.nemesis.rng.chance(1, 4) {
            let after = 200_000 + self.nemesis.rng.below(400_000);
            self.plan(after, Event::Kill(store));
        }
        for (from_us, to_us) in [(90_000, 200_000), (200_000, 700_000), (700_000, 4_000_000)] {
            let after = self.nemesis.rng.range(from_us..to_us);
            self.plan(after, Event::Deliver(letter.clone()));
        }
    }
}

/// Whether a message between the regions of a merge says that the source is final.
fn is_final(merge: &Bytes) -> bool {
    if merge.is_empty() {
        return false;
    }
    let news = pb::MergeMessage::decode(merge.clone()).ok().and_then(|merge| merge.message);
    matches!(news, Some(MergeNews::Answer(answer)) if !answer.is_void)
}
