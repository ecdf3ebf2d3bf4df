//! What a node says about itself: the parts of INFO that decisions need, and ROLE.
//!
//! Read from Redis 6.0 to 8 and Valkey 8: unknown lines are passed over, and lines that older
//! versions do not have get the value that is true for those versions.

use std::collections::HashMap;
use std::sync::Arc;

use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

/// A node's role as INFO `role:` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `role:master`
    Primary,
    /// `role:slave`
    Replica,
}

/// Which program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// Redis.
    Redis,
    /// Valkey (`server_name:valkey`).
    Valkey,
}

/// One line `slaveN:` of a primary's INFO replication.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttachedReplica {
    /// Address as the primary sees or was told it.
    pub host: Arc<str>,
    /// Port the replica listens on.
    pub port: u16,
    /// `state=online`.
    pub online: bool,
    /// Offset it acknowledged last.
    pub offset: u64,
}

/// A snapshot of INFO (sections server, memory, persistence, stats, replication, keyspace).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeInfo {
    /// Redis or Valkey.
    pub kind: ServerKind,
    /// `redis_version` / `valkey_version` as (major, minor, patch).
    pub version: (u16, u16, u16),
    /// `run_id`: changes with every start of the process.
    pub run_id: Arc<str>,
    /// Role.
    pub role: Role,
    /// `master_replid`.
    pub repl_id: Arc<str>,
    /// `master_replid2`, the history before the last promotion (all zeros: none).
    pub repl_id2: Arc<str>,
    /// `second_repl_offset`: offsets of `repl_id2` are valid below this one; -1: none.
    pub second_repl_offset: i64,
    /// `master_repl_offset` of a primary, `slave_repl_offset` of a replica (bytes).
    pub offset: u64,
    /// Replica: `master_host`, `master_port`.
    pub upstream: Option<(Arc<str>, u16)>,
    /// Replica: `master_link_status:up`.
    pub link_up: bool,
    /// Replica: `master_sync_in_progress:1`.
    pub sync_in_progress: bool,
    /// `loading:1` or `async_loading:1`.
    pub loading: bool,
    /// `slave_priority`; 0 means never promote.
    pub priority: u32,
    /// `replica_announced:0` means hidden from Sentinel; true when absent.
    pub announced: bool,
    /// `slave_read_only`; true when absent.
    pub read_only: bool,
    /// `rdb_last_bgsave_status` and `aof_last_write_status` are both ok.
    pub disk_ok: bool,
    /// Primary: its attached replicas.
    pub replicas: Vec<AttachedReplica>,
    /// `min_slaves_good_slaves` is there: a write needs replicas (`min-replicas-to-write`).
    pub needs_replicas: bool,
    /// `latest_fork_usec`.
    pub latest_fork_usec: u64,
    /// `used_memory`, bytes.
    pub used_memory: u64,
    /// `maxmemory`, bytes; 0 means no limit.
    pub maxmemory: u64,
    /// Sum of `keys=` over all databases of INFO keyspace.
    pub keys: u64,
    /// `uptime_in_seconds`.
    pub uptime_seconds: u64,
}

/// What ROLE answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RoleReply {
    /// `master`
    Primary {
        /// Replication offset, bytes.
        offset: u64,
    },
    /// `slave`
    Replica {
        /// Host of the primary it follows.
        host: Arc<str>,
        /// Port of the primary it follows.
        port: u16,
        /// Whether its link is in the state `connected`.
        connected: bool,
        /// Replication offset, bytes; -1 before the first synchronization.
        offset: i64,
    },
}

