//! The state machine: what the log's entries do to keys, values and the list of members.
//!
//! Every peer applies the same entries in the same order, so everything here is a pure function of what was there
//! and the entry. An entry that cannot be read, or a change that cannot be made, changes nothing, on all peers alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use bytes::Bytes;
use flotilla_raft::{ConfChangeKind, Index, PeerId};

use crate::codec::{DecodeError, Reader, put_address, put_bytes, put_u64};

/// Names one request of one life of one peer, so that the peer finds its caller again when the entry is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// Drawn at random when the process started; 0 = nobody waits.
    pub session: u64,
    /// Counts the requests of the session.
    pub sequence: u64,
}

/// What a client may do to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets it.
    Put(Bytes),
    /// Removes it.
    Delete,
}

/// The data of an ordinary entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who waits for it.
    pub request: RequestId,
    /// The key.
    pub key: String,
    /// What happens to it.
    pub operation: Operation,
}

/// Where a peer listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For other peers.
    pub raft: SocketAddr,
    /// For clients.
    pub http: SocketAddr,
}

/// What rides along with a membership change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeContext {
    /// Who waits for it.
    pub request: RequestId,
    /// Where the added peer listens; `None` if that is known already.
    pub addresses: Option<Addresses>,
}

/// Everything that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Position of the last applied entry.
    pub applied: Index,
    /// Keys and values.
    pub values: BTreeMap<String, Bytes>,
    /// Members, voters or not, and where they listen.
    pub members: BTreeMap<PeerId, Addresses>,
    /// Ids that are used up: a peer that was removed may still believe in votes that it once gave.
    pub removed: BTreeSet<PeerId>,
}

impl RequestId {
    /// As bytes, in a fixed length.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        put_request(&mut out, self);
        out
    }

    /// Inverse of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are no such id.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        take_request(&mut Reader(bytes))
    }
}

fn put_request(out: &mut Vec<u8>, request: RequestId) {
    put_u64(out, request.session);
    put_u64(out, request.sequence);
}

fn take_request(reader: &mut Reader) -> Result<RequestId, DecodeError> {
    Ok(RequestId { session: reader.u64()?, sequence: reader.u64()? })
}

fn put_addresses(out: &mut Vec<u8>, addresses: &Addresses) {
    put_address(out, addresses.raft);
    put_address(out, addresses.http);
}

fn take_addresses(reader: &mut Reader) -> Result<Addresses, DecodeError> {
    Ok(Addresses { raft: reader.address()?, http: reader.address()? })
}

impl Command {
    /// As the data of an entry. Never empty: the entry that a new leader appends is.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_request(&mut out, self.request);
        put_bytes(&mut out, self.key.as_bytes());
        match &self.operation {
            Operation::Put(value) => {
                out.push(0);
                put_bytes(&mut out, value);
            }
            Operation::Delete => out.push(1),
        }
        out.into()
    }

    /// Inverse of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are no command.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let (request, key) = (take_request(&mut reader)?, reader.text()?);
        let operation = match reader.u8()? {
            0 => Operation::Put(reader.bytes()?),
            1 => Operation::Delete,
            _ => return Err(DecodeError),
        };
        Ok(Self { request, key, operation })
    }
}

impl ChangeContext {
    /// As the context of a change.
    pub fn encode(&self) -> Bytes {
        let mut out = self.request.encode();
        if let Some(addresses) = &self.addresses {
            put_addresses(&mut out, addresses);
        }
        out.into()
    }

    /// Inverse of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are no context.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let request = take_request(&mut reader)?;
        let addresses = if reader.0.is_empty() { None } else { Some(take_addresses(&mut reader)?) };
        Ok(Self { request, addresses })
    }
}

impl Machine {
    /// Carries out a command.
    pub fn apply(&mut self, command: Command) {
        match command.operation {
            Operation::Put(value) => self.values.insert(command.key, value),
            Operation::Delete => self.values.remove(&command.key),
        };
    }

    /// Follows a membership change that the core has made.
    pub fn apply_change(&mut self, kind: ConfChangeKind, peer: PeerId, addresses: Option<Addresses>) {
        if kind == ConfChangeKind::RemovePeer {
            self.members.remove(&peer);
            self.removed.insert(peer);
        } else if let Some(addresses) = addresses {
            self.members.insert(peer, addresses);
        }
    }

    /// Everything, as the data of a snapshot. (The position is in the snapshot's meta data.)
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_u64(&mut out, self.values.len() as u64);
        for (key, value) in &self.values {
            put_bytes(&mut out, key.as_bytes());
            put_bytes(&mut out, value);
        }
        put_u64(&mut out, self.members.len() as u64);
        for (peer, addresses) in &self.members {
            put_u64(&mut out, peer.0);
            put_addresses(&mut out, addresses);
        }
        put_u64(&mut out, self.removed.len() as u64);
        self.removed.iter().for_each(|peer| put_u64(&mut out, peer.0));
        out.into()
    }

    /// Inverse of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are no state.
    pub fn decode(applied: Index, bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        // Values are copied: shared ones would keep the whole snapshot in memory.
        let value = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
        let values = reader.list(|reader| Ok((reader.text()?, value(reader.bytes()?))))?;
        let members = reader.list(|reader| Ok((reader.peer()?, take_addresses(reader)?)))?;
        let removed = reader.list(Reader::peer)?;
        Ok(Self {
            applied,
            values: values.into_iter().collect(),
            members: members.into_iter().collect(),
            removed: removed.into_iter().collect(),
        })
    }
}
