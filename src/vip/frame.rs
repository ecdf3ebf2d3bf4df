//! The frames that ask who has an address and that say who has it: ARP for IPv4 (RFC 826, RFC 5227),
//! neighbour discovery for IPv6 (RFC 4861, RFC 4862), each with its Ethernet header.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;

const EVERYBODY: Mac = Mac([0xff; 6]);
const NOBODY: Mac = Mac([0; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ARP_REQUEST: u16 = 1;

pub(super) const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
/// Flag of an advertisement: it replaces what is cached.
const OVERRIDE: u8 = 0x20;
/// Option: the sender's Ethernet address.
const TARGET_ADDRESS: u8 = 2;

/// Asks whether somebody has `address`, without saying that we do: whoever has it answers.
pub(super) fn probe(address: IpAddr, own: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(own, Ipv4Addr::UNSPECIFIED, NOBODY, address),
        IpAddr::V6(address) => {
            let [.., a, b, c] = address.octets();
            let group = u16::from_be_bytes([b, c]);
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), group);
            let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            message.extend(address.octets());
            icmpv6(own, Ipv6Addr::UNSPECIFIED, group, message)
        }
    }
}

/// Says to everybody that we have `address` from now on.
pub(super) fn announcement(address: IpAddr, own: Mac) -> Vec<u8> {
    match address {
        // As a request: unlike a reply it is understood by all (RFC 5227, section 3).
        IpAddr::V4(address) => arp(own, address, NOBODY, address),
        IpAddr::V6(address) => {
            let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
            message.extend(address.octets());
            message.extend([TARGET_ADDRESS, 1]);
            message.extend(own.0);
            icmpv6(own, address, ALL_NODES, message)
        }
    }
}

/// Who says in this frame that he has `address`.
pub(super) fn claimant(address: IpAddr, frame: &[u8]) -> Option<Mac> {
    let sender = Mac(frame.get(6..12)?.try_into().ok()?);
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let body = frame.get(14..)?;
    match (address, kind) {
        (IpAddr::V4(address), ARP) => {
            let ours = body.get(..6)? == [0, 1, 8, 0, 6, 4];
            let claims = body.get(14..18)? == address.octets();
            let mac = Mac(body.get(8..14)?.try_into().ok()?);
            (ours && claims).then_some(mac)
        }
        (IpAddr::V6(address), IPV6) => {
            // A hop limit below 255 comes from beyond this link.
            let fits = body.first()? >> 4 == 6 && body.get(6..8)? == [ICMPV6, 255];
            let message = body.get(40..)?;
            let claims =
                *message.first()? == ADVERTISEMENT && message.get(8..24)? == address.octets();
            (fits && claims).then_some(sender)
        }
        _ => None,
    }
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(kind.to_be_bytes());
    frame
}

fn arp(own: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(EVERYBODY, own, ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(ARP_REQUEST.to_be_bytes());
    frame.extend(own.0);
    frame.extend(sender.octets());
    frame.extend(target_mac.0);
    frame.extend(target.octets());
    frame
}

fn icmpv6(own: Mac, from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let length = message.len() as u16;
    let sum = checksum(from, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let [.., a, b, c, d] = to.octets();
    let mut frame = ethernet(Mac([0x33, 0x33, a, b, c, d]), own, IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// RFC 4443, section 2.3.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(40 + message.len());
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, ICMPV6]);
    bytes.extend(message);
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn an_announcement_claims_and_a_probe_does_not() {
        for address in ["10.0.0.100", "fd00::64"] {
            let address: IpAddr = address.parse().unwrap();
            let other: IpAddr = match address {
                IpAddr::V4(_) => "10.0.0.101".parse().unwrap(),
                IpAddr::V6(_) => "fd00::65".parse().unwrap(),
            };
            let says = announcement(address, OWN);
            assert_eq!(claimant(address, &says), Some(OWN));
            assert_eq!(claimant(other, &says), None);
            assert_eq!(claimant(address, &probe(address, OWN)), None);
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_or_from_afar_claims_nothing() {
        for address in ["10.0.0.100", "fd00::64"] {
            let address: IpAddr = address.parse().unwrap();
            let mut says = announcement(address, OWN);
            for len in 0..28 {
                assert_eq!(claimant(address, &says[..len]), None);
            }
            if address.is_ipv6() {
                says[21] = 254;
                assert_eq!(claimant(address, &says), None);
            }
        }
    }

    #[test]
    fn a_solicitation_goes_to_the_group_of_its_target() {
        let frame = probe("fd00::1:2:3456".parse().unwrap(), OWN);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x02, 0x34, 0x56]);
        // The sum over a message with its checksum in place is zero.
        let (from, to) = (&frame[22..38], &frame[38..54]);
        let octets = |bytes: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap());
        assert_eq!(checksum(octets(from), octets(to), &frame[54..]), 0);
    }
}
