//! What only real processes show: kill -9, power cuts, damaged files, signals, wiped disks, bad input, and clients that know nothing
//! of Flotilla.
//!
//! [`harness`] starts and ends stores and looks at them; [`ledger`] and [`load`] write and remember what was
//! acknowledged; the other modules hold the tests. One cluster runs at a time. `FLOTILLA_CYCLES=20` runs each test of
//! repeated faults that many times instead of the default; `FLOTILLA_CHAOS_SECONDS=300` runs [`chaos`] for five minutes
//! over 200 regions instead of half a minute over 40, `FLOTILLA_CHAOS_SEED` makes its choices other ones;
//! `FLOTILLA_KEEP=1` keeps every folder.

mod bad_requests;
mod bad_starts;
mod chaos;
mod client;
mod damage;
mod full_disks;
mod harness;
mod kills;
mod ledger;
mod load;
mod merges;
mod model;
mod power_cuts;
mod regions;
mod single;
mod stops;
mod wipes;
