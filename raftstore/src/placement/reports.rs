//! What this store tells the others about the regions it leads: deltas, acknowledged per receiver.

use std::collections::BTreeMap;

use crate::wire::pb;
use flotilla_placement::{Rates, RegionInfo};
use flotilla_region::{DenseMap, RegionId, StoreId};

use super::driver::report_of;
use super::{LedRegion, RegionSize};
use crate::time::Time;

/// Unacknowledged changes are sent again after so long.
const RESEND_MS: u64 = 1_000;

/// Parts in which everything is told again, one after the other.
const REFRESH_PARTS: u64 = 16;

/// Changes in the order of their sequence numbers, compacted to the last one of each region.
pub(super) struct Reports {
    boot_id: u64,
    sequence: u64,
    led: DenseMap<RegionId, (u64, RegionInfo)>,
    dropped: BTreeMap<RegionId, u64>,
    receivers: BTreeMap<StoreId, Receiver>,
    /// Up to where regions were told again, and when.
    refreshed: (RegionId, Time),
}

#[derive(Default)]
struct Receiver {
    acked: u64,
    sent: u64,
    sent_at: Time,
}

impl Reports {
    pub(super) fn new(boot_id: u64) -> Self {
        Self {
            boot_id,
            sequence: 0,
            led: DenseMap::new(),
            dropped: BTreeMap::new(),
            receivers: BTreeMap::new(),
            refreshed: (RegionId(0), Time::default()),
        }
    }

    /// Makes news of a part of the regions every now and then, so that all have been told again after `interval_ms`,
    /// whatever a receiver may have lost. 0 = never.
    pub(super) fn refresh(&mut self, interval_ms: u64, now: Time) {
        let (cursor, at) = self.refreshed;
        if at == Time::default() {
            self.refreshed.1 = now;
            return;
        }
        if interval_ms == 0 || now.ms_since(at) < interval_ms / REFRESH_PARTS {
            return;
        }
        let count = self.led.len().div_ceil(REFRESH_PARTS as usize);
        let after: Vec<RegionId> =
            self.led.range(RegionId(cursor.0 + 1)..).map(|(id, _)| *id).take(count).collect();
        // After the last one it begins anew, a part later.
        self.refreshed = (after.last().copied().filter(|_| after.len() == count).unwrap_or_default(), now);
        if after.is_empty() {
            return;
        }
        self.sequence += 1;
        for id in after {
            self.led.get_mut(&id).expect("listed just now").0 = self.sequence;
        }
    }

    /// Takes what a raft worker says of a led region. Returns what is known of it.
    pub(super) fn led(&mut self, led: &LedRegion) -> RegionInfo {
        self.sequence += 1;
        let id = led.region.id;
        self.dropped.remove(&id);
        // A size is one of a range.
        let is_same = |known: &&RegionInfo| known.region.epoch.version == led.region.epoch.version;
        let known = self.led.get(&id).map(|(_, known)| known).filter(is_same).cloned().unwrap_or_default();
        let info = RegionInfo {
            region: led.region.clone(),
            leader: Some(led.leader.id),
            term: led.term,
            pending: led.pending.iter().copied().collect(),
            down: led.down.iter().map(|(peer, seconds)| (*peer, seconds * 1_000)).collect(),
            ready: true,
            ..known
        };
        self.led.insert(id, (self.sequence, info.clone()));
        info
    }

    /// A region is led here no more. Returns whether it was.
    pub(super) fn not_led(&mut self, id: RegionId) -> bool {
        let was = self.led.remove(&id).is_some();
        if was {
            self.sequence += 1;
            self.dropped.insert(id, self.sequence);
        }
        was
    }

