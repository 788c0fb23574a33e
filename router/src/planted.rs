//! Bugs of the clients made on purpose, for the simulator to find: never in a product build.

flotilla_planted::bugs! {
    /// A route table takes an older region over a newer one.
    OlderEpoch,
    /// A compare-and-swap of unknown outcome is sent again.
    RepeatedSwap,
}
