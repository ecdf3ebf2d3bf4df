//! The protocol: frame ends, commands, error replies, INFO and ROLE.

pub mod info;

mod credentials;

pub use credentials::Credentials;
