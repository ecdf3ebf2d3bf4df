//! The contract of `control::authority`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pointsman::control::authority::{
    Authority, EmbeddedAuthority, FollowAuthority, Loaded, StateError, Swap,
};
use pointsman::failover::{Record, RecordPhase, Version};
use pointsman::topology::{Epoch, NodeId};

/// A place where an authority keeps its record; each `open` is as another process that uses it
/// after the one before has ended.
pub(crate) trait Place {
    fn open(&self) -> Box<dyn Authority>;
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Directory(tempfile::tempdir().expect("directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("main.json")
    }

    fn embedded(&self) -> EmbeddedAuthority {
        EmbeddedAuthority::new(self.path(), "main")
    }
}

impl Place for Directory {
    fn open(&self) -> Box<dyn Authority> {
        Box::new(self.embedded())
    }
}

pub(crate) fn record(epoch: u64) -> Record {
    Record {
        format: Record::FORMAT,
        backend: "main".into(),
        epoch: Epoch(epoch),
        phase: RecordPhase::Serving,
        primary: NodeId::new("10.0.0.1:6379"),
        run_id: "r".into(),
        repl_id: "h".into(),
        ancestor: None,
        members: vec![NodeId::new("10.0.0.1:6379")],
        by: "test".into(),
    }
}

pub(crate) async fn version_of(authority: &mut Box<dyn Authority>) -> Version {
    authority.load().await.expect("readable").version
}

pub(crate) async fn stores(authority: &mut Box<dyn Authority>, epoch: u64) -> Version {
    let expected = version_of(authority).await;
    match authority.swap(expected, record(epoch)).await {
        Swap::Done(version) => {
            assert!(version > expected);
            version
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn contract(place: &impl Place) {
    // 1: nothing is version 0 and no record.
    let mut first = place.open();
    assert_eq!(first.load().await, Ok(Loaded::default()));
    // 2 and 3: done, and there for the next process.
    let version = stores(&mut first, 1).await;
    drop(first);
    let mut second = place.open();
    let loaded = second.load().await.expect("readable");
    assert_eq!((loaded.record, loaded.version), (Some(record(1)), version));
    // 4: a stale version loses, changes nothing and is told what is stored.
    match second.swap(Version(0), record(9)).await {
        Swap::Lost(stored) => {
            assert_eq!((stored.record, stored.version), (Some(record(1)), version));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(version_of(&mut second).await, version);
    // 2: of two swaps with the same version one is done.
    let done = second.swap(version, record(2)).await;
    assert!(matches!(done, Swap::Done(_)), "{done:?}");
    let again = second.swap(version, record(3)).await;
    assert!(matches!(again, Swap::Lost(_)), "{again:?}");
    let stored = second.load().await.expect("readable");
    assert_eq!(stored.record, Some(record(2)));
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    contract(&Directory::new()).await;
}

#[tokio::test]
async fn follow_has_nothing_and_never_swaps() {
    let mut follow = FollowAuthority;
    assert_eq!(follow.load().await, Ok(Loaded::default()));
    let swap = follow.swap(Version(0), record(1)).await;
    assert!(matches!(swap, Swap::Unavailable(_)), "{swap:?}");
    assert_eq!(follow.load().await, Ok(Loaded::default()));
}

#[tokio::test]
async fn embedded_5_a_second_process_is_refused_and_told_who_decides() {
    let directory = Directory::new();
    let mut first = directory.open();
    stores(&mut first, 1).await;
    let mut second = directory.open();
    let refused = second.load().await.expect_err("locked").to_string();
    let me = format!("process {}", std::process::id());
    assert!(refused.contains(&me), "{refused}");
    let swap = second.swap(Version(1), record(2)).await;
    assert!(matches!(swap, Swap::Unavailable(_)), "{swap:?}");
    drop(first);
    assert_eq!(version_of(&mut second).await, Version(1));
}

/// A process that died at each step of a swap leaves one of these.
#[tokio::test]
async fn embedded_3_what_a_crash_leaves_harms_nothing() {
    for leftover in ["", "{\"format\":1,\"ver", "{}"] {
        let directory = Directory::new();
        let version = stores(&mut directory.open(), 1).await;
        // Before the rename: a temporary file, complete or not.
        fs::write(directory.0.path().join("main.json.tmp"), leftover).expect("written");
        let mut next = directory.open();
        let loaded = next.load().await.expect("readable");
        assert_eq!((loaded.record, loaded.version), (Some(record(1)), version));
        // After the rename: what the next one reads is the new record.
        stores(&mut next, 2).await;
        assert!(!directory.0.path().join("main.json.tmp").exists());
        drop(next);
        let loaded = directory.open().load().await.expect("readable");
        assert_eq!(loaded.record, Some(record(2)));
    }
}

#[tokio::test]
async fn embedded_5_and_7_a_full_disk_leaves_the_old_record() {
    let directory = Directory::new();
    let mut authority = directory.open();
    let version = stores(&mut authority, 1).await;
    // Every write to this device fails with "no space left".
    std::os::unix::fs::symlink("/dev/full", directory.0.path().join("main.json.tmp"))
        .expect("linked");
    let swap = authority.swap(version, record(2)).await;
    match swap {
        Swap::Unavailable(why) => assert!(why.contains("No space left"), "{why}"),
        other => panic!("{other:?}"),
    }
    let loaded = authority.load().await.expect("readable");
    assert_eq!((loaded.record, loaded.version), (Some(record(1)), version));
    stores(&mut authority, 2).await;
}

/// Writes `text`, and returns what `check` says; neither `load` nor `swap` may change the file.
async fn refused(text: &str) -> StateError {
    let directory = Directory::new();
    fs::write(directory.path(), text).expect("written");
    let mut authority = directory.open();
    authority.load().await.expect_err("can not be understood");
    for version in [Version(0), Version(1)] {
        let swap = authority.swap(version, record(1)).await;
        assert!(matches!(swap, Swap::Unavailable(_)), "{swap:?}");
    }
    assert_eq!(fs::read_to_string(directory.path()).expect("there"), text);
    let error = directory.embedded().check().expect_err("not understood");
    assert!(!error.is_temporary());
    println!("{error}");
    error
}

fn stored_text() -> String {
    let record = serde_json::to_string(&record(1)).expect("json");
    format!("{{\"format\":1,\"version\":1,\"record\":{record}}}")
}

#[tokio::test]
async fn embedded_7_what_is_not_understood_is_never_overwritten() {
    for text in ["", "not json", "{\"format\":1}", "[]", "{\"format\":\"x\"}"] {
        assert!(
            matches!(refused(text).await, StateError::Damaged { .. }),
            "{text}"
        );
    }
    let text = stored_text();
    let newer = text.replacen("\"format\":1", "\"format\":2", 1);
    assert!(matches!(
        refused(&newer).await,
        StateError::Newer { found: 2, .. }
    ));
    let newer = text.replace(
        "\"record\":{\"format\":1",
        "\"record\":{\"format\":77,\"new\":1",
    );
    assert!(matches!(
        refused(&newer).await,
        StateError::Newer { found: 77, .. }
    ));
    let foreign = text.replace("\"backend\":\"main\"", "\"backend\":\"cache\"");
    assert!(matches!(
        refused(&foreign).await,
        StateError::Foreign { .. }
    ));
    let half = &text[..text.len() / 2];
    assert!(matches!(refused(half).await, StateError::Damaged { .. }));
}

#[test]
fn embedded_needs_no_thread_that_resolves_names() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_time()
        .build()
        .expect("a runtime");
    let (end, hangs) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let hanging = tokio::task::spawn_blocking(move || hangs.recv());
        let directory = Directory::new();
        let mut authority = directory.open();
        let stored = stores(&mut authority, 1);
        let stored = tokio::time::timeout(Duration::from_secs(10), stored).await;
        assert_eq!(stored, Ok(Version(1)));
        drop(end);
        hanging.await.expect("ends").expect_err("nothing was sent");
    });
}

#[tokio::test]
async fn embedded_5_a_missing_directory_is_said_and_may_come_back() {
    let mut authority = EmbeddedAuthority::new(Path::new("/nonexistent/main.json"), "main");
    let error = authority.load().await.expect_err("no directory");
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    assert!(authority.check().is_ok(), "no file is no error");
}
