//! Which names there are.

use std::collections::HashMap;

use hickory_proto::rr::Name;

/// What a name of the zone stands for; numbers are those of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The zone itself.
    Apex,
    /// This server.
    Server,
    /// The primary of a backend.
    Primary(usize),
    /// The SRV record of a backend.
    Service(usize),
    /// The other nodes of a backend.
    Replicas(usize),
    /// No records, but there are names below it: it exists (RFC 8020).
    Between,
}

/// The names of the zone.
#[derive(Debug)]
pub(super) struct Zone {
    origin: Name,
    server: Name,
    owners: HashMap<Name, Owner>,
}

/// Why a backend can have no name in the zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// Something else has it.
    #[error("the backend `{backend}` would need the name {name}, which stands for something else")]
    Name {
        /// Name of the backend.
        backend: String,
        /// The name; DNS does not tell upper from lower case.
        name: Name,
    },
    /// It is no domain name.
    #[error("the backend `{backend}` can have no name in the zone: {why}")]
    Malformed {
        /// Name of the backend.
        backend: String,
        /// What is wrong.
        why: String,
    },
}

/// Whether every backend can have its names in the zone.
///
/// # Errors
/// The first one that can not.
pub fn check(zone: &Name, backends: &[&str]) -> Result<(), Taken> {
    Zone::new(zone, backends).map(drop)
}

impl Zone {
    pub(super) fn new(origin: &Name, backends: &[&str]) -> Result<Zone, Taken> {
        let mut owners = HashMap::new();
        let server = below(origin, "ns", "ns")?;
        owners.insert(origin.clone(), Owner::Apex);
        owners.insert(server.clone(), Owner::Server);
        for (index, backend) in backends.iter().enumerate() {
            let primary = below(origin, backend, backend)?;
            let names = [
                (primary.clone(), Owner::Primary(index)),
                (
                    below(&primary, "_redis._tcp", backend)?,
                    Owner::Service(index),
                ),
                (
                    below(&primary, "replicas", backend)?,
                    Owner::Replicas(index),
                ),
            ];
            for (name, owner) in names {
                if owners.get(&name).is_some_and(|o| *o != Owner::Between) {
                    return Err(Taken::Name {
                        backend: (*backend).to_owned(),
                        name,
                    });
                }
                let mut parent = name.base_name();
                while parent.num_labels() > origin.num_labels() {
                    owners.entry(parent.clone()).or_insert(Owner::Between);
                    parent = parent.base_name();
                }
                owners.insert(name, owner);
            }
        }
        Ok(Zone {
            origin: origin.clone(),
            server,
            owners,
        })
    }

    pub(super) fn origin(&self) -> &Name {
        &self.origin
    }

    /// Name of this server.
    pub(super) fn server(&self) -> &Name {
        &self.server
    }

    pub(super) fn holds(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    /// `None`: there is no such name.
    pub(super) fn owner(&self, name: &Name) -> Option<Owner> {
        self.owners.get(name).copied()
    }
}

fn below(origin: &Name, labels: &str, backend: &str) -> Result<Name, Taken> {
    let name = Name::from_ascii(labels).and_then(|name| name.append_domain(origin));
    name.map_err(|error| Taken::Malformed {
        backend: backend.to_owned(),
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    #[test]
    fn names_between_exist_and_case_does_not_count() {
        let zone = Zone::new(&name("redis.internal."), &["main", "eu.west"]).expect("a zone");
        let owner = |text: &str| zone.owner(&name(text));
        assert_eq!(owner("redis.internal."), Some(Owner::Apex));
        assert_eq!(owner("MAIN.redis.internal."), Some(Owner::Primary(0)));
        assert_eq!(owner("_tcp.main.redis.internal."), Some(Owner::Between));
        assert_eq!(
            owner("_redis._tcp.main.redis.internal."),
            Some(Owner::Service(0))
        );
        assert_eq!(owner("west.redis.internal."), Some(Owner::Between));
        assert_eq!(
            owner("replicas.eu.west.redis.internal."),
            Some(Owner::Replicas(1))
        );
        assert_eq!(owner("other.redis.internal."), None);
        assert!(!zone.holds(&name("redis.external.")));
    }

    #[test]
    fn two_things_never_have_the_same_name() {
        let origin = name("redis.internal.");
        for (backends, taken) in [
            (&["ns"][..], "ns.redis.internal."),
            (&["main", "MAIN"], "MAIN.redis.internal."),
            (&["main", "replicas.main"], "replicas.main.redis.internal."),
        ] {
            match check(&origin, backends) {
                Err(Taken::Name { name: found, .. }) => assert_eq!(found, name(taken)),
                other => panic!("{other:?}"),
            }
        }
        let long = "x".repeat(64);
        assert!(matches!(
            check(&origin, &[&long]),
            Err(Taken::Malformed { .. })
        ));
        assert!(matches!(
            check(&origin, &["a..b"]),
            Err(Taken::Malformed { .. })
        ));
    }
}
