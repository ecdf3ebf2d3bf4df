//! The record in a local file, for one monitor on one machine. Replaced atomically: temporary file
//! in the same directory, fsync, rename, fsync of the directory. A lock file beside it keeps a
//! second pointsman from deciding; its lock ends with the process, however that ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Authority, AuthorityError, Boxed, Loaded, Swap};
use crate::failover::{Record, Version};

/// A record is a few hundred bytes for each node; a file that is longer is not ours.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Version of the file's outer form; [`Record::FORMAT`] is that of the record in it.
const FILE_FORMAT: u32 = 1;

/// See the head of the file.
#[derive(Debug)]
pub struct EmbeddedAuthority {
    store: Arc<Mutex<Store>>,
}

/// Why the file can not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process holds the lock.
    #[error(
        "another pointsman ({holder}) decides with {path}; this one decides nothing while that one \
         runs"
    )]
    Locked {
        /// The state file.
        path: PathBuf,
        /// What the other one wrote into the lock file.
        holder: String,
    },
    /// The system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Written by a newer pointsman.
    #[error(
        "{path} has format {found}, and this version of pointsman knows {known}: it was written by \
         a newer one; run that one, or move the file away to start from what the nodes say"
    )]
    Newer {
        /// The state file.
        path: PathBuf,
        /// What it says.
        found: u64,
        /// What we know.
        known: u32,
    },
    /// Belongs to another backend.
    #[error(
        "{path} is the record of the backend `{found}`, not of `{wanted}`: give each backend a \
         state file of its own"
    )]
    Foreign {
        /// The state file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it should say.
        wanted: String,
    },
    /// Not a record.
    #[error(
        "{path} can not be read as a record ({why}): restore it from a backup, or move it away to \
         start from what the nodes say"
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl StateError {
    /// Whether waiting can help: the other process may end, the disk may get space. A file that can
    /// not be understood stays so.
    pub fn is_temporary(&self) -> bool {
        matches!(self, StateError::Locked { .. } | StateError::Io { .. })
    }
}

/// The file's outer form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: u32,
    version: Version,
    record: Record,
}

/// What happened to a write.
enum Written {
    Stored,
    NotStored(StateError),
    /// Renamed, and then something failed.
    Perhaps(StateError),
}

#[derive(Debug)]
struct Store {
    path: PathBuf,
    backend: Arc<str>,
    /// Held from the first use to the end.
    lock: Option<File>,
}

impl EmbeddedAuthority {
    /// Names the file; nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>, backend: impl Into<Arc<str>>) -> Self {
        EmbeddedAuthority {
            store: Arc::new(Mutex::new(Store {
                path: path.into(),
                backend: backend.into(),
                lock: None,
            })),
        }
    }

    /// Reads the file without taking the lock, to find at start-up what no waiting can mend.
    ///
    /// # Errors
    /// The file can not be read or understood. That there is none is no error.
    pub fn check(&self) -> Result<(), StateError> {
        locked(&self.store).read().map(drop)
    }
}

impl Authority for EmbeddedAuthority {
    fn load(&mut self) -> Boxed<'_, Result<Loaded, AuthorityError>> {
        let store = self.store.clone();
        Box::pin(async move {
            let load = move || {
                let mut store = locked(&store);
                store.lock()?;
                store.read()
            };
            match aside(load).await {
                Ok(loaded) => loaded.map_err(|error| AuthorityError(error.to_string())),
                Err(error) => Err(AuthorityError(error.to_string())),
            }
        })
    }

    fn swap(&mut self, expected: Version, record: Record) -> Boxed<'_, Swap> {
        let store = self.store.clone();
        Box::pin(async move {
            let swap = move || locked(&store).swap(expected, record);
            match aside(swap).await {
                Ok(swap) => swap,
                Err(error) => Swap::Unknown(error.to_string()),
            }
        })
    }
}

