//! The protocol: frame ends, commands, error replies, INFO and ROLE.
//!
//! Two directions, two scanners: [`request::RequestScanner`] finds requests in what a client sends,
//! [`reply::ReplyScanner`] finds replies in what a node sends. Neither decodes into a tree nor
//! allocates; both remember how far they got. [`command::lookup`] tells what a request is.

pub mod cluster_nodes;
pub mod command;
pub mod error;
pub mod info;
pub mod reply;
pub mod request;

mod credentials;
mod inline;
mod number;
mod own_error;
mod slot;
mod write;

pub use command::{Command, Replay, Special};
pub use credentials::Credentials;
pub use error::ProtocolError;
pub use number::parse as integer;
pub use own_error::OwnError;
pub use reply::{ReplyKind, ReplyScanner, Signal};
pub use request::{Limits, Request, RequestScanner};
pub use slot::key_slot;
pub use write::{
    encode_request, put_array, put_bulk, put_error, put_error_bytes, put_integer, put_map,
    put_null, put_ok, put_push, put_simple,
};
