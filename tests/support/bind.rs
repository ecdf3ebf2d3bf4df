//! A real BIND with one zone. What fails here fails the test.

use std::ops::Deref;

use pointsman::lab;
use pointsman::lab::bind::ADDRESS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// See [`lab::Bind`].
pub struct Bind(lab::Bind);

/// Whether this machine has BIND and its tools; says NOT RUN when not.
pub fn is_here() -> bool {
    let missing = lab::Bind::missing();
    if let Some(program) = missing {
        eprintln!("NOT RUN: {program} is missing; scripts/setup.sh test installs it");
    }
    missing.is_none()
}

impl Bind {
    /// Starts it and waits until it answers.
    pub async fn start() -> Bind {
        Bind(lab::Bind::start().await.unwrap())
    }

    /// Starts it with what it had, and waits until it answers.
    pub async fn restart(&self) {
        self.0.restart().await.unwrap();
    }

    /// Starts it again with a zone that it can not read: every answer is SERVFAIL.
    pub async fn break_zone(&self) {
        self.0.break_zone().await.unwrap();
    }

    /// Starts it again with the zone as it was at first.
    pub async fn mend_zone(&self) {
        self.0.mend_zone().await.unwrap();
    }

    /// Changes the zone by hand: commands of `nsupdate`, such as `update delete NAME`.
    pub fn update(&self, commands: &str) {
        self.0.update_now(commands).unwrap();
    }
}

impl Deref for Bind {
    type Target = lab::Bind;

    fn deref(&self) -> &lab::Bind {
        &self.0
    }
}

/// Passes on what it hears, but waits for leave before each message to the server after the first one
/// of a connection.
pub async fn hesitant_relay(server: String) -> (String, mpsc::Receiver<oneshot::Sender<()>>) {
    let listener = TcpListener::bind((ADDRESS, 0)).await.expect("a listener");
    let address = listener.local_addr().expect("bound").to_string();
    let (asks, asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.expect("the server");
            // The test is over, or the publisher has given up.
            let _ = relay(client, server, &asks).await;
        }
    });
    (address, asked)
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    asks: &mpsc::Sender<oneshot::Sender<()>>,
) -> std::io::Result<()> {
    let mut first = true;
    loop {
        let question = message(&mut client).await?;
        if !std::mem::take(&mut first) {
            let (leave, given) = oneshot::channel();
            asks.send(leave).await.map_err(std::io::Error::other)?;
            given.await.map_err(std::io::Error::other)?;
        }
        server.write_all(&question).await?;
        let answer = message(&mut server).await?;
        client.write_all(&answer).await?;
    }
}

/// One message with its length before it.
pub async fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.resize(2 + usize::from(length), 0);
    stream.read_exact(&mut bytes[2..]).await?;
    Ok(bytes)
}
