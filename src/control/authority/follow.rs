//! Somebody else decides: there is no record, and nothing is ever stored.

use super::{Authority, AuthorityError, Boxed, Loaded, Swap};
use crate::failover::{Record, Version};

/// The authority of a backend that pointsman only follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct FollowAuthority;

impl Authority for FollowAuthority {
    fn load(&mut self) -> Boxed<'_, Result<Loaded, AuthorityError>> {
        Box::pin(std::future::ready(Ok(Loaded::default())))
    }

    fn swap(&mut self, _: Version, _: Record) -> Boxed<'_, Swap> {
        let why = "this backend is only followed: nothing is decided here";
        Box::pin(std::future::ready(Swap::Unavailable(why.to_owned())))
    }
}
