//! The meta region's state machine: `flotilla-placement`'s facts, behind the apply seam.

use std::cell::RefCell;

use bytes::Bytes;
use flotilla_engine::EngineSnapshot;
use flotilla_placement::meta::{self, FactRead, FactWrite, MetaError};
use flotilla_region::{Space, keys};

use crate::machine::{ApplyContext, ApplyView, MachineError, StateMachine};

/// Applies commands to the facts of the meta region.
pub(crate) struct MetaMachine;

/// Facts as an [`ApplyView`] shows them. A read error is kept for the caller: the seam of the pure code has none.
struct ViewFacts<'a, 'v> {
    view: RefCell<&'a mut ApplyView<'v>>,
    error: RefCell<Option<MachineError>>,
}

impl FactRead for ViewFacts<'_, '_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match self.view.borrow_mut().get(key) {
            Ok(value) => value,
            Err(error) => {
                *self.error.borrow_mut() = Some(error);
                None
            }
        }
    }
}

impl StateMachine for MetaMachine {
    fn apply(
        &self,
        _: &ApplyContext<'_>,
        command: &[u8],
        view: &mut ApplyView<'_>,
    ) -> Result<Bytes, MachineError> {
        let facts = ViewFacts { view: RefCell::new(view), error: RefCell::new(None) };
        let decided = meta::apply(&facts, command);
        let ViewFacts { view, error } = facts;
        if let Some(error) = error.into_inner() {
            return Err(error);
        }
        let effect = decided.map_err(|_: MetaError| MachineError::UnknownCommand)?;
        let view = view.into_inner();
        for FactWrite { key, value } in effect.writes {
            match value {
                Some(value) => view.put(&key, &value),
                None => view.delete(&key),
            }
        }
        Ok(effect.reply)
    }
}

/// Facts as an engine snapshot shows them, for the store that leads the meta region.
pub(super) struct StoredFacts<'a>(pub &'a dyn EngineSnapshot);

impl FactRead for StoredFacts<'_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.0.get(&keys::data_key(Space::Meta, key)).ok().flatten()
    }
}
