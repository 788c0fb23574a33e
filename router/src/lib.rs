//! Routes keys to regions and their leaders: region cache, retry plan and the Rust client