    /// Takes sizes over; a change of bytes by an eighth is worth telling.
    pub(super) fn sizes(&mut self, sizes: &[RegionSize]) -> Vec<RegionInfo> {
        let mut changed = Vec::new();
        for RegionSize { region, version: measured, size, is_hot } in sizes {
            let Some((version, info)) = self.led.get_mut(region) else { continue };
            if info.region.epoch.version != *measured {
                continue;
            }
            let has_grown = info.bytes.abs_diff(size.bytes) > info.bytes / 8;
            if has_grown || info.is_hot != *is_hot {
                (info.bytes, info.keys) = (size.bytes, size.keys);
                info.is_hot = *is_hot;
                self.sequence += 1;
                *version = self.sequence;
                changed.push(info.clone());
            }
        }
        changed
    }

    /// Takes over what clients do to regions, of those led here, if it gives another picture than what was told.
    pub(super) fn rates(&mut self, rates: &[(RegionId, Rates)]) -> Vec<RegionInfo> {
        let mut changed = Vec::new();
        for (region, now) in rates {
            let Some((version, info)) = self.led.get_mut(region) else { continue };
            if now.differ_from(&info.rates) {
                info.rates = *now;
                self.sequence += 1;
                *version = self.sequence;
                changed.push(info.clone());
            }
        }
        changed
    }

    /// Takes a number of keys over.
    pub(super) fn keys(&mut self, id: RegionId, keys: u64) -> Option<RegionInfo> {
        let (version, info) = self.led.get_mut(&id)?;
        if info.keys == keys {
            return None;
        }
        info.keys = keys;
        self.sequence += 1;
        *version = self.sequence;
        Some(info.clone())
    }

    /// Number of regions led here.
    pub(super) fn led_count(&self) -> usize {
        self.led.len()
    }

    /// All led regions.
    pub(super) fn all(&self) -> impl Iterator<Item = &RegionInfo> {
        self.led.values().map(|(_, info)| info)
    }

    /// What `to` has to be told now, if anything.
    pub(super) fn next_for(&mut self, to: StoreId, now: Time) -> Option<pb::RegionReports> {
        let receiver = self.receivers.entry(to).or_default();
        let news = receiver.sent < self.sequence;
        let lost = receiver.acked < self.sequence && now.ms_since(receiver.sent_at) >= RESEND_MS;
        let first = receiver.sent_at == Time::default();
        if !news && !lost && !first {
            return None;
        }
        receiver.sent = self.sequence;
        receiver.sent_at = now;
        let since = receiver.acked;
        let newer = |version: &u64| *version > since;
        Some(pb::RegionReports {
            boot_id: self.boot_id,
            since,
            sequence: self.sequence,
            regions: self.led.values().filter(|(v, _)| newer(v)).map(|(_, info)| report_of(info)).collect(),
            dropped: self.dropped.iter().filter(|(_, v)| newer(v)).map(|(id, _)| id.0).collect(),
        })
    }

