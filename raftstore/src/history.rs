//! A region's splits and merges, as every replica of it remembers them.
//!
//! A record in `data` beside the descriptor, changed in the batch that applies the split or merge and carried by
//! snapshots: so it is the same on all replicas, whoever leads, and survives what the descriptor survives. Times are
//! those of the entries' proposers. Nothing depends on it: what cannot be read counts as empty.
//!
//! ```text
//! format u8 = 1 | { kind u8 | time ms u64 | conf_ver u64 | version u64 | n u32 | region u64 * n | n u32 | key * n } ...
//! ```

use bytes::Bytes;
use flotilla_engine::Error;
use flotilla_region::{Region, RegionEpoch, RegionId};

use crate::codec::{get_bytes, get_u8, get_u32, get_u64, put_bytes, put_u64};

const FORMAT: u8 = 1;
/// Events that are remembered of a region; the oldest go first.
const EVENTS_MAX: usize = 32;
/// Bytes that a record may have; the newest event stays whatever it takes.
const BYTES_MAX: usize = 32 << 10;

/// What happened to a region's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Parts of it became regions of their own.
    Split,
    /// It came to be as a part of another region.
    SplitFrom,
    /// A neighbour became part of it.
    Merged,
}

/// A split or a merge in the life of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionEvent {
    /// What.
    pub kind: EventKind,
    /// The parts, the whole, or the neighbour.
    pub regions: Vec<RegionId>,
    /// Where the region was cut; otherwise, where the part or the neighbour began and ended.
    pub keys: Vec<Bytes>,
    /// The region's epoch afterwards.
    pub epoch: RegionEpoch,
    /// Wall clock of the leader that proposed it, ms since the Unix epoch; 0 = not known.
    pub time_ms: u64,
}

impl RegionEvent {
    /// `region` remains of what was cut; `parts` became regions of their own.
    pub(crate) fn split(region: &Region, parts: &[Region], time_ms: u64) -> Self {
        Self {
            kind: EventKind::Split,
            regions: parts.iter().map(|part| part.id).collect(),
            keys: parts.iter().map(|part| part.range.end.clone()).collect(),
            epoch: region.epoch,
            time_ms,
        }
    }

    /// `part` was cut off `whole`.
    pub(crate) fn split_from(part: &Region, whole: RegionId, time_ms: u64) -> Self {
        let keys = vec![part.range.start.clone(), part.range.end.clone()];
        Self { kind: EventKind::SplitFrom, regions: vec![whole], keys, epoch: part.epoch, time_ms }
    }

    /// `source` became part of `region`.
    pub(crate) fn merged(region: &Region, source: &Region, time_ms: u64) -> Self {
        let keys = vec![source.range.start.clone(), source.range.end.clone()];
        Self { kind: EventKind::Merged, regions: vec![source.id], keys, epoch: region.epoch, time_ms }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            EventKind::Split => 1,
            EventKind::SplitFrom => 2,
            EventKind::Merged => 3,
        });
        put_u64(out, self.time_ms);
        put_u64(out, self.epoch.conf_ver);
        put_u64(out, self.epoch.version);
        out.extend_from_slice(&(self.regions.len() as u32).to_le_bytes());
        self.regions.iter().for_each(|id| put_u64(out, id.0));
        out.extend_from_slice(&(self.keys.len() as u32).to_le_bytes());
        self.keys.iter().for_each(|key| put_bytes(out, key));
    }

    fn decode(data: &mut Bytes) -> Option<Self> {
        let kind = match get_u8(data)? {
            1 => EventKind::Split,
            2 => EventKind::SplitFrom,
            3 => EventKind::Merged,
            _ => return None,
        };
        let time_ms = get_u64(data)?;
        let epoch = RegionEpoch { conf_ver: get_u64(data)?, version: get_u64(data)? };
        let regions = (0..get_u32(data)?).map(|_| get_u64(data).map(RegionId)).collect::<Option<_>>()?;
        let keys = (0..get_u32(data)?).map(|_| get_bytes(data)).collect::<Option<_>>()?;
        Some(Self { kind, regions, keys, epoch, time_ms })
    }
}

