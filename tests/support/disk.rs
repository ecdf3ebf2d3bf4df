//! A small disk of the test's own, which can be filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use pointsman::lab::Scratch;
use pointsman::lab::namespace::Namespaces;

use super::namespace;

/// Leave to mount.
const MOUNTS: Namespaces = Namespaces {
    kind: "-rm",
    first: "true",
    trial: "mount -t tmpfs -o size=1m tmpfs /mnt",
};

/// As [`namespace::is_mine`], with leave to mount.
pub fn is_mine(name: &str) -> bool {
    namespace::is_mine(name, MOUNTS)
}

/// 4 MB, mounted while this lives; nobody outside of the test sees it.
pub struct Disk {
    place: Scratch,
}

impl Disk {
    pub fn mount() -> Disk {
        let place = Scratch::new().unwrap();
        let path = place.path().to_str().unwrap();
        namespace::run("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", path]);
        Disk { place }
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Not a byte is left.
    pub fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        loop {
            match file.write(&[b'x'; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// There is space again.
    pub fn clear(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: somebody may still have a file open.
        let path = self.path().display().to_string();
        let _ = std::process::Command::new("umount")
            .args(["-l", &path])
            .status();
    }
}
