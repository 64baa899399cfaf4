//! Requests that nobody has thought of: the target of `cargo xtask fuzz`.

mod requests;
