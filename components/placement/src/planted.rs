//! Bugs of the placement made on purpose, for the simulator to find: never in a product build.

flotilla_planted::bugs! {
    /// Now and then an id is handed out a second time.
    IdTwice,
}
