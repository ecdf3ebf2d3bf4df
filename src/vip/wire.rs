//! A packet socket on one interface that sees only what concerns one address: ARP, or the neighbour
//! advertisements of IPv6.

use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::os::fd::IntoRawFd;

use pnet_datalink::{Channel, ChannelType, Config, NetworkInterface};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::frame::{self, Mac};

/// Longer ones are no neighbour advertisements that anybody sends.
const FRAME_MAX: usize = 1514;

/// Lets through neighbour advertisements only, so that the traffic of the host is not copied.
const ADVERTISEMENTS: [SockFilter; 6] = {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        // Next header, then the type of the ICMPv6 message, both behind the Ethernet header.
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, frame::ICMPV6 as u32),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 40),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, frame::ADVERTISEMENT as u32),
        SockFilter::new(RETURN, 0, 0, FRAME_MAX as u32),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
};

/// The open socket.
pub(super) struct Wire {
    socket: AsyncFd<Socket>,
    address: IpAddr,
    mac: Mac,
    index: u32,
}

/// The interface of that name, with its Ethernet address.
pub(super) fn interface(name: &str) -> io::Result<(NetworkInterface, Mac)> {
    let all = pnet_datalink::interfaces();
    let Some(found) = all.into_iter().find(|interface| interface.name == name) else {
        return Err(io::Error::other(format!("there is no interface {name}")));
    };
    match found.mac {
        Some(mac) if !found.is_loopback() && !mac.is_zero() => {
            let mac = Mac(mac.octets());
            Ok((found, mac))
        }
        _ => Err(io::Error::other(format!(
            "{name} is no Ethernet interface: nobody could be told who has the address"
        ))),
    }
}

impl Wire {
    /// Opens it. Must be called inside a runtime.
    // Deprecated because a type may lie about its descriptor; a socket owns it, and it never changes.
    #[allow(deprecated)]
    pub(super) fn open(name: &str, address: IpAddr) -> io::Result<Wire> {
        let (interface, mac) = interface(name)?;
        let kind = match address {
            IpAddr::V4(_) => frame::ARP,
            IpAddr::V6(_) => frame::IPV6,
        };
        // Without a protocol it receives nothing until it is bound.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        if address.is_ipv6() {
            socket.attach_filter(&ADVERTISEMENTS)?;
        }
        // The standard library and socket2 have no safe way to bind to an interface.
        let config = Config {
            channel_type: ChannelType::Layer3(kind),
            promiscuous: false,
            socket_fd: Some(socket.try_clone()?.into_raw_fd()),
            ..Config::default()
        };
        match pnet_datalink::channel(&interface, config)? {
            // The clone is closed with these; the socket stays, and stays bound.
            Channel::Ethernet(_, _) => {}
            _ => return Err(ErrorKind::Unsupported.into()),
        }
        socket.set_nonblocking(true)?;
        Ok(Wire {
            socket: AsyncFd::with_interest(socket, Interest::READABLE)?,
            address,
            mac,
            index: interface.index,
        })
    }

    /// Number of the interface.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Asks who has the address.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.send(&frame::probe(self.address, self.mac))
    }

    /// Says that we have it.
    pub(super) fn announce(&self) -> io::Result<()> {
        self.send(&frame::announcement(self.address, self.mac))
    }

    /// A full queue loses the frame, as any switch on the way may: it is sent again.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        match self.socket.get_ref().send(frame) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Another host that has said so and was not heard yet. For one who can not wait for the reactor.
    pub(super) fn waiting(&self) -> Option<io::Result<Mac>> {
        loop {
            match self.read(self.socket.get_ref()) {
                Ok(Some(mac)) => return Some(Ok(mac)),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits until another host says that it has the address. Cancel safe.
    pub(super) async fn claimant(&self) -> io::Result<Mac> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| self.read(socket.get_ref())) {
                Ok(Ok(Some(mac))) => return Ok(mac),
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Reads one frame; `None` where it is not about the address, or is our own.
    fn read(&self, mut socket: &Socket) -> io::Result<Option<Mac>> {
        let mut buffer = [0; FRAME_MAX];
        let length = match socket.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(None),
            read => read?,
        };
        let claimant = frame::claimant(self.address, &buffer[..length]);
        Ok(claimant.filter(|mac| *mac != self.mac))
    }
}
