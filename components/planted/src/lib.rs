//! Bugs made on purpose, for the simulator to find. A crate with a feature `planted` lists its own with [`bugs!`] in a
//! module `crate::planted` and asks for one with [`planted!`], which is `false` in a product build: there the list does
//! not even exist.

/// Declares the bugs of a crate: `Bug`, and `plant`, which switches one on for everything that the calling thread runs.
#[macro_export]
macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident,)+) => {
        #[cfg(feature = "planted")]
        pub use on_purpose::{Bug, plant};

        #[cfg(feature = "planted")]
        pub(crate) use on_purpose::is_planted;

        #[cfg(feature = "planted")]
        mod on_purpose {
            use std::cell::Cell;

            /// What may be wrong.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Bug {
                $($(#[$doc])* $bug,)+
            }

            thread_local! {
                static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
            }

            /// Plants a bug in everything that this thread runs, or pulls it out again.
            pub fn plant(bug: Option<Bug>) {
                PLANTED.set(bug);
            }

            pub(crate) fn is_planted(bug: Bug) -> bool {
                PLANTED.get() == Some(bug)
            }
        }
    };
}

/// Whether this bug of the crate's own list is planted in what the thread runs.
#[macro_export]
#[allow(clippy::crate_in_macro_def, reason = "the list is that of the crate that asks")]
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(feature = "planted")]
        let is_planted = crate::planted::is_planted(crate::planted::Bug::$bug);
        #[cfg(not(feature = "planted"))]
        let is_planted = false;
        is_planted
    }};
}
