//! The `flotilla` program as one store: raw requests as clients send them, the client commands, its pages, its end.

mod harness;
mod placement;
mod process;
mod raw;
mod refusals;
