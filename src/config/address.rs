//! Addresses as operators write them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::topology::NodeId;

/// `sun_path` holds 108 bytes, the last one zero (unix(7)).
const UNIX_PATH_MAX: usize = 107;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// An address of this machine; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix {
        /// Absolute path.
        path: PathBuf,
        /// Permission bits of the socket file.
        mode: u32,
    },
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bind {
    /// Whether both can not be bound at the same time. A wildcard address takes the port of every
    /// address of its family, and `[::]` that of IPv4 too.
    pub(super) fn collides(&self, other: &Bind) -> bool {
        match (self, other) {
            (Bind::Unix { path: a, .. }, Bind::Unix { path: b, .. }) => a == b,
            (Bind::Tcp(a), Bind::Tcp(b)) => {
                let wildcard = |x: &SocketAddr, y: &SocketAddr| {
                    x.ip().is_unspecified() && (x.is_ipv6() || y.is_ipv4())
                };
                a.port() == b.port()
                    && a.port() != 0
                    && (a.ip() == b.ip() || wildcard(a, b) || wildcard(b, a))
            }
            _ => false,
        }
    }
}

/// What is wrong with an address, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadAddress {
    pub(super) message: String,
    pub(super) hint: String,
}

fn bad<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, BadAddress> {
    Err(BadAddress {
        message: message.into(),
        hint: hint.into(),
    })
}

/// `ip:port`, `[ipv6]:port` or `unix:/path`; the mode is filled in by the caller.
pub(super) fn bind(text: &str) -> Result<Bind, BadAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path);
    }
    if text.starts_with('/') {
        return bad(
            format!("`{text}` is not an address"),
            format!("a unix socket is written \"unix:{text}\""),
        );
    }
    if let Ok(address) = text.parse() {
        return Ok(Bind::Tcp(address));
    }
    let hint = match host_and_port(text) {
        Some(("localhost", port)) => {
            format!("a listener needs an IP address, for example \"127.0.0.1:{port}\"")
        }
        Some(("*" | "", port)) => format!("every address of this machine is \"0.0.0.0:{port}\""),
        Some(_) => "a listener needs an IP address, not a name".to_owned(),
        None if text.parse::<std::net::IpAddr>().is_ok() => {
            "add a port, for example \":6379\"".to_owned()
        }
        None => "for example \"127.0.0.1:6379\" or \"unix:/run/pointsman/redis.sock\"".to_owned(),
    };
    bad(format!("`{text}` is not an address to listen on"), hint)
}

fn unix(path: &str) -> Result<Bind, BadAddress> {
    if !path.starts_with('/') {
        return bad(
            format!("the path of a unix socket must be absolute, not `{path}`"),
            "for example \"unix:/run/pointsman/redis.sock\"",
        );
    }
    if path.len() > UNIX_PATH_MAX {
        return bad(
            format!(
                "the path of the unix socket has {} bytes; the system allows {UNIX_PATH_MAX}",
                path.len()
            ),
            "choose a shorter path",
        );
    }
    let path = PathBuf::from(path);
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !parent.is_dir() {
        return bad(
            format!("the directory {} does not exist", parent.display()),
            "create it, or let the service manager create it (RuntimeDirectory= in systemd)",
        );
    }
    if is_other_than_socket(&path) {
        return bad(
            format!("{} exists and is not a socket", path.display()),
            "choose another path",
        );
    }
    Ok(Bind::Unix { path, mode: 0o660 })
}

fn is_other_than_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|m| !m.file_type().is_socket())
}

/// Permission bits written as octal digits.
pub(super) fn mode(text: &str) -> Result<u32, BadAddress> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => bad(
            format!("`{text}` is not a file mode"),
            "octal digits from \"0000\" to \"0777\", for example \"0660\"",
        ),
    }
}

/// `host:port` of a node; an IPv6 address stands in brackets.
pub(super) fn node(text: &str) -> Result<NodeId, BadAddress> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let hint = match scheme {
            "redis" | "valkey" | "tcp" => {
                format!("leave the scheme out: \"{}\"", rest.trim_end_matches('/'))
            }
            "rediss" | "valkeys" | "tls" => "TLS is not in this version of pointsman".to_owned(),
            _ => "a node is written \"host:port\"".to_owned(),
        };
        return bad(format!("`{text}` is not a node's address"), hint);
    }
    let Some((host, port)) = host_and_port(text) else {
        let hint = match text.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("an IPv6 address stands in brackets: \"[{ip}]:6379\""),
            Err(_) if text.rsplit_once(':').is_some() => {
                "a port is a number from 1 to 65535".to_owned()
            }
            Err(_) => format!("add the port, for example \"{text}:6379\""),
        };
        return bad(format!("`{text}` is not a node's address"), hint);
    };
    let bracketed = text.starts_with('[');
    let fits = match bracketed {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => is_host_name(host),
    };
    if !fits || port == 0 {
        return bad(
            format!("`{text}` is not a node's address"),
            "a host name or IP address and a port, for example \"10.0.0.1:6379\"",
        );
    }
    Ok(NodeId::new(text))
}

/// Split at the last colon; a host that holds colons must stand in brackets.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if inner.is_none() && host.contains(':') {
        return None;
    }
    Some((inner.unwrap_or(host), port.parse().ok()?))
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_host_and_a_port() {
        for good in ["10.0.0.1:6379", "redis-0.redis:6379", "[::1]:7000", "a_b:1"] {
            assert_eq!(node(good), Ok(NodeId::new(good)));
        }
        for (wrong, hint) in [
            ("10.0.0.1", "10.0.0.1:6379"),
            ("redis://10.0.0.1:6379/", "\"10.0.0.1:6379\""),
            ("rediss://a:1", "TLS"),
            ("::1", "[::1]:6379"),
            ("a:70000", "65535"),
            ("a:0", "for example"),
            (":6379", "for example"),
            ("a b:6379", "for example"),
            ("[fe80]:6379", "for example"),
        ] {
            let error = node(wrong).expect_err(wrong);
            assert!(error.hint.contains(hint), "{wrong}: {}", error.hint);
        }
    }

    #[test]
    fn a_listener_binds_an_ip_address_or_a_unix_path() {
        assert_eq!(
            bind("127.0.0.1:0"),
            Ok(Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
        );
        for (wrong, hint) in [
            ("localhost:6379", "127.0.0.1:6379"),
            ("*:6379", "0.0.0.0:6379"),
            (":6379", "0.0.0.0:6379"),
            ("127.0.0.1", "port"),
            ("/run/x.sock", "unix:/run/x.sock"),
            ("unix:x.sock", "unix:/run"),
            ("unix:/no-such-directory/x.sock", "create it"),
            ("unix:/tmp", "another path"),
        ] {
            let error = bind(wrong).expect_err(wrong);
            assert!(error.hint.contains(hint), "{wrong}: {}", error.hint);
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(bind(&long).is_err_and(|e| e.message.contains("108 bytes")));
    }

    #[test]
    fn wildcards_collide_with_every_address_of_their_port() {
        let tcp = |text| bind(text).expect("valid");
        assert!(tcp("0.0.0.0:1").collides(&tcp("127.0.0.1:1")));
        assert!(tcp("127.0.0.1:1").collides(&tcp("[::]:1")));
        assert!(!tcp("0.0.0.0:1").collides(&tcp("[::1]:1")));
        assert!(!tcp("127.0.0.1:1").collides(&tcp("127.0.0.2:1")));
        assert!(!tcp("127.0.0.1:0").collides(&tcp("127.0.0.1:0")));
    }
}
