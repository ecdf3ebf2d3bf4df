//! Bodies of the scripts that went through us. Scripts are not replicated as loads, so a promoted
//! node does not know them: they are loaded before the first request reaches it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha1::{Digest, Sha1};

/// More bodies than this, or more bytes, are not remembered: EVALSHA then answers -NOSCRIPT after a
/// failover, as Redis would.
const MAX_SCRIPTS: usize = 10_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The scripts of one backend, shared by its workers.
#[derive(Default)]
pub(super) struct Scripts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    bodies: HashMap<[u8; 20], Bytes>,
    bytes: usize,
    /// `run_id` of the process that has them all.
    loaded_on: Option<Arc<str>>,
}

impl Scripts {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the body of an EVAL or SCRIPT LOAD.
    pub(super) fn remember(&self, body: &[u8]) {
        let sha: [u8; 20] = Sha1::digest(body).into();
        let mut inner = self.lock();
        if inner.bodies.len() < MAX_SCRIPTS
            && inner.bytes + body.len() <= MAX_BYTES
            && !inner.bodies.contains_key(&sha)
        {
            inner.bytes += body.len();
            inner.bodies.insert(sha, Bytes::copy_from_slice(body));
        }
    }

    /// The same bodies, of which no process is known to have them.
    pub(super) fn copy(&self) -> Scripts {
        let inner = self.lock();
        Scripts(Mutex::new(Inner {
            bodies: inner.bodies.clone(),
            bytes: inner.bytes,
            loaded_on: None,
        }))
    }

    /// SCRIPT FLUSH went through. Which process has them all stays true.
    pub(super) fn forget(&self) {
        let mut inner = self.lock();
        inner.bodies.clear();
        inner.bytes = 0;
    }

    /// What a connection to the process `run_id` must load before its first request.
    pub(super) fn missing_on(&self, run_id: &str) -> Vec<Bytes> {
        let inner = self.lock();
        match &inner.loaded_on {
            Some(loaded) if **loaded == *run_id => Vec::new(),
            _ => inner.bodies.values().cloned().collect(),
        }
    }

    /// Everything remembered so far was loaded on the process `run_id`, or went through it.
    pub(super) fn loaded(&self, run_id: &Arc<str>) {
        self.lock().loaded_on = Some(run_id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_process_misses_what_the_old_one_has() {
        let scripts = Scripts::default();
        scripts.loaded(&"a".into());
        scripts.remember(b"return 1");
        assert!(scripts.missing_on("a").is_empty());
        assert_eq!(scripts.missing_on("b").len(), 1);
        scripts.loaded(&"b".into());
        assert!(scripts.missing_on("b").is_empty());
        scripts.forget();
        assert!(scripts.missing_on("c").is_empty());
        scripts.remember(b"return 2");
        assert!(scripts.missing_on("b").is_empty(), "it went through it");
    }
}
