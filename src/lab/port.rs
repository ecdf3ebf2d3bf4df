//! A port of the loopback address that no other laboratory on this machine uses.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use super::LabError;
use crate::clock;

/// Below the range from which Linux takes the local ports of outgoing connections: a connect to a
/// closed port inside that range may connect to itself, and a node that is down for a moment may
/// find its port taken.
const RANGE: std::ops::Range<u32> = 11_000..32_000;

/// Another loopback address, where nothing listens.
const MARKS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A port that stays ours while this value lives, although nothing may listen on it: the UDP port
/// of the same number is held on another address as the mark that other laboratories see.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _mark: UdpSocket,
}

impl Port {
    /// Finds a port on which nobody listens. Fails when the whole range is taken.
    pub fn pick() -> Result<Port, LabError> {
        static TURN: AtomicU32 = AtomicU32::new(0);
        let span = RANGE.end - RANGE.start;
        let spread = std::process::id().wrapping_mul(7919) ^ clock::unix_time().subsec_nanos();
        for _ in 0..span {
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            let number = (RANGE.start + spread.wrapping_add(turn) % span) as u16;
            if let Some(port) = Port::take(number) {
                return Ok(port);
            }
        }
        Err(LabError::Unexpected(format!(
            "no free loopback port in {}..{}",
            RANGE.start, RANGE.end
        )))
    }

    /// Two ports, one so much above the other.
    pub fn pick_two(apart: u16) -> Result<(Port, Port), LabError> {
        loop {
            let port = Port::pick()?;
            let above = port.number + apart;
            let other = RANGE.contains(&above.into()).then(|| Port::take(above));
            if let Some(other) = other.flatten() {
                return Ok((port, other));
            }
        }
    }

    /// This one, if nobody has it.
    fn take(number: u16) -> Option<Port> {
        let mark = UdpSocket::bind((MARKS, number)).ok()?;
        let here = (Ipv4Addr::LOCALHOST, number);
        let free = TcpListener::bind(here).is_ok() && UdpSocket::bind(here).is_ok();
        free.then_some(Port {
            number,
            _mark: mark,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:number`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_are_never_the_same_although_nobody_listens() {
        let ports: Vec<Port> = (0..50).map(|_| Port::pick().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }
}
