//! The values that labels can have. A closed set each, so that every series exists from the start.

/// Declares an enum whose variants are the values of one label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value, in the order of the discriminants.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $value,)* }
            }
        }
    };
}

label! {
    /// How a request of a client ended: exactly one of these for each (I7).
    RequestOutcome {
        /// The node's reply was passed on, errors of the node included.
        Replied = "replied",
        /// pointsman answered it itself, because it concerns the session.
        Local = "local",
        /// Answered with an error of pointsman that says "not executed".
        Refused = "refused",
        /// Answered with an error of pointsman that says "outcome unknown".
        Unknown = "unknown",
        /// The client left before the reply.
        Abandoned = "abandoned",
    }
}

label! {
    /// Why a node of a cluster did not take a request.
    RedirectKind {
        /// -MOVED: another node has its slot.
        Moved = "moved",
        /// -ASK: another node may have its key already.
        Ask = "ask",
        /// -TRYAGAIN: its keys are at two nodes.
        TryAgain = "try_again",
    }
}

label! {
    /// Why a client was not served at all.
    RejectReason {
        /// `max_clients` are connected.
        MaxClients = "max_clients",
        /// The process has no file descriptor left.
        NoDescriptors = "no_descriptors",
        /// It arrived while the program was stopping.
        Draining = "draining",
    }
}

label! {
    /// Why a client of the Sentinel answers was not accepted or disconnected.
    SentinelDrop {
        /// `max_clients` are connected.
        MaxClients = "max_clients",
        /// It did not read its messages or replies.
        Slow = "slow",
    }
}

label! {
    /// How an upstream is used.
    UpstreamKind {
        /// Carries the requests of many sessions.
        Shared = "shared",
        /// Belongs to one session for a while.
        Pinned = "pinned",
    }
}

label! {
    /// Why a connect to the primary gave no usable upstream.
    ConnectFailure {
        /// The name did not resolve.
        Unresolved = "unresolved",
        /// The peer's kernel refused.
        Refused = "refused",
        /// No answer in time, or no route.
        Timeout = "timeout",
        /// The connection ended during the handshake.
        Lost = "lost",
        /// AUTH was refused.
        Auth = "auth",
        /// ROLE said replica, or another run id answered.
        NotPrimary = "not_primary",
        /// -LOADING.
        Loading = "loading",
        /// The node's `maxclients` is reached.
        MaxClients = "max_clients",
        /// The answer was not RESP, or an error nobody expected.
        Protocol = "protocol",
        /// This process has no file descriptor or port left.
        Local = "local",
    }
}

label! {
    /// Why a failover that seemed needed was not done.
    DeclineReason {
        /// No replica is fit to take over.
        NoCandidate = "no_candidate",
        /// The authority can not be reached.
        AuthorityUnavailable = "authority_unavailable",
        /// Another monitor marked the nodes, and the authority is for one monitor only.
        OtherMonitor = "other_monitor",
        /// Another monitor won the swap.
        SwapLost = "swap_lost",
        /// A replica still gets data from the primary.
        Vetoed = "vetoed",
        /// Too few failure domains see the primary as lost.
        NoMajority = "no_majority",
        /// The authority `follow` never acts.
        FollowOnly = "follow_only",
    }
}

label! {
    /// How a compare-and-swap of the record ended.
    SwapResult {
        /// The record is stored.
        Done = "done",
        /// Somebody else changed it first.
        Lost = "lost",
        /// It may or may not have been stored.
        Unknown = "unknown",
    }
}

label! {
    /// How a change of primary ended.
    FailoverEnd {
        /// A new primary serves.
        Done = "done",
        /// Nothing changed.
        Aborted = "aborted",
    }
}

label! {
    /// Why an address was dropped.
    VipDrop {
        /// Another node is published.
        OtherPrimary = "other_primary",
        /// The node says that it is no primary, or is another process than the published one.
        NotPrimary = "not_primary",
        /// The node is down or hangs.
        NodeDown = "node_down",
        /// No pointsman confirmed within the lease.
        Unconfirmed = "unconfirmed",
        /// The agent was told to stop.
        Stopped = "stopped",
    }
}

label! {
    /// What came of looking up a name that stands for nodes.
    LookupResult {
        /// Everything that was asked was answered.
        Answered = "answered",
        /// There is no such name, or it has no record of the wanted type.
        NoAddress = "no_address",
        /// No server answered in time.
        Timeout = "timeout",
        /// SERVFAIL.
        Servfail = "servfail",
        /// REFUSED, nonsense, no server to ask, no way to it.
        Failed = "failed",
    }
}

label! {
    /// What kind of publisher it is, as the configuration calls it.
    PublisherKind {
        /// A name in somebody's zone.
        DnsUpdate = "dns_update",
        /// A program.
        Hook = "hook",
        /// A key in a coordinator.
        Kv = "kv",
    }
}

label! {
    /// How a try to tell others who is primary ended.
    PublicationOutcome {
        /// Whoever asks learns it.
        Done = "done",
        /// A newer one had been published.
        Older = "older",
        /// It is tried again.
        Failed = "failed",
    }
}

label! {
    /// How the built-in DNS server answered a question.
    DnsResult {
        /// With what there is, which may be nothing of the wanted type.
        Answered = "answered",
        /// No such name in the zone.
        NoSuchName = "no_such_name",
        /// The backend has no primary, or its host has no known address.
        NoPrimary = "no_primary",
        /// Outside the zone, a transfer, another class.
        Refused = "refused",
        /// It could not be understood.
        Malformed = "malformed",
    }
}
