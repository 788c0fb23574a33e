//! Bytes of what leaves the process: messages for other peers, records for the disk.
//!
//! Numbers are little endian; bytes and lists follow their length. Reading never panics, whatever the bytes are, and
//! copies no payload.

use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use flotilla_raft::{
    ConfState, Entry, EntryKind, Extra, HardState, Index, Message, MessageKind, PeerId, Snapshot,
    SnapshotMeta, Term,
};

/// The bytes end early, or hold what this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes that cannot be decoded")]
pub struct DecodeError;

/// Bytes to be read.
#[derive(Debug)]
pub struct Reader(pub Bytes);

/// Appends a number.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends an address.
pub fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    put_bytes(out, address.to_string().as_bytes());
}

/// Appends a hard state.
pub fn put_hard_state(out: &mut Vec<u8>, HardState { term, vote, commit }: HardState) {
    for number in [term.0, vote.0, commit.0] {
        put_u64(out, number);
    }
}

/// Appends a list of entries.
pub fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    put_u64(out, entries.len() as u64);
    for entry in entries {
        let kind = match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
            EntryKind::ConfChangeV2 => 2,
        };
        out.push(kind);
        put_u64(out, entry.term.0);
        put_u64(out, entry.index.0);
        put_bytes(out, &entry.data);
    }
}

/// Appends a snapshot.
pub fn put_snapshot(out: &mut Vec<u8>, snapshot: &Snapshot) {
    put_u64(out, snapshot.meta.index.0);
    put_u64(out, snapshot.meta.term.0);
    let conf_state = &snapshot.meta.conf_state;
    let lists =
        [&conf_state.voters, &conf_state.voters_outgoing, &conf_state.learners, &conf_state.learners_next];
    for list in lists {
        put_u64(out, list.len() as u64);
        list.iter().for_each(|peer| put_u64(out, peer.0));
    }
    out.push(conf_state.auto_leave.into());
    put_bytes(out, &snapshot.data);
}

/// A message as it travels.
pub fn encode_message(message: &Message) -> Vec<u8> {
    let mut out = vec![message.kind as u8, message.reject.into()];
    let extra = message.extra();
    let numbers = [
        message.to.0,
        message.from.0,
        message.term.0,
        message.log_term.0,
        message.index.0,
        message.commit.0,
        extra.reject_hint.0,
        extra.priority as u64,
        extra.request_snapshot.0,
        extra.commit_term.0,
    ];
    numbers.into_iter().for_each(|number| put_u64(&mut out, number));
    put_bytes(&mut out, &message.context);
    put_entries(&mut out, &message.entries);
    out.push(message.snapshot.is_some().into());
    if let Some(snapshot) = &message.snapshot {
        put_snapshot(&mut out, snapshot);
    }
    out
}

/// Inverse of [`encode_message`].
///
/// # Errors
/// The bytes are no message.
pub fn decode_message(bytes: Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader(bytes);
    let tag = reader.u8()?;
    let kind = MessageKind::BETWEEN_PEERS.into_iter().find(|kind| *kind as u8 == tag).ok_or(DecodeError)?;
    Ok(Message {
        kind,
        reject: reader.bool()?,
        to: reader.peer()?,
        from: reader.peer()?,
        term: reader.term()?,
        log_term: reader.term()?,
        index: reader.index()?,
        commit: reader.index()?,
        extra: Extra {
            reject_hint: reader.index()?,
            priority: reader.u64()? as i64,
            request_snapshot: reader.index()?,
            commit_term: reader.term()?,
            ..Extra::default()
        }
        .boxed(),
        context: reader.bytes()?,
        entries: reader.entries()?,
        snapshot: if reader.bool()? { Some(Box::new(reader.snapshot()?)) } else { None },
    })
}

impl Reader {
    /// A byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| DecodeError)
    }

    /// A truth value.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError),
        }
    }

    /// A number.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.0.try_get_u64_le().map_err(|_| DecodeError)
    }

    /// A peer.
    pub fn peer(&mut self) -> Result<PeerId, DecodeError> {
        self.u64().map(PeerId)
    }

    /// A term.
    pub fn term(&mut self) -> Result<Term, DecodeError> {
        self.u64().map(Term)
    }

    /// A position.
    pub fn index(&mut self) -> Result<Index, DecodeError> {
        self.u64().map(Index)
    }

    /// Bytes, shared with the whole.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::try_from(self.u64()?).map_err(|_| DecodeError)?;
        if length > self.0.len() {
            return Err(DecodeError);
        }
        Ok(self.0.split_to(length))
    }

    /// Text.
    pub fn text(&mut self) -> Result<String, DecodeError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| DecodeError)
    }

    /// An address.
    pub fn address(&mut self) -> Result<SocketAddr, DecodeError> {
        self.text()?.parse().map_err(|_| DecodeError)
    }

    /// A list, each item read by `item`.
    pub fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u64()?;
        // No room is made for more than there is: the count may be forged.
        (0..count).map(|_| item(self)).collect()
    }

    /// A hard state.
    pub fn hard_state(&mut self) -> Result<HardState, DecodeError> {
        Ok(HardState { term: self.term()?, vote: self.peer()?, commit: self.index()? })
    }

    /// A list of entries.
    pub fn entries(&mut self) -> Result<Vec<Entry>, DecodeError> {
        self.list(|reader| {
            let kind = match reader.u8()? {
                0 => EntryKind::Normal,
                1 => EntryKind::ConfChange,
                2 => EntryKind::ConfChangeV2,
                _ => return Err(DecodeError),
            };
            Ok(Entry { kind, term: reader.term()?, index: reader.index()?, data: reader.bytes()? })
        })
    }

    /// A snapshot.
    pub fn snapshot(&mut self) -> Result<Snapshot, DecodeError> {
        let (index, term) = (self.index()?, self.term()?);
        let conf_state = ConfState {
            voters: self.list(Self::peer)?,
            voters_outgoing: self.list(Self::peer)?,
            learners: self.list(Self::peer)?,
            learners_next: self.list(Self::peer)?,
            auto_leave: self.bool()?,
        };
        Ok(Snapshot { meta: SnapshotMeta { index, term, conf_state }, data: self.bytes()? })
    }
}
