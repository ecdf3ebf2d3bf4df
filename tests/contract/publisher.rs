//! The contract of `control::publisher`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use pointsman::clock;
use pointsman::control::publisher::{Announcement, HookPublisher, PublishError, Publisher};
use pointsman::topology::{Epoch, NodeId};

fn announcement(epoch: u64) -> Announcement {
    Announcement {
        backend: "main".into(),
        epoch: Epoch(epoch),
        from: Some(NodeId::new("10.0.0.1:6379")),
        to: NodeId::new("[::1]:6380"),
        planned: false,
    }
}

/// Calls publish once with each epoch and says what the audience heard, line by line.
pub async fn contract(publisher: &mut dyn Publisher, heard: impl Fn() -> Vec<String>) {
    publisher.publish(announcement(5)).await.expect("published");
    let once = heard();
    assert_eq!(once.len(), 1);
    // 1: twice is as good as once.
    publisher.publish(announcement(5)).await.expect("published");
    assert_eq!(heard().last(), once.last());
    // 2: an older one is refused.
    let older = publisher.publish(announcement(4)).await;
    assert!(
        matches!(older, Err(PublishError::Older(Epoch(5)))),
        "{older:?}"
    );
    assert_eq!(heard().last(), once.last());
    // 4: a newer one is heard.
    publisher.publish(announcement(6)).await.expect("published");
    assert_ne!(heard().last(), once.last());
}

struct Hook {
    directory: tempfile::TempDir,
}

impl Hook {
    /// A script that first notes how it was called.
    fn new(script: &str) -> Hook {
        let hook = Hook {
            directory: tempfile::tempdir().expect("directory"),
        };
        let text = format!(
            "#!/bin/sh\necho \"$@\" \"epoch $POINTSMAN_EPOCH\" >> {}\n{script}\n",
            hook.heard_file().display()
        );
        fs::write(hook.program(), text).expect("written");
        fs::set_permissions(hook.program(), fs::Permissions::from_mode(0o755)).expect("chmod");
        hook
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("hook")
    }

    fn heard_file(&self) -> PathBuf {
        self.directory.path().join("heard")
    }

    fn heard(&self) -> Vec<String> {
        let text = fs::read_to_string(self.heard_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn publisher(&self, limit: Duration) -> HookPublisher {
        HookPublisher::new(self.program(), limit)
    }
}

pub const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn hook_keeps_the_contract() {
    let hook = Hook::new("exit 0");
    contract(&mut hook.publisher(LONG), || hook.heard()).await;
    assert_eq!(
        hook.heard()[0],
        "main leader failover 10.0.0.1 6379 ::1 6380 epoch 5"
    );
}

#[tokio::test]
async fn hook_3_a_program_that_hangs_is_killed_with_its_children() {
    let hook = Hook::new("sleep 600 & echo $! > \"$0.child\"\nwait");
    let start = clock::now();
    let mut publisher = hook.publisher(Duration::from_millis(700));
    let outcome = publisher.publish(announcement(1)).await;
    assert!(
        matches!(outcome, Err(PublishError::Failed(_))),
        "{outcome:?}"
    );
    assert!(clock::now() - start < Duration::from_secs(10));
    let child = fs::read_to_string(hook.directory.path().join("hook.child")).expect("started");
    let state = PathBuf::from(format!("/proc/{}/stat", child.trim()));
    pointsman::lab::until("the child's end", LONG, async || {
        // A zombie that nobody has waited for yet is dead too.
        match fs::read_to_string(&state) {
            Ok(text) if !text.contains(") Z ") => Err(text),
            _ => Ok(()),
        }
    })
    .await
    .expect("killed");
}

#[tokio::test]
async fn hook_4_a_failure_says_why_and_the_next_try_is_a_new_call() {
    let hook = Hook::new("echo no route >&2; exit 3");
    let mut publisher = hook.publisher(LONG);
    for calls in 1..=2 {
        match publisher.publish(announcement(1)).await {
            Err(PublishError::Failed(why)) => {
                assert!(why.contains("3") && why.contains("no route"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(hook.heard().len(), calls);
    }
    let mut missing = HookPublisher::new("/nonexistent/hook", LONG);
    let outcome = missing.publish(announcement(1)).await;
    assert!(
        matches!(outcome, Err(PublishError::Failed(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn hook_what_is_left_in_the_background_is_not_waited_for() {
    let hook = Hook::new("sleep 600 & echo $! > \"$0.child\"\nexit 0");
    let start = clock::now();
    hook.publisher(LONG)
        .publish(announcement(1))
        .await
        .expect("published");
    assert!(clock::now() - start < Duration::from_secs(10));
    let child = fs::read_to_string(hook.directory.path().join("hook.child")).expect("started");
    let child = child
        .trim()
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let child = child.expect("a process id");
    rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("killed");
}
