//! What stores do to the world during a turn: collected here, carried out by the event loop afterwards.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flotilla_proto::flotilla as pb;
use flotilla_raftstore::{PeerStatus, ReadGrant, RequestError, StreamId};
use flotilla_region::{Region, StoreId};

/// Names a client's attempt, or an administrative command under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// One life of a store's process; a restart begins the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life(pub u64);

/// How a call ended.
pub enum Answer {
    /// A write's reply.
    Written(Result<Bytes, RequestError>),
    /// Permission to read.
    Granted(Result<ReadGrant, RequestError>),
    /// An administrative command's outcome.
    Administered(Result<Vec<Region>, RequestError>),
    /// The callback was dropped without a call.
    Dropped,
}

/// Something that a store did.
pub enum Effect {
    /// Sent a frame.
    Frame {
        /// Receiver.
        to: StoreId,
        /// Encoded frame.
        bytes: Vec<u8>,
    },
    /// Opened a snapshot stream and sent its header.
    StreamOpen {
        /// The sender's name of it.
        stream: StreamId,
        /// Receiver.
        to: StoreId,
        /// Encoded header chunk.
        bytes: Vec<u8>,
    },
    /// Sent a part of a snapshot stream.
    StreamSend {
        /// The sender's name of it.
        stream: StreamId,
        /// Encoded chunk.
        bytes: Vec<u8>,
    },
    /// Closed an own snapshot stream.
    StreamClose {
        /// The sender's name of it.
        stream: StreamId,
    },
    /// Answered on another store's stream.
    StreamReply {
        /// The network's name of it.
        connection: u64,
        /// Encoded reply.
        bytes: Vec<u8>,
    },
    /// Ended a call.
    Ended {
        /// Which.
        call: CallId,
        /// How.
        answer: Answer,
    },
    /// Answered a machine that wants to join.
    Joined {
        /// The machine.
        machine: u64,
        /// Where it said that it listens.
        address: String,
        /// The answer.
        reply: pb::JoinReply,
    },
    /// Told the state of its peers.
    Statuses(Vec<PeerStatus>),
    /// Met an error that ends the store.
    Fatal(String),
}

/// An effect, and who had it.
pub struct Cause {
    /// Store.
    pub store: StoreId,
    /// Its life.
    pub life: Life,
    /// The effect.
    pub effect: Effect,
}

/// Where stores leave their effects. Clones share the list.
#[derive(Clone, Default)]
pub struct Effects(Arc<Mutex<Vec<Cause>>>);

impl Effects {
    /// Adds an effect.
    pub fn push(&self, store: StoreId, life: Life, effect: Effect) {
        self.0.lock().expect("one thread").push(Cause { store, life, effect });
    }

    /// Takes everything, oldest first.
    pub fn take(&self) -> Vec<Cause> {
        std::mem::take(&mut *self.0.lock().expect("one thread"))
    }
}

/// Calls back exactly once: with an answer, or, if a store drops the callback, with [`Answer::Dropped`].
pub struct Callback {
    effects: Effects,
    store: StoreId,
    life: Life,
    call: CallId,
    open: bool,
}

impl Callback {
    /// A callback for `call`, given to `store`.
    pub fn new(effects: &Effects, store: StoreId, life: Life, call: CallId) -> Self {
        Self { effects: effects.clone(), store, life, call, open: true }
    }

    /// Answers.
    pub fn answer(mut self, answer: Answer) {
        self.open = false;
        self.effects.push(self.store, self.life, Effect::Ended { call: self.call, answer });
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if self.open {
            let dropped = Effect::Ended { call: self.call, answer: Answer::Dropped };
            self.effects.push(self.store, self.life, dropped);
        }
    }
}
