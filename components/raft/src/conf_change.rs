//! Membership changes as they are proposed, logged and applied.
//!
//! Encoding, versioned by its first byte: version 1 is `[1, kind, id, context..]`, version 2 is
//! `[2, transition, count, (kind, id)*, context..]`; ids and counts are LEB128. The request to leave a joint
//! configuration (a default [`ConfChangeV2`]) encodes to nothing, so that no size limit can refuse it.

use bytes::Bytes;

use crate::{error::DecodeError, types::PeerId};

/// What happens to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConfChangeKind {
    /// Becomes a voter.
    #[default]
    AddVoter,
    /// Leaves the group.
    RemovePeer,
    /// Becomes a learner; a voter is demoted.
    AddLearner,
    /// Nothing changes in the core; the application may update what it knows about the peer.
    Update,
}

impl ConfChangeKind {
    const fn tag(self) -> u8 {
        match self {
            Self::AddVoter => 0,
            Self::RemovePeer => 1,
            Self::AddLearner => 2,
            Self::Update => 3,
        }
    }

    const fn from_tag(tag: u8) -> Result<Self, DecodeError> {
        Ok(match tag {
            0 => Self::AddVoter,
            1 => Self::RemovePeer,
            2 => Self::AddLearner,
            3 => Self::Update,
            _ => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}

/// One change of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfChangeSingle {
    /// What happens.
    pub kind: ConfChangeKind,
    /// To whom.
    pub peer: PeerId,
}

/// How a change with several steps is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConfChangeTransition {
    /// A simple change if one step suffices, else joint and left by the core.
    #[default]
    Auto,
    /// Joint, and left by the core as soon as it is applied.
    JointImplicit,
    /// Joint until a change without steps is proposed.
    JointExplicit,
}

impl ConfChangeTransition {
    const fn tag(self) -> u8 {
        match self {
            Self::Auto => 0,
            Self::JointImplicit => 1,
            Self::JointExplicit => 2,
        }
    }

    const fn from_tag(tag: u8) -> Result<Self, DecodeError> {
        Ok(match tag {
            0 => Self::Auto,
            1 => Self::JointImplicit,
            2 => Self::JointExplicit,
            _ => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}

/// A change of a single peer, never joint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    /// What happens.
    pub kind: ConfChangeKind,
    /// To whom.
    pub peer: PeerId,
    /// Opaque bytes for the application.
    pub context: Bytes,
}

/// Any number of changes at once, joint where needed. Without changes: leave the joint configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeV2 {
    /// How the change is carried out.
    pub transition: ConfChangeTransition,
    /// The steps, applied in order.
    pub changes: Vec<ConfChangeSingle>,
    /// Opaque bytes for the application.
    pub context: Bytes,
}

const VERSION_SINGLE: u8 = 1;
const VERSION_MULTI: u8 = 2;

impl ConfChange {
    /// Bytes to be logged.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION_SINGLE, self.kind.tag()];
        put_varint(&mut out, self.peer.0);
        out.extend_from_slice(&self.context);
        out.into()
    }

    /// Inverse of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are not such a change; a peer must refuse to apply it.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut rest = data;
        match take_byte(&mut rest)? {
            VERSION_SINGLE => {}
            version => return Err(DecodeError::UnknownVersion(version)),
        }
        let kind = ConfChangeKind::from_tag(take_byte(&mut rest)?)?;
        let peer = PeerId(take_varint(&mut rest)?);
        Ok(Self { kind, peer, context: Bytes::copy_from_slice(rest) })
    }

    /// The same change in the general form.
    pub fn into_v2(self) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto,
            changes: vec![ConfChangeSingle { kind: self.kind, peer: self.peer }],
            context: self.context,
        }
    }
}

impl ConfChangeV2 {
    /// Bytes to be logged.
    pub fn encode(&self) -> Bytes {
        if *self == Self::default() {
            return Bytes::new();
        }
        let mut out = vec![VERSION_MULTI, self.transition.tag()];
        put_varint(&mut out, self.changes.len() as u64);
        for change in &self.changes {
            out.push(change.kind.tag());
            put_varint(&mut out, change.peer.0);
        }
        out.extend_from_slice(&self.context);
        out.into()
    }

    /// Inverse of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are not such a change; a peer must refuse to apply it.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        if data.is_empty() {
            return Ok(Self::default());
        }
        let mut rest = data;
        match take_byte(&mut rest)? {
            VERSION_MULTI => {}
            version => return Err(DecodeError::UnknownVersion(version)),
        }
        let transition = ConfChangeTransition::from_tag(take_byte(&mut rest)?)?;
        let count = take_varint(&mut rest)?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let kind = ConfChangeKind::from_tag(take_byte(&mut rest)?)?;
            changes.push(ConfChangeSingle { kind, peer: PeerId(take_varint(&mut rest)?) });
        }
        Ok(Self { transition, changes, context: Bytes::copy_from_slice(rest) })
    }

    /// Whether this change needs a joint configuration, and if so, whether the core leaves it by itself.
    pub fn enters_joint(&self) -> Option<bool> {
        let is_joint = self.transition != ConfChangeTransition::Auto || self.changes.len() > 1;
        is_joint.then_some(self.transition != ConfChangeTransition::JointExplicit)
    }

    /// Whether this asks to leave a joint configuration.
    pub fn leaves_joint(&self) -> bool {
        self.transition == ConfChangeTransition::Auto && self.changes.is_empty()
    }
}

