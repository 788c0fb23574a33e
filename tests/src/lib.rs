//! Simulator, checkers and real-process tests of the whole system