    /// `from` has everything up to `sequence`; 0 asks for everything again.
    pub(super) fn on_ack(&mut self, from: StoreId, boot_id: u64, sequence: u64) {
        if boot_id != 0 && boot_id != self.boot_id {
            return;
        }
        let receiver = self.receivers.entry(from).or_default();
        if sequence == 0 {
            *receiver = Receiver::default();
        } else {
            receiver.acked = receiver.acked.max(sequence.min(self.sequence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_engine::Size;
    use flotilla_region::Region;
    use std::sync::Arc;

    fn led(id: u64) -> LedRegion {
        let region = Arc::new(Region { id: RegionId(id), ..Region::default() });
        let (leader, term) = Default::default();
        LedRegion { region, leader, term, pending: Vec::new(), down: Vec::new() }
    }

    #[test]
    fn a_size_belongs_to_a_range_and_is_told_when_it_has_changed() {
        let mut reports = Reports::new(9);
        let size = |bytes| {
            let size = Size { bytes, keys: bytes / 10 };
            RegionSize { region: RegionId(1), version: 0, size, is_hot: false }
        };
        assert_eq!(reports.sizes(&[size(80)]), [], "not led here");
        reports.led(&led(1));
        let told = reports.sizes(&[size(80)]);
        assert_eq!((told[0].bytes, told[0].keys), (80, 8));
        assert_eq!(reports.sizes(&[size(88)]), [], "an eighth more");
        assert!(reports.sizes(&[RegionSize { is_hot: true, ..size(88) }])[0].is_hot);
        assert_eq!(reports.sizes(&[RegionSize { version: 1, ..size(500) }]), [], "of another range");
        let mut wider = led(1);
        Arc::make_mut(&mut wider.region).epoch.version = 1;
        assert_eq!(reports.led(&wider).bytes, 0, "not measured yet");
        assert_eq!(reports.sizes(&[RegionSize { version: 1, ..size(500) }])[0].bytes, 500);
    }

    #[test]
    fn rates_are_told_when_they_change_much_and_belong_to_a_range() {
        let mut reports = Reports::new(9);
        let rates = |reads| [(RegionId(1), Rates { reads, ..Rates::default() })];
        assert_eq!(reports.rates(&rates(500)), [], "not led here");
        reports.led(&led(1));
        assert_eq!(reports.rates(&rates(0)), [], "a region without load has nothing to tell");
        assert_eq!(reports.rates(&rates(500))[0].rates.reads, 500);
        let told = reports.sequence;
        for reads in [500, 400, 600] {
            assert_eq!(reports.rates(&rates(reads)), []);
        }
        assert_eq!(reports.sequence, told, "nothing is sent");
        assert_eq!(reports.led(&led(1)).rates.reads, 500, "kept with the range");
        assert_eq!(reports.rates(&rates(0))[0].rates.reads, 0);
        reports.rates(&rates(90));
        let mut wider = led(1);
        Arc::make_mut(&mut wider.region).epoch.version = 1;
        assert_eq!(reports.led(&wider).rates.reads, 0);
    }

    #[test]
    fn everything_is_told_again_in_parts() {
        let mut reports = Reports::new(9);
        (1..=40).for_each(|id| _ = reports.led(&led(id)));
        let (to, mut now) = (StoreId(2), Time(1));
        let mut told = Vec::new();
        for _ in 0..200 {
            reports.refresh(16_000, now);
            if let Some(news) = reports.next_for(to, now) {
                reports.on_ack(to, 9, news.sequence);
                told.push(
                    news.regions.iter().filter_map(|r| Some(r.region.as_ref()?.id)).collect::<Vec<_>>(),
                );
            }
            now = now.plus_ms(100);
        }
        assert_eq!((told[0].len(), told[1].clone(), told[2].clone()), (40, vec![1, 2, 3], vec![4, 5, 6]));
        let again: Vec<u64> = told[1..].concat();
        assert!((1..=40).all(|id| again.contains(&id)), "{again:?}");
        assert!(told[1..].iter().all(|part| part.len() <= 3));
        reports.refresh(0, now.plus_ms(1_000_000));
        assert!(reports.next_for(to, now.plus_ms(1_000_000)).is_none(), "never");
    }

    #[test]
    fn deltas_are_repeated_until_acknowledged_and_a_zero_asks_for_all() {
        let mut reports = Reports::new(9);
        let (to, t) = (StoreId(2), Time(1));
        reports.led(&led(1));
        let first = reports.next_for(to, t).expect("news");
        assert_eq!((first.since, first.sequence, first.regions.len()), (0, 1, 1));
        assert!(reports.next_for(to, t.plus_ms(10)).is_none(), "nothing new");
        assert!(reports.next_for(to, t.plus_ms(RESEND_MS)).is_some(), "not acknowledged: lost");
        reports.on_ack(to, 9, 1);
        reports.led(&led(2));
        reports.not_led(RegionId(1));
        let second = reports.next_for(to, t.plus_ms(2_000)).expect("news");
        assert_eq!((second.since, second.regions.len(), second.dropped), (1, 1, vec![1]));
        reports.on_ack(to, 9, second.sequence);
        assert!(reports.next_for(to, t.plus_ms(9_000)).is_none());
        reports.on_ack(to, 9, 0);
        assert_eq!(reports.next_for(to, t.plus_ms(9_001)).expect("everything").since, 0);
    }
}
