//! Accepts clients and gives each to the worker with the fewest. Nothing slow happens here.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Shared;
use super::worker::Message;
use crate::metrics::{RejectReason, WorkerMetrics};

/// An idle client is asked after this long whether it is there, as Redis does.
const CLIENT_KEEPALIVE: Duration = Duration::from_secs(300);

/// A bound socket that clients connect to.
#[derive(Debug)]
pub enum Socket {
    /// `ip:port`.
    Tcp(std::net::TcpListener),
    /// A path.
    Unix(StdUnixListener),
}

/// A client that was just accepted.
pub(super) struct Accepted {
    pub(super) backend: usize,
    /// Its socket, not yet watched by anybody's event loop: that is for its worker to do.
    pub(super) socket: OwnedFd,
    /// Its address and ours, as CLIENT LIST shows them.
    pub(super) names: (String, String),
}

/// What an acceptor needs.
pub(super) struct Acceptor {
    pub(super) backend: usize,
    pub(super) socket: Socket,
    pub(super) max_clients: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Vec<mpsc::UnboundedSender<Message>>,
    pub(super) metrics: WorkerMetrics,
}

/// Runs every acceptor until `stop` says so; the sockets are closed then.
pub(super) fn run(acceptors: Vec<Acceptor>, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let mut tasks = JoinSet::new();
        for acceptor in acceptors {
            tasks.spawn(async move {
                if let Err(error) = acceptor.run().await {
                    tracing::error!(%error, "a listener ended");
                }
            });
        }
        // Err: whoever could stop us is gone, which means the same.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    Ok(())
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn run(self) -> io::Result<()> {
        let listening = match &self.socket {
            Socket::Tcp(socket) => Listening::Tcp(TcpListener::from_std(socket.try_clone()?)?),
            Socket::Unix(socket) => Listening::Unix(UnixListener::from_std(socket.try_clone()?)?),
        };
        let mut pause = Duration::from_millis(5);
        loop {
            match listening.accept().await {
                Ok((stream, names)) => {
                    pause = Duration::from_millis(5);
                    self.place(stream, names);
                }
                Err(error) => {
                    // Out of descriptors, most of the time: the client waits in the backlog.
                    self.metrics.rejected(RejectReason::NoDescriptors);
                    tracing::warn!(%error, ?pause, "a client could not be accepted; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    fn place(&self, socket: OwnedFd, names: (String, String)) {
        let Some(worker) = self.shared.clients.enter(self.max_clients) else {
            self.metrics.rejected(RejectReason::MaxClients);
            // The client may be gone; there is nobody else to tell.
            let _ = rustix::io::write(&socket, b"-ERR max number of clients reached\r\n");
            return;
        };
        let accepted = Accepted {
            backend: self.backend,
            socket,
            names,
        };
        if self.workers[worker]
            .send(Message::Accept(accepted))
            .is_err()
        {
            self.shared.clients.left(worker);
        }
    }
}

impl Listening {
    async fn accept(&self) -> io::Result<(OwnedFd, (String, String))> {
        match self {
            Listening::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Fails only on a connection that is gone already; reading will tell.
                let _ = stream.set_nodelay(true);
                // As tcp-keepalive of Redis: a client whose host vanished is noticed.
                let keepalive = TcpKeepalive::new().with_time(CLIENT_KEEPALIVE);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                let local = stream
                    .local_addr()
                    .map(|a| a.to_string())
                    .unwrap_or_default();
                Ok((stream.into_std()?.into(), (peer.to_string(), local)))
            }
            Listening::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let path = listener
                    .local_addr()
                    .ok()
                    .and_then(|a| Some(format!("{}:0", a.as_pathname()?.display())))
                    .unwrap_or_default();
                Ok((stream.into_std()?.into(), (path.clone(), path)))
            }
        }
    }
}
