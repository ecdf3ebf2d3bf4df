//! Accepts, and carries bytes between one socket and one [`Session`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Sentinel;
use super::news::{self, Message};
use super::session::{Session, Step};
use crate::metrics::{SentinelDrop, SentinelMetrics};

/// Replies that are collected before they are written, bytes.
const OUTPUT: usize = 64 * 1024;

/// A client that takes none of its replies for this long is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client may be silent for ever, as a subscriber is; one whose host is gone is noticed after about
/// two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// When no descriptor is left, wait for one instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until the future is dropped. Connections that are open then are dropped too.
pub async fn serve(listener: TcpListener, sentinel: Arc<Sentinel>) {
    let mut tellers = JoinSet::new();
    for index in 0..sentinel.backends.len() {
        tellers.spawn(news::tell(sentinel.clone(), index));
    }
    let metrics = SentinelMetrics::register();
    let mut connections = JoinSet::new();
    loop {
        metrics.clients(connections.len());
        tokio::select! {
            Some(ended) = connections.join_next() => if let Ok(Some(Ended::Slow)) = ended {
                metrics.dropped(SentinelDrop::Slow);
            },
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() >= sentinel.settings.max_clients => {
                    metrics.dropped(SentinelDrop::MaxClients);
                    refuse(&stream);
                }
                Ok((stream, peer)) => {
                    let sentinel = sentinel.clone();
                    connections.spawn(async move {
                        let ended = connection(stream, peer, sentinel).await.err()?;
                        tracing::debug!(?ended, %peer, "a client of the Sentinel answers ended");
                        Some(ended)
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the Sentinel answers can not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

fn refuse(stream: &TcpStream) {
    // A fresh socket takes this much at once; if not, the close says enough.
    let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
}

/// Why a connection ended that the client did not close.
#[derive(Debug)]
enum Ended {
    /// It broke.
    Broken(#[allow(dead_code, reason = "for the log")] io::Error),
    /// It did not read its messages or replies.
    Slow,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Broken(error)
    }
}

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    sentinel: Arc<Sentinel>,
) -> Result<(), Ended> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 3)
        .with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let mut session = Session::new(sentinel.clone(), peer, stream.local_addr()?);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut news: Option<broadcast::Receiver<Arc<Message>>> = None;
    loop {
        let step = session.step(&mut input, &mut output).await;
        // Before the client reads that it has subscribed, so that it misses nothing from then on.
        match session.is_subscribed() {
            true => _ = news.get_or_insert_with(|| sentinel.news()),
            false => news = None,
        }
        if step != Step::Done || output.len() > OUTPUT {
            write(&mut stream, &mut output).await?;
        }
        match step {
            Step::Done => continue,
            Step::Close => return Ok(()),
            Step::Incomplete => {}
        }
        tokio::select! {
            read = stream.read_buf(&mut input) => if read? == 0 {
                return Ok(());
            },
            message = next(&mut news) => match message {
                Ok(message) => session.deliver(&message, &mut output),
                Err(_) => return Err(Ended::Slow),
            },
        }
    }
}

async fn next(
    news: &mut Option<broadcast::Receiver<Arc<Message>>>,
) -> Result<Arc<Message>, broadcast::error::RecvError> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

async fn write(stream: &mut TcpStream, output: &mut BytesMut) -> Result<(), Ended> {
    if output.is_empty() {
        return Ok(());
    }
    match timeout(WRITE_TIMEOUT, stream.write_all_buf(output)).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(Ended::Slow),
    }
}
