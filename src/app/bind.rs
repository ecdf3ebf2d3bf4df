//! Binds every port before anything serves, and says clearly which one can not be had.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::Bind;

/// Connections the kernel keeps until they are accepted (it cuts this to `net.core.somaxconn`):
/// after a restart every application connects at the same time.
const BACKLOG: i32 = 4096;

/// Questions to the DNS server that the kernel keeps until they are read, bytes: 768 for each.
const PACKETS: usize = 1 << 20;

/// A port or path that can not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something else has it.
    #[error(
        "can not listen on {bind}: the address is in use\n    \
         hint: {} shows who has it",
        finder(.bind)
    )]
    InUse {
        /// As in the configuration.
        bind: Bind,
    },
    /// The system refuses for another reason.
    #[error("can not listen on {bind}: {source}{}", hint(.source))]
    Io {
        /// As in the configuration.
        bind: Bind,
        /// The system's word.
        source: io::Error,
    },
}

fn finder(bind: &Bind) -> String {
    match bind {
        Bind::Tcp(address) => format!("ss -tulnp 'sport = :{}'", address.port()),
        Bind::Unix { path, .. } => format!("ss -xlp src {}", path.display()),
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "\n    hint: no interface of this machine has this address"
        }
        io::ErrorKind::PermissionDenied => {
            "\n    hint: ports below 1024 and foreign directories need permissions"
        }
        _ => "",
    }
}

/// A socket that listens, not blocking.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Bound {
    /// The address as it was bound: port 0 has become a port.
    pub(super) fn name(&self) -> String {
        match self {
            Bound::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|error| error.to_string(), |a| a.to_string()),
            Bound::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }
}

/// The file of a unix socket; removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have replaced the file.
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // A file that is gone already is what we want.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let data = fs::symlink_metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}

/// Binds a listener of the configuration.
pub(super) fn bind(bind: &Bind) -> Result<Bound, BindError> {
    let bound = match bind {
        Bind::Tcp(address) => tcp(*address).map(Bound::Tcp),
        Bind::Unix { path, mode } => unix(path, *mode),
    };
    bound.map_err(|source| error(bind, source))
}

pub(super) fn error(bind: &Bind, source: io::Error) -> BindError {
    let bind = bind.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { bind },
        _ => BindError::Io { bind, source },
    }
}

/// The same address for packets and connections; port 0 takes one that is free for connections.
pub(super) fn dns(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let connections = tcp(address)?;
    let packets = UdpSocket::bind(connections.local_addr()?)?;
    packets.set_nonblocking(true)?;
    // As much as the system allows up to this: what does not fit is lost, and asked again a second later.
    SockRef::from(&packets).set_recv_buffer_size(PACKETS)?;
    Ok((packets, connections))
}

pub(super) fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of the process before us that still linger are no reason not to start.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A file that a dead process left is replaced; one that somebody listens on is in use.
fn unix(path: &Path, mode: u32) -> io::Result<Bound> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    // Nobody may connect between bind and chmod who may not afterwards. The mask is the process's,
    // but no other thread makes files yet.
    let before = umask(Mode::from_raw_mode(0o777 & !mode));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Unix(listener, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix_bind(directory: &tempfile::TempDir) -> Bind {
        Bind::Unix {
            path: directory.path().join("redis.sock"),
            mode: 0o600,
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named_with_a_hint() {
        let first = bind(&Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a free port");
        let taken = Bind::Tcp(first.name().parse().expect("an address"));
        let error = bind(&taken).expect_err("it is taken").to_string();
        assert!(error.contains(&format!("can not listen on {}", first.name())));
        assert!(
            error.contains("in use") && error.contains("ss -tulnp"),
            "{error}"
        );
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_vanishes_with_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("redis.sock");
        let bound = bind(&unix_bind(&directory)).expect("a free path");
        let mode = fs::metadata(&path).expect("it exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_file_is_replaced_only_when_nobody_listens_on_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("redis.sock");
        // std does not remove the file: what a killed process leaves.
        drop(UnixListener::bind(&path).expect("a free path"));
        let bound = bind(&unix_bind(&directory)).expect("the file is stale");
        let error = bind(&unix_bind(&directory)).expect_err("somebody listens");
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        drop(bound);
    }
}
