//! Who may import whom. The table below is the rule; everything after it reads the sources and
//! holds them to it. It sees `use` trees and inline paths (`crate::x::y`, `super::x`,
//! `tokio::time::sleep`), in code and in tests; it does not see paths inside macros' string
//! arguments (`#[serde(with = "...")]`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "layering/reader.rs"]
mod reader;

use reader::{Found, dependencies, paths, tokens};

/// One row for each module at the top of `src/`.
#[rustfmt::skip]
const LAYERS: &[Layer] = &[
    // Plain values, one writer, many readers.
    Layer { name: "topology",  uses: &[],                           crates: Only(&["serde", "humantime_serde", "arc_swap", "tokio::sync", "tokio::pin"]), never: IO },
    Layer { name: "clock",     uses: &["topology"],                 crates: Only(&[]), never: &[] },
    Layer { name: "scheduling", uses: &[],                          crates: Only(&["libc"]), never: &[] },
    // Bytes in, values out.
    Layer { name: "resp",      uses: &[],                           crates: Only(&["bytes", "redis_protocol", "memchr", "itoa", "thiserror", "serde", "sha1", "tokio_util"]), never: IO },
    // The pure core: nothing that can wait, lock, log, count, roll dice or read a clock.
    Layer { name: "failover",  uses: &["topology", "resp::info", "resp::cluster_nodes"],   crates: Only(&["serde", "humantime_serde"]), never: IMPURE },
    // Names and labels.
    Layer { name: "metrics",   uses: &["topology", "clock"],        crates: Any, never: &[] },
    Layer { name: "telemetry", uses: &["metrics", "topology"],      crates: Any, never: &[] },
    // The two planes do not know each other.
    Layer { name: "proxy",     uses: &["topology", "resp", "metrics", "clock", "scheduling"],             crates: Any, never: &[] },
    Layer { name: "control",   uses: &["topology", "resp", "failover", "metrics", "clock"], crates: Any, never: &[] },
    // Shows what is published and what the core knows; asks through a trait of its own.
    Layer { name: "admin",     uses: &["topology", "metrics", "clock", "failover::Status", "failover::Health"], crates: Any, never: &[] },
    // An agent of its own: asks the admin server of a pointsman, and has one.
    Layer { name: "vip",       uses: &["topology", "resp", "metrics", "clock", "admin"],    crates: Any, never: &[] },
    // Tells by DNS what is published.
    Layer { name: "names",     uses: &["topology", "metrics"],      crates: Any, never: &[] },
    // Answers as Sentinel does; sees what `admin` sees, and asks as it does.
    Layer { name: "sentinel",  uses: &["topology", "resp", "clock", "metrics", "admin::Operator", "failover::Status", "failover::Health", "failover::NodeStatus", "failover::NodeRole"], crates: Any, never: &[] },
    // Values that the operator sets, and where they go.
    Layer { name: "config",    uses: &["topology", "resp", "proxy", "control", "failover", "admin", "names", "sentinel", "telemetry", "vip"], crates: Any, never: &[] },
    // Wiring.
    Layer { name: "app",       uses: &["topology", "clock", "resp", "failover", "metrics", "telemetry", "proxy", "control", "admin", "names", "sentinel", "config"], crates: Any, never: &[] },
    // The laboratory uses everything; nobody but the command line uses the laboratory.
    Layer { name: "lab",       uses: &["*"],                        crates: Any, never: &[] },
    Layer { name: "cli",       uses: &["*"],                        crates: Any, never: &[] },
    Layer { name: "main",      uses: &["*"],                        crates: Any, never: &[] },
];

const IO: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
];

const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::io",
    "std::thread",
    "std::process",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::OnceLock",
    "std::sync::LazyLock",
    "std::sync::mpsc",
    "std::sync::atomic",
    "std::collections::hash_map::RandomState",
    "std::hash::RandomState",
];

struct Layer {
    /// Module at the top of `src/`.
    name: &'static str,
    /// Paths inside this crate that it may name, besides its own; `*` means all.
    uses: &'static [&'static str],
    /// Other crates it may name outside of `#[cfg(test)]`; `std` is always allowed.
    crates: Crates,
    /// Paths it must not name even so.
    never: &'static [&'static str],
}

enum Crates {
    Any,
    Only(&'static [&'static str]),
}
use Crates::{Any, Only};

