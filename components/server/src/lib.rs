//! The flotilla binary: tonic services, store-to-store transport, configuration and wiring

pub mod cli;
