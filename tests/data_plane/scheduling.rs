//! Whose turn it is on a processor that everybody shares.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use pointsman::lab::{Address, until};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::process::Command;

use crate::plane::Plane;

/// Until there were 50 ms in which nothing else took the processor.
const LONG: Duration = Duration::from_secs(30);

/// The policies of this process' workers that were ever asked for one processor only.
fn worker_policies() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let mut policies = Vec::new();
    for task in tasks.flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let pinned = read("status").contains("Cpus_allowed_list:\t0\n");
        let stat = read("stat");
        // The name is in brackets and may hold anything; the policy is the 41st field.
        if pinned
            && let Some((name, rest)) = stat.rsplit_once(')')
            && name.contains("(worker-")
            && let Some(policy) = rest.split_whitespace().nth(38)
        {
            policies.push(policy.to_owned());
        }
    }
    policies
}

async fn until_policy_is(policy: &str) {
    let what = format!("a worker under the policy {policy}");
    let seen = until(&what, LONG, async || match worker_policies() {
        policies if policies == [policy] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    seen.await.unwrap_or_else(|error| panic!("{error}"));
}

/// Threads and programs that are started from now on run on the first processor only.
fn share_one_processor() {
    let allowed = sched_getaffinity(None).expect("it is told");
    assert!(allowed.is_set(0), "this test may run on processor 0");
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first).expect("it is allowed");
}

#[tokio::test]
async fn a_worker_lets_many_clients_run_first_and_one_client_not() {
    const NORMAL: &str = "0";
    const BATCH: &str = "3";
    share_one_processor();
    let plane = Plane::start(0).await;
    let Address::Tcp(address) = plane.address() else {
        panic!("it listens on TCP");
    };
    let (_, port) = address.rsplit_once(':').expect("a port");
    let load = |clients: &str| {
        Command::new("redis-benchmark")
            .args(["-p", port, "-t", "get", "-n", "100000000", "-c", clients])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-benchmark is installed")
    };
    until_policy_is(NORMAL).await;
    let many = load("40");
    until_policy_is(BATCH).await;
    drop(many);
    let _one = load("1");
    until_policy_is(NORMAL).await;
}