/// Either form, for [`crate::RawNode::propose_conf_change`]; the form decides the kind of the log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfChangeProposal {
    /// Logged as [`crate::EntryKind::ConfChange`].
    Single(ConfChange),
    /// Logged as [`crate::EntryKind::ConfChangeV2`].
    Multi(ConfChangeV2),
}

impl From<ConfChange> for ConfChangeProposal {
    fn from(change: ConfChange) -> Self {
        Self::Single(change)
    }
}

impl From<ConfChangeV2> for ConfChangeProposal {
    fn from(change: ConfChangeV2) -> Self {
        Self::Multi(change)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, DecodeError> {
    let (first, tail) = rest.split_first().ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok(*first)
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(DecodeError::UnknownTag(byte));
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(DecodeError::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = ConfChangeKind> {
        (0u8..4).prop_map(|tag| ConfChangeKind::from_tag(tag).expect("tag in range"))
    }

    proptest! {
        #[test]
        fn both_forms_survive_encoding(
            kinds in prop::collection::vec((kind(), any::<u64>()), 0..6),
            transition in 0u8..3,
            context in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let context = Bytes::from(context);
            let changes: Vec<_> =
                kinds.iter().map(|&(kind, id)| ConfChangeSingle { kind, peer: PeerId(id) }).collect();
            if let Some(first) = changes.first() {
                let single = ConfChange { kind: first.kind, peer: first.peer, context: context.clone() };
                prop_assert_eq!(ConfChange::decode(&single.encode()), Ok(single));
            }
            let transition = ConfChangeTransition::from_tag(transition).expect("tag in range");
            let multi = ConfChangeV2 { transition, changes, context };
            prop_assert_eq!(ConfChangeV2::decode(&multi.encode()), Ok(multi));
        }

        #[test]
        fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = ConfChange::decode(&data);
            let _ = ConfChangeV2::decode(&data);
        }
    }

    #[test]
    fn every_prefix_of_a_change_is_refused() {
        let change =
            ConfChange { kind: ConfChangeKind::AddLearner, peer: PeerId(1 << 40), context: Bytes::new() };
        let data = change.encode();
        for len in 0..data.len() {
            assert_eq!(ConfChange::decode(&data[..len]), Err(DecodeError::Truncated), "prefix of {len}");
        }
        assert_eq!(ConfChange::decode(&[9]), Err(DecodeError::UnknownVersion(9)));
        assert_eq!(ConfChange::decode(&[1, 9]), Err(DecodeError::UnknownTag(9)));
        assert_eq!(ConfChangeV2::decode(&[2, 3]), Err(DecodeError::UnknownTag(3)));
        let overlong = [1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(ConfChange::decode(&overlong).is_err(), "an id of more than 64 bits");
    }

    #[test]
    fn joint_use_follows_transition_and_number_of_changes() {
        let one = vec![ConfChangeSingle::default()];
        let two = vec![ConfChangeSingle::default(); 2];
        let change = |transition, changes: &Vec<_>| ConfChangeV2 {
            transition,
            changes: changes.clone(),
            ..ConfChangeV2::default()
        };
        use ConfChangeTransition::{Auto, JointExplicit, JointImplicit};
        assert_eq!(change(Auto, &one).enters_joint(), None);
        assert_eq!(change(Auto, &two).enters_joint(), Some(true));
        assert_eq!(change(JointImplicit, &one).enters_joint(), Some(true));
        assert_eq!(change(JointExplicit, &one).enters_joint(), Some(false));
        assert!(change(Auto, &vec![]).leaves_joint());
        assert!(!change(JointExplicit, &vec![]).leaves_joint());
        assert!(!change(Auto, &one).leaves_joint());
        let with_context = ConfChangeV2 { context: Bytes::from_static(b"x"), ..ConfChangeV2::default() };
        assert!(with_context.leaves_joint(), "the context does not matter");
    }

    #[test]
    fn numbers_of_more_than_64_bits_are_refused_and_unfinished_ones_too() {
        let take = |bytes: &[u8]| take_varint(&mut { bytes });
        let mut longest = [0xff; 10];
        assert_eq!(take(&longest), Err(DecodeError::UnknownTag(0xff)));
        longest[9] = 0x01;
        assert_eq!(take(&longest), Ok(u64::MAX));
        assert_eq!(take(&[0x80; 10]), Err(DecodeError::Truncated), "goes on behind the tenth byte");
        assert_eq!(take(&[0x80; 3]), Err(DecodeError::Truncated));
    }
}
