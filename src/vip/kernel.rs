//! What the agent asks of the kernel, over netlink: give, renew and take away the address, and end
//! the connections that use it.
//!
//! The address is given with a lifetime and renewed while it belongs here. An agent that crashes or
//! is stopped leaves an address behind that the kernel itself takes away.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SOCK_DESTROY, SockDiagMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use rtnetlink::proto::{ConnectionHandle, new_connection};
use rtnetlink::sys::SocketAddr;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use tokio::task::JoinSet;

/// One address on one interface, and the way to the kernel.
pub(super) struct Kernel {
    route: rtnetlink::Handle,
    sockets: ConnectionHandle<Diagnosis>,
    index: u32,
    address: IpAddr,
    prefix: u8,
    /// Drive the two sockets; they end with this value.
    _drivers: JoinSet<()>,
}

/// An address that is on this host already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// It is where the agent would put it.
    pub(super) here: bool,
    /// It stays until somebody takes it away. The agent gives none of that kind.
    pub(super) permanent: bool,
}

impl Kernel {
    /// Opens the sockets. Must be called inside a runtime.
    pub(super) fn open(index: u32, address: IpAddr, prefix: u8) -> io::Result<Kernel> {
        let mut drivers = JoinSet::new();
        let (connection, route, _) = rtnetlink::new_connection()?;
        drivers.spawn(connection);
        let (connection, sockets, _) = new_connection(NETLINK_SOCK_DIAG)?;
        drivers.spawn(connection);
        Ok(Kernel {
            route,
            sockets,
            index,
            address,
            prefix,
            _drivers: drivers,
        })
    }

    /// The interface is another one from now on.
    pub(super) fn moved_to(&mut self, index: u32) {
        self.index = index;
    }

    /// Where the address is on this host.
    pub(super) async fn find(&self) -> io::Result<Vec<Found>> {
        let request = self.route.address().get();
        let found: Vec<AddressMessage> = request
            .set_address_filter(self.address)
            .execute()
            .try_collect()
            .await
            .map_err(route_error)?;
        let found = found.iter().map(|message| Found {
            here: message.header.index == self.index && message.header.prefix_len == self.prefix,
            permanent: flags(message).contains(AddressFlags::Permanent),
        });
        Ok(found.collect())
    }

    /// Gives the address to the interface for so long, or renews it. The kernel counts in whole
    /// seconds.
    pub(super) async fn give(&self, lifetime: Duration) -> io::Result<()> {
        let seconds = u32::try_from(lifetime.as_millis().div_ceil(1000)).unwrap_or(u32::MAX - 1);
        let address = self.route.address();
        let mut request = address.add(self.index, self.address, self.prefix).replace();
        let attributes = &mut request.message_mut().attributes;
        attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Flags(_)));
        // No prefix route: in IPv6 it would be the one of the host's own address, and end with the
        // lifetime. No duplicate detection by the kernel: it takes a second, and was done.
        attributes.push(AddressAttribute::Flags(
            AddressFlags::Noprefixroute | AddressFlags::Nodad,
        ));
        // Not preferred: connections that this host makes come from its own address.
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_preferred = 0;
        lifetime.ifa_valid = seconds.max(1);
        attributes.push(AddressAttribute::CacheInfo(lifetime));
        request.execute().await.map_err(route_error)
    }

    /// Takes the address away; false when it was gone already.
    pub(super) async fn take_away(&self) -> io::Result<bool> {
        let address = self.route.address();
        let mut same = address.add(self.index, self.address, self.prefix);
        let message = same.message_mut().clone();
        match address.del(message).execute().await.map_err(route_error) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends every TCP connection whose local address is this one, with a reset to the other end as
    /// long as the address is still here. Returns how many.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the kernel was built without `INET_DIAG_DESTROY`.
    pub(super) async fn end_connections(&self) -> io::Result<u64> {
        let mut ended = 0;
        // A socket that listens on [::] has connections of IPv4 too.
        for family in [AF_INET, AF_INET6] {
            if family == AF_INET && self.address.is_ipv6() {
                continue;
            }
            for id in self.connections(family).await? {
                ended += u64::from(self.end(family, id).await?);
            }
        }
        Ok(ended)
    }

    async fn connections(&self, family: u8) -> io::Result<Vec<SocketId>> {
        let open =
            StateFlags::all() & !(StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::CLOSE);
        let id = match family {
            AF_INET => SocketId::new_v4(),
            _ => SocketId::new_v6(),
        };
        let request = diagnosis(SOCK_DIAG, family, open, id);
        let mut answers = self.ask(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(Diagnosis {
                    message: SockDiagMessage::InetResponse(response),
                    ..
                }) => {
                    let id = response.header.socket_id;
                    if id.source_address.to_canonical() == self.address {
                        found.push(id);
                    }
                }
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(found)
    }

    /// False when it ended by itself meanwhile.
    async fn end(&self, family: u8, id: SocketId) -> io::Result<bool> {
        let request = diagnosis(SOCK_DESTROY, family, StateFlags::all(), id);
        let mut answers = self.ask(request, NLM_F_REQUEST | NLM_F_ACK)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                let error = error.to_io();
                return match error.raw_os_error() {
                    Some(libc::ENOENT) => Ok(false),
                    _ => Err(error),
                };
            }
        }
        Ok(true)
    }

    fn ask(
        &self,
        request: Diagnosis,
        flags: u16,
    ) -> io::Result<impl futures_util::Stream<Item = NetlinkMessage<Diagnosis>>> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        self.sockets
            .request(message, SocketAddr::new(0, 0))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let whole = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        });
    whole.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

fn route_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// `SOCK_DIAG_BY_FAMILY`: the type of questions and of answers.
const SOCK_DIAG: u16 = netlink_packet_sock_diag::SOCK_DIAG_BY_FAMILY;

/// A message about sockets. The type of the library can not ask to destroy one.
#[derive(Debug)]
struct Diagnosis {
    kind: u16,
    message: SockDiagMessage,
}

fn diagnosis(kind: u16, family: u8, states: StateFlags, socket_id: SocketId) -> Diagnosis {
    Diagnosis {
        kind,
        message: SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states,
            socket_id,
        }),
    }
}

impl NetlinkSerializable for Diagnosis {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        NetlinkSerializable::buffer_len(&self.message)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.message.serialize(buffer);
    }
}

impl NetlinkDeserializable for Diagnosis {
    type Error = <SockDiagMessage as NetlinkDeserializable>::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Diagnosis {
            kind: header.message_type,
            message: SockDiagMessage::deserialize(header, payload)?,
        })
    }
}