/// Why an answer is not the INFO or ROLE of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// A line without which nothing can be decided is missing: another program, or a Sentinel.
    #[error("INFO has no line `{0}`")]
    Missing(&'static str),
    /// A line has a value that can not be understood.
    #[error("the value of `{0}` in INFO can not be understood")]
    Malformed(&'static str),
    /// ROLE answered something else than a primary or a replica does.
    #[error("the answer to ROLE can not be understood")]
    Role,
}

/// Reads one INFO text, or several sections put together.
///
/// # Errors
/// When `run_id`, `role`, `master_replid`, the version or the offset is missing or wrong.
pub fn parse(text: &[u8]) -> Result<NodeInfo, InfoError> {
    let fields = Fields::read(text);
    let kind = match fields.text("server_name") {
        Some("valkey") => ServerKind::Valkey,
        _ => ServerKind::Redis,
    };
    let version_line = match kind {
        ServerKind::Valkey => "valkey_version",
        ServerKind::Redis => "redis_version",
    };
    let role = match fields.required("role")? {
        "master" => Role::Primary,
        "slave" => Role::Replica,
        _ => return Err(InfoError::Malformed("role")),
    };
    let offset_line = match role {
        Role::Primary => "master_repl_offset",
        Role::Replica => "slave_repl_offset",
    };
    Ok(NodeInfo {
        kind,
        version: version(fields.required(version_line)?)
            .ok_or(InfoError::Malformed("redis_version"))?,
        run_id: fields.required("run_id")?.into(),
        role,
        repl_id: fields.required("master_replid")?.into(),
        repl_id2: fields.text("master_replid2").unwrap_or_default().into(),
        second_repl_offset: fields.number("second_repl_offset", -1)?,
        // A replica that never synchronized says -1.
        offset: fields.required_offset(offset_line)?,
        upstream: fields.upstream()?,
        link_up: fields.text("master_link_status") == Some("up"),
        sync_in_progress: fields.flag("master_sync_in_progress"),
        loading: fields.flag("loading") || fields.flag("async_loading"),
        priority: fields.number("slave_priority", 100)?,
        announced: fields.text("replica_announced") != Some("0"),
        read_only: fields.text("slave_read_only") != Some("0"),
        disk_ok: ["rdb_last_bgsave_status", "aof_last_write_status"]
            .iter()
            .all(|name| fields.text(name).is_none_or(|value| value == "ok")),
        replicas: fields.replicas(),
        needs_replicas: fields.text("min_slaves_good_slaves").is_some(),
        latest_fork_usec: fields.number("latest_fork_usec", 0)?,
        used_memory: fields.number("used_memory", 0)?,
        maxmemory: fields.number("maxmemory", 0)?,
        keys: fields.keys(),
        uptime_seconds: fields.number("uptime_in_seconds", 0)?,
    })
}

/// Reads the answer to ROLE.
///
/// # Errors
/// When it is not that of a primary or a replica.
pub fn parse_role(frame: &BytesFrame) -> Result<RoleReply, InfoError> {
    let BytesFrame::Array(items) = frame else {
        return Err(InfoError::Role);
    };
    let text = |at: usize| items.get(at).and_then(BytesFrame::as_str);
    let number = |at: usize| match items.get(at) {
        Some(BytesFrame::Integer(n)) => Some(*n),
        _ => text(at)?.parse().ok(),
    };
    let primary = || {
        Some(RoleReply::Primary {
            offset: number(1)?.try_into().ok()?,
        })
    };
    let replica = || {
        Some(RoleReply::Replica {
            host: text(1)?.into(),
            port: number(2)?.try_into().ok()?,
            connected: text(3)? == "connected",
            offset: number(4)?,
        })
    };
    match text(0) {
        Some("master") => primary(),
        Some("slave") => replica(),
        _ => None,
    }
    .ok_or(InfoError::Role)
}

/// The lines of INFO by name.
struct Fields<'t>(HashMap<&'t str, &'t str>);

impl<'t> Fields<'t> {
    /// Lines that are not text (a module may print anything) are passed over.
    fn read(text: &'t [u8]) -> Self {
        let lines = text.split(|b| *b == b'\n').filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            line.trim_end_matches('\r').split_once(':')
        });
        Fields(lines.collect())
    }

    fn text(&self, name: &str) -> Option<&'t str> {
        self.0.get(name).copied()
    }

    fn required(&self, name: &'static str) -> Result<&'t str, InfoError> {
        self.text(name).ok_or(InfoError::Missing(name))
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("1")
    }

    fn number<N: std::str::FromStr>(&self, name: &'static str, absent: N) -> Result<N, InfoError> {
        match self.text(name) {
            None => Ok(absent),
            Some(value) => value.parse().map_err(|_| InfoError::Malformed(name)),
        }
    }

    fn required_offset(&self, name: &'static str) -> Result<u64, InfoError> {
        let offset: i64 = self
            .required(name)?
            .parse()
            .map_err(|_| InfoError::Malformed(name))?;
        Ok(offset.max(0).unsigned_abs())
    }

    fn upstream(&self) -> Result<Option<(Arc<str>, u16)>, InfoError> {
        let Some(host) = self.text("master_host") else {
            return Ok(None);
        };
        Ok(Some((host.into(), self.number("master_port", 0)?)))
    }

    /// The lines `slave0:`, `slave1:`, ... in their order; one that can not be understood is passed
    /// over.
    fn replicas(&self) -> Vec<AttachedReplica> {
        let mut found: Vec<(u32, AttachedReplica)> = self
            .0
            .iter()
            .filter_map(|(name, value)| {
                let number = name.strip_prefix("slave")?.parse().ok()?;
                Some((number, attached(value)?))
            })
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, replica)| replica).collect()
    }

    fn keys(&self) -> u64 {
        self.0
            .iter()
            .filter(|(name, _)| {
                let number = name.strip_prefix("db").unwrap_or_default();
                !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
            })
            .filter_map(|(_, value)| pair(value, "keys")?.parse::<u64>().ok())
            .sum()
    }
}

