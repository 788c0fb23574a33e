//! Bugs of the consensus cores made on purpose, for the simulator to find: never in a product build.

flotilla_planted::bugs! {
    /// A leader answers reads before it has committed an entry of its own term.
    ReadIndexBeforeOwnCommit,
}
