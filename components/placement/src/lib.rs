//! Placement driver: cluster facts, checkers and schedulers as pure functions of the cluster view