/// Runs `work` on a thread of its own. Not in the runtime's pool: names are resolved there, and name
/// servers that hang must not keep the record from being written.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name("record".to_owned());
    thread.spawn(move || {
        // Whoever asked may have left.
        let _ = done.send(work());
    })?;
    answer.await.map_err(io::Error::other)
}

fn locked(store: &Mutex<Store>) -> std::sync::MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Takes the lock, once.
    fn lock(&mut self) -> Result<(), StateError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = beside(&self.path, ".lock");
        let io = |source| StateError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Only for the message; an empty one is good enough.
                let _ = file.take(100).read_to_string(&mut holder);
                return Err(StateError::Locked {
                    path: self.path.clone(),
                    holder: holder.trim().to_owned(),
                });
            }
            Err(error) => return Err(io(error.into())),
        }
        // The lock is what counts. On a full disk the name in it is missing, and that is all.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = writeln!(file, "process {}", std::process::id());
        self.lock = Some(file);
        Ok(())
    }

    fn read(&self) -> Result<Loaded, StateError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(source) => return Err(self.io(source)),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut text)
            .map_err(|source| self.io(source))?;
        self.understand(&text)
    }

    fn io(&self, source: io::Error) -> StateError {
        StateError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn understand(&self, text: &[u8]) -> Result<Loaded, StateError> {
        let damaged = |why: String| StateError::Damaged {
            path: self.path.clone(),
            why,
        };
        if text.len() as u64 > MAX_FILE {
            return Err(damaged("it is too long".to_owned()));
        }
        let value: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        let formats = [
            (value.get("format"), FILE_FORMAT),
            (value.pointer("/record/format"), Record::FORMAT),
        ];
        for (found, known) in formats {
            let found = found.and_then(serde_json::Value::as_u64);
            let found = found.ok_or_else(|| damaged("it has no `format`".to_owned()))?;
            if found > u64::from(known) {
                return Err(StateError::Newer {
                    path: self.path.clone(),
                    found,
                    known,
                });
            }
        }
        let envelope: Envelope =
            serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if envelope.record.backend != self.backend {
            return Err(StateError::Foreign {
                path: self.path.clone(),
                found: envelope.record.backend.to_string(),
                wanted: self.backend.to_string(),
            });
        }
        Ok(Loaded {
            record: Some(envelope.record),
            version: envelope.version,
            opinions: Vec::new(),
        })
    }

    fn swap(&mut self, expected: Version, record: Record) -> Swap {
        let stored = self.lock().and_then(|()| self.read());
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => return Swap::Unavailable(error.to_string()),
        };
        if stored.version != expected {
            return Swap::Lost(stored);
        }
        let version = Version(expected.0 + 1);
        let envelope = Envelope {
            format: FILE_FORMAT,
            version,
            record,
        };
        match self.write(&envelope) {
            Written::Stored => Swap::Done(version),
            Written::NotStored(error) => Swap::Unavailable(error.to_string()),
            Written::Perhaps(error) => Swap::Unknown(error.to_string()),
        }
    }

    fn write(&self, envelope: &Envelope) -> Written {
        let temporary = beside(&self.path, ".tmp");
        if let Err(source) = write_synced(&temporary, envelope) {
            // It holds nothing of use; the next write would replace it anyway.
            let _ = fs::remove_file(&temporary);
            return Written::NotStored(StateError::Io {
                path: temporary,
                source,
            });
        }
        if let Err(source) = fs::rename(&temporary, &self.path) {
            return Written::NotStored(self.io(source));
        }
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match File::open(directory).and_then(|directory| directory.sync_all()) {
            Ok(()) => Written::Stored,
            Err(source) => Written::Perhaps(StateError::Io {
                path: directory.to_owned(),
                source,
            }),
        }
    }
}

fn write_synced(path: &Path, envelope: &Envelope) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(envelope)?;
    text.push(b'\n');
    let mut file = File::create(path)?;
    file.write_all(&text)?;
    // With the size, without the times: half as long on a journalled file system.
    file.sync_data()
}

/// `main.json` -> `main.json.lock`
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