#[test]
fn every_import_is_allowed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = dependencies(&fs::read_to_string(root.join("Cargo.toml")).unwrap());
    let mut complaints = Vec::new();
    for file in rust_files(&root.join("src")) {
        let name = file.strip_prefix(root.join("src")).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        complaints.extend(judge(name, &text, &dependencies));
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn forbidden_imports_are_found() {
    for (file, text, forbidden) in [
        (
            "proxy/session.rs",
            "use crate::control::Driver;",
            "control::Driver",
        ),
        (
            "proxy/session.rs",
            "use crate::{resp, failover::{Event as E}};",
            "failover::Event",
        ),
        (
            "proxy/a.rs",
            "fn f() { crate::failover::Policy::default(); }",
            "failover::Policy::default",
        ),
        ("proxy/a.rs", "use super::super::control;", "control"),
        (
            "proxy/mod.rs",
            "mod x { fn f() { super::super::app::run() } }",
            "app::run",
        ),
        ("control/mod.rs", "use crate::proxy::*;", "proxy"),
        ("control/driver.rs", "pub use crate::lab::Lab;", "lab::Lab"),
        (
            "failover/machine.rs",
            "use tokio::time::sleep;",
            "tokio::time::sleep",
        ),
        (
            "failover/machine.rs",
            "fn f() { tracing::info!(\"x\") }",
            "tracing::info",
        ),
        (
            "failover/machine.rs",
            "use std::{fmt, time::{Duration, Instant}};",
            "std::time::Instant",
        ),
        (
            "failover/machine.rs",
            "fn f() -> std::sync::Mutex<u8> { todo() }",
            "std::sync::Mutex",
        ),
        (
            "failover/machine.rs",
            "use crate::resp::codec;",
            "resp::codec",
        ),
        (
            "topology/mod.rs",
            "use tokio::net::TcpStream;",
            "tokio::net::TcpStream",
        ),
        ("topology/mod.rs", "use crate::resp;", "resp"),
        (
            "admin/mod.rs",
            "use crate::control::driver::Driver;",
            "control::driver::Driver",
        ),
        (
            "admin/mod.rs",
            "use crate::failover::Machine;",
            "failover::Machine",
        ),
        (
            "admin/mod.rs",
            "#[cfg(test)] mod tests { use crate::app::App; }",
            "app::App",
        ),
        (
            "resp/codec.rs",
            "use tokio::io::AsyncRead;",
            "tokio::io::AsyncRead",
        ),
    ] {
        let complaints = judge(Path::new(file), text, &some_dependencies());
        assert_eq!(complaints.len(), 1, "{file}: {text}: {complaints:?}");
        let wanted = format!("`{forbidden}`");
        assert!(
            complaints[0].contains(&wanted),
            "{wanted} not in {complaints:?}"
        );
    }
}

#[test]
fn allowed_imports_are_not_found() {
    for (file, text) in [
        (
            "proxy/session.rs",
            "use crate::topology::{self, TopologyReader};\nuse bytes::Bytes;",
        ),
        (
            "proxy/session.rs",
            "// use crate::control::Driver;\n/* crate::failover::X */",
        ),
        (
            "proxy/session.rs",
            "const A: &str = \"crate::control\"; const B: &str = r#\"crate::app\"#;",
        ),
        (
            "proxy/session.rs",
            "fn f<'a>(x: &'a u8) -> char { 'c' }\nuse super::upstream::Upstream;",
        ),
        (
            "failover/machine.rs",
            "use std::time::Duration;\nuse super::{Event, Action};",
        ),
        (
            "failover/machine.rs",
            "use crate::resp::info::NodeInfo;\nuse serde::Serialize;",
        ),
        (
            "failover/machine.rs",
            "#[cfg(test)]\nmod tests { use super::*; use proptest::prelude::*; }",
        ),
        ("failover/tests.rs", "use proptest::prelude::*;"),
        (
            "control/driver.rs",
            "use crate::metrics;\nfn f() { metrics::count() }",
        ),
        ("topology/handle.rs", "use tokio::sync::{Notify, watch};"),
        ("admin/mod.rs", "use crate::failover::Status;"),
        ("main.rs", "use pointsman::cli;"),
    ] {
        let complaints = judge(Path::new(file), text, &some_dependencies());
        assert!(complaints.is_empty(), "{file}: {text}: {complaints:?}");
    }
}

#[test]
fn a_module_without_a_row_is_found() {
    let complaints = judge(Path::new("helpers.rs"), "", &some_dependencies());
    assert!(complaints[0].contains("no row"), "{complaints:?}");
}

fn some_dependencies() -> BTreeSet<String> {
    dependencies(
        "[dependencies]\ntokio = \"1\"\ntracing = \"0\"\nmetrics = \"0\"\n[dev-dependencies]\nproptest = \"1\"\n",
    )
}

/// What is wrong with one file, one sentence each.
fn judge(file: &Path, text: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let module = module_path(file);
    let top = module.first().map_or("lib", String::as_str);
    if top == "lib" {
        return Vec::new();
    }
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == top) else {
        return vec![format!(
            "src/{}: module `{top}` has no row in tests/layering.rs",
            file.display()
        )];
    };
    let mut complaints = BTreeMap::new();
    for found in paths(&tokens(text), &module, dependencies) {
        if let Some(why) = layer.objection(&found) {
            complaints
                .entry((found.line, found.path.join("::")))
                .or_insert(why);
        }
    }
    complaints
        .into_iter()
        .map(|((line, path), why)| format!("src/{}:{line}: `{path}`: {why}", file.display()))
        .collect()
}

impl Layer {
    fn objection(&self, found: &Found) -> Option<String> {
        let path = found.path.join("::");
        if found.ours {
            let own = within(&path, self.name);
            let allowed = self.uses.iter().any(|p| *p == "*" || within(&path, p));
            return (!own && !allowed)
                .then(|| format!("`{}` may use only its own and {:?}", self.name, self.uses));
        }
        if self.never.iter().any(|p| within(&path, p)) && !found.in_test {
            return Some(format!("`{}` must not use {path}", self.name));
        }
        let standard = ["std", "core", "alloc"].contains(&found.path[0].as_str());
        match &self.crates {
            Only(list) if !standard && !found.in_test && !list.iter().any(|p| within(&path, p)) => {
                Some(format!("`{}` may use only std and {list:?}", self.name))
            }
            _ => None,
        }
    }
}

/// Whether `path` is `prefix` or lies below it.
fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `proxy/mod.rs` -> [proxy], `proxy/session.rs` -> [proxy, session], `lib.rs` -> [].
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