fn attached(value: &str) -> Option<AttachedReplica> {
    Some(AttachedReplica {
        host: pair(value, "ip")?.into(),
        port: pair(value, "port")?.parse().ok()?,
        online: pair(value, "state") == Some("online"),
        offset: pair(value, "offset")
            .and_then(|offset| offset.parse().ok())
            .unwrap_or(0),
    })
}

/// The value of `name` in `a=1,b=2`.
fn pair<'v>(list: &'v str, name: &str) -> Option<&'v str> {
    list.split(',')
        .find_map(|item| item.strip_prefix(name)?.strip_prefix('='))
}

/// `7.0.15` and also `8.0.0-rc1`; missing parts are 0.
fn version(text: &str) -> Option<(u16, u16, u16)> {
    let mut parts = text.split('.').map(|part| {
        let end = part
            .bytes()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(part.len());
        part[..end].parse::<u16>().ok()
    });
    let major = parts.next()??;
    let mut next = || parts.next().flatten().unwrap_or(0);
    Some((major, next(), next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6b0ae6ccc2d8dfeb0bd90f8675631a918e76359c";

    fn primary() -> String {
        format!(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:{ID}\r\nuptime_in_seconds:61\r\n\r\n\
             # Memory\r\nused_memory:916792\r\nmaxmemory:1000000\r\n\r\n\
             # Persistence\r\nloading:0\r\nasync_loading:0\r\nrdb_last_bgsave_status:ok\r\n\
             aof_last_write_status:ok\r\n# Stats\r\nlatest_fork_usec:421\r\n# Replication\r\n\
             role:master\r\nconnected_slaves:2\r\nmin_slaves_good_slaves:0\r\n\
             slave0:ip=10.0.0.2,port=6379,state=online,offset=1400,lag=0\r\n\
             slave1:ip=::1,port=6380,state=wait_bgsave,offset=0,lag=0,type=replica\r\n\
             master_replid:{ID}\r\nmaster_replid2:{:0>40}\r\nmaster_repl_offset:1414\r\n\
             second_repl_offset:-1\r\n# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\n\
             db12:keys=4,expires=0,avg_ttl=0,subexpiry=0\r\n",
            0
        )
    }

    #[test]
    fn a_primary_of_redis_7() {
        let info = parse(primary().as_bytes()).expect("real text");
        assert_eq!(info.kind, ServerKind::Redis);
        assert_eq!(info.version, (7, 0, 15));
        assert_eq!(info.role, Role::Primary);
        assert_eq!((info.offset, info.second_repl_offset), (1414, -1));
        assert_eq!((info.keys, info.uptime_seconds), (7, 61));
        assert_eq!((info.used_memory, info.maxmemory), (916_792, 1_000_000));
        assert_eq!(info.latest_fork_usec, 421);
        assert!(info.needs_replicas);
        assert!(info.disk_ok && !info.loading && info.upstream.is_none());
        assert_eq!(info.replicas.len(), 2);
        assert_eq!(&*info.replicas[1].host, "::1");
        assert!(info.replicas[0].online && !info.replicas[1].online);
    }

    #[test]
    fn a_replica_of_valkey_8() {
        let text = format!(
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\nrun_id:{ID}\r\n\
             loading:0\r\nasync_loading:1\r\nrdb_last_bgsave_status:err\r\nrole:slave\r\n\
             master_host:redis-1\r\nmaster_port:6379\r\nmaster_link_status:down\r\n\
             master_sync_in_progress:1\r\nslave_read_repl_offset:1\r\nslave_repl_offset:77\r\n\
             slave_priority:0\r\nslave_read_only:0\r\nreplica_announced:0\r\n\
             connected_slaves:0\r\nmaster_replid:{ID}\r\nmaster_replid2:{ID}\r\n\
             master_repl_offset:80\r\nsecond_repl_offset:70\r\n"
        );
        let info = parse(text.as_bytes()).expect("real text");
        assert_eq!((info.kind, info.version), (ServerKind::Valkey, (8, 1, 0)));
        assert_eq!((info.role, info.offset), (Role::Replica, 77));
        assert_eq!(info.upstream, Some(("redis-1".into(), 6379)));
        assert!(info.loading && info.sync_in_progress && !info.link_up);
        assert!(!info.disk_ok && !info.announced && !info.read_only);
        assert_eq!((info.priority, info.second_repl_offset), (0, 70));
    }

    #[test]
    fn what_redis_6_does_not_say_is_the_harmless_value() {
        let text = format!(
            "redis_version:6.0.16\nrun_id:{ID}\nrole:master\nmaster_replid:{ID}\n\
             master_repl_offset:0\n"
        );
        let info = parse(text.as_bytes()).expect("enough");
        assert_eq!(info.version, (6, 0, 16));
        assert!(info.announced && info.read_only && info.disk_ok && !info.loading);
        assert_eq!((info.priority, info.keys), (100, 0));
    }

    #[test]
    fn a_sentinel_and_garbage_are_not_nodes() {
        let sentinel = format!("redis_version:7.0.15\r\nrun_id:{ID}\r\nsentinel_masters:1\r\n");
        assert_eq!(parse(sentinel.as_bytes()), Err(InfoError::Missing("role")));
        assert_eq!(parse(b"hello\xff"), Err(InfoError::Missing("role")));
        let odd = primary().replace("master_repl_offset:1414", "master_repl_offset:many");
        assert_eq!(
            parse(odd.as_bytes()),
            Err(InfoError::Malformed("master_repl_offset"))
        );
    }

    #[test]
    fn versions_of_all_forms() {
        assert_eq!(version("8.0.0-rc1"), Some((8, 0, 0)));
        assert_eq!(version("255.255.255"), Some((255, 255, 255)));
        assert_eq!(version("7.4"), Some((7, 4, 0)));
        assert_eq!(version("unstable"), None);
    }

    #[test]
    fn role_of_both_kinds() {
        let bulk = |text: &'static str| BytesFrame::BulkString(text.into());
        let primary = BytesFrame::Array(vec![
            bulk("master"),
            BytesFrame::Integer(42),
            BytesFrame::Array(vec![]),
        ]);
        assert_eq!(parse_role(&primary), Ok(RoleReply::Primary { offset: 42 }));
        let replica = BytesFrame::Array(vec![
            bulk("slave"),
            bulk("10.0.0.1"),
            BytesFrame::Integer(6379),
            bulk("connected"),
            BytesFrame::Integer(-1),
        ]);
        assert_eq!(
            parse_role(&replica),
            Ok(RoleReply::Replica {
                host: "10.0.0.1".into(),
                port: 6379,
                connected: true,
                offset: -1
            })
        );
        let sentinel = BytesFrame::Array(vec![bulk("sentinel")]);
        assert_eq!(parse_role(&sentinel), Err(InfoError::Role));
    }
}