/// The record with one event more.
///
/// # Errors
/// The disk failed. A damaged record is begun anew.
pub(crate) fn with_event(
    stored: Result<Option<Bytes>, Error>,
    event: &RegionEvent,
) -> Result<Vec<u8>, Error> {
    let mut encoded: Vec<Vec<u8>> = read(stored)?.iter().map(encode).collect();
    encoded.push(encode(event));
    let mut first = encoded.len().saturating_sub(EVENTS_MAX);
    while first + 1 < encoded.len() && encoded[first..].iter().map(Vec::len).sum::<usize>() > BYTES_MAX {
        first += 1;
    }
    Ok([&[FORMAT][..], &encoded[first..].concat()].concat())
}

/// The events of a record, oldest first.
///
/// # Errors
/// The disk failed. A damaged record counts as empty.
pub(crate) fn read(stored: Result<Option<Bytes>, Error>) -> Result<Vec<RegionEvent>, Error> {
    match stored {
        Ok(record) => Ok(record.map(decode).unwrap_or_default()),
        Err(Error::Corruption(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn encode(event: &RegionEvent) -> Vec<u8> {
    let mut out = Vec::new();
    event.encode(&mut out);
    out
}

fn decode(mut record: Bytes) -> Vec<RegionEvent> {
    let mut events = Vec::new();
    if get_u8(&mut record) == Some(FORMAT) {
        while let Some(event) = RegionEvent::decode(&mut record) {
            events.push(event);
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_region::KeyRange;

    fn region(id: u64, version: u64, key_bytes: usize) -> Region {
        let range = KeyRange { start: vec![b'a'; key_bytes].into(), end: vec![b'b'; key_bytes].into() };
        let epoch = RegionEpoch { conf_ver: 1, version };
        Region { id: RegionId(id), range, epoch, ..Region::default() }
    }

    fn grow(events: impl IntoIterator<Item = RegionEvent>) -> Vec<RegionEvent> {
        let mut record = None;
        for event in events {
            record = Some(Bytes::from(with_event(Ok(record), &event).expect("no disk")));
        }
        read(Ok(record)).expect("no disk")
    }

    #[test]
    fn events_come_back_in_order() {
        let (whole, part) = (region(1, 5, 3), region(2, 5, 3));
        let events = [
            RegionEvent::split_from(&whole, RegionId(9), 0),
            RegionEvent::split(&whole, &[part.clone(), region(3, 5, 2)], 77),
            RegionEvent::merged(&whole, &part, 78),
        ];
        assert_eq!(grow(events.clone()), events);
        assert_eq!(events[1].regions, [RegionId(2), RegionId(3)]);
        assert_eq!(events[2].keys, ["aaa", "bbb"]);
    }

    #[test]
    fn the_oldest_go_and_the_newest_stays() {
        let events = (0..100).map(|n| RegionEvent::merged(&region(1, n, 3), &region(2, n, 3), n));
        let kept = grow(events);
        assert_eq!((kept.len(), kept[0].time_ms, kept[EVENTS_MAX - 1].time_ms), (EVENTS_MAX, 68, 99));
        let long = (0..9).map(|n| RegionEvent::merged(&region(1, n, 3), &region(2, n, 8 << 10), n));
        assert_eq!(grow(long).len(), 1, "two of them are more than a record may have");
        let huge = RegionEvent::merged(&region(1, 9, 3), &region(2, 9, 100 << 10), 9);
        assert_eq!(grow([huge.clone()]), [huge]);
    }

    #[test]
    fn what_cannot_be_read_counts_as_empty_and_is_begun_anew() {
        let event = RegionEvent::merged(&region(1, 9, 3), &region(2, 9, 3), 9);
        for bad in [
            Ok(Some(Bytes::from_static(b"\x07nonsense"))),
            Ok(Some(Bytes::new())),
            Err(Error::Corruption("rot".into())),
        ] {
            let record = with_event(bad, &event).expect("no disk");
            assert_eq!(read(Ok(Some(record.into()))).expect("no disk"), std::slice::from_ref(&event));
        }
    }
}
