//! Questions over UDP and TCP. What a peer may cost is bounded: its packets, its connections, and the
//! questions that wait for a primary.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Names;
use super::answer::{Reply, Transport};

/// Longest question that is read, bytes; one that is longer is malformed. Real ones have less than 300.
const QUESTION: usize = 4096;

/// UDP questions that wait for a primary at the same time; more are answered with SERVFAIL at once.
const WAITING: usize = 1024;

/// TCP connections; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;

/// A connection that asks nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// When the system refuses to receive or to accept, do not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Where questions come in; both on the same address and port.
pub struct Sockets {
    /// Packets.
    pub udp: UdpSocket,
    /// Connections.
    pub tcp: TcpListener,
}

/// Answers until the future is dropped.
pub async fn serve(sockets: Sockets, names: Names) {
    let names = Arc::new(names);
    let mut keepers = JoinSet::new();
    for index in 0..names.backends.len() {
        let names = names.clone();
        keepers.spawn(async move {
            let backend = &names.backends[index];
            backend.hosts.keep(backend.topology.clone()).await;
        });
    }
    tokio::join!(
        packets(sockets.udp, &names),
        connections(sockets.tcp, &names)
    );
}

async fn packets(socket: UdpSocket, names: &Arc<Names>) {
    let socket = Arc::new(socket);
    let slots = Arc::new(Semaphore::new(WAITING));
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; QUESTION];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = waiting.join_next() => continue,
        };
        let (bytes, peer) = match received {
            Ok((length, peer)) => (&buffer[..length], peer),
            Err(error) => {
                tracing::debug!(%error, "no question could be received");
                sleep(PAUSE).await;
                continue;
            }
        };
        match names.answer(bytes, Transport::Udp, true) {
            Reply::Now(answer) => send(&socket, &answer, peer),
            Reply::Nothing => {}
            Reply::Wait(backend) => {
                let slot = slots.clone().try_acquire_owned();
                let (names, socket, bytes) = (names.clone(), socket.clone(), bytes.to_vec());
                waiting.spawn(async move {
                    if slot.is_ok() {
                        names.settled(backend).await;
                    }
                    if let Reply::Now(answer) = names.answer(&bytes, Transport::Udp, false) {
                        send(&socket, &answer, peer);
                    }
                });
            }
        }
    }
}

/// An answer that does not fit into the socket's buffer is lost as any packet may be.
fn send(socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, peer) {
        tracing::debug!(%error, %peer, "an answer could not be sent");
    }
}

async fn connections(listener: TcpListener, names: &Arc<Names>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            Some(_) = open.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let names = names.clone();
                    open.spawn(async move {
                        if let Err(error) = connection(stream, &names).await {
                            tracing::debug!(%error, %peer, "a connection of the DNS server ended");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the DNS server can not accept a connection");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

/// One question after the other, each behind its length (RFC 1035, 4.2.2; RFC 7766).
async fn connection(mut stream: TcpStream, names: &Names) -> io::Result<()> {
    let mut question = Vec::new();
    loop {
        let read = timeout(IDLE, read(&mut stream, &mut question)).await;
        if !read.unwrap_or(Ok(false))? {
            return Ok(());
        }
        let mut reply = names.answer(&question, Transport::Tcp, true);
        if let Reply::Wait(backend) = reply {
            names.settled(backend).await;
            reply = names.answer(&question, Transport::Tcp, false);
        }
        let Reply::Now(answer) = reply else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&answer);
        match timeout(IDLE, stream.write_all(&bytes)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
}

/// False when there is no further question.
async fn read(stream: &mut TcpStream, question: &mut Vec<u8>) -> io::Result<bool> {
    question.clear();
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length > QUESTION {
        return Ok(false);
    }
    let mut body = stream.take(length as u64);
    Ok(body.read_to_end(question).await? == length)
}
