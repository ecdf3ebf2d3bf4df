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

/// The policies of this process' workers that run on processor `cpu` only.
fn worker_policies(cpu: usize) -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let mut policies = Vec::new();
    for task in tasks.flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let pinned = read("status").contains(&format!("Cpus_allowed_list:\t{cpu}\n"));
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

async fn until_policy_is(policy: &str, cpu: usize) {
    let what = format!("a worker under the policy {policy}");
    let seen = until(&what, LONG, async || match worker_policies(cpu) {
        policies if policies == [policy] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    seen.await.unwrap_or_else(|error| panic!("{error}"));
}

/// Threads and programs that are started from now on run on one processor only; returns which.
fn share_one_processor() -> usize {
    let allowed = sched_getaffinity(None).expect("it is told");
    let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let cpu = cpu.expect("this test runs somewhere");
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).expect("it is allowed");
    cpu
}

#[tokio::test]
async fn a_worker_lets_many_clients_run_first_and_one_client_not() {
    const NORMAL: &str = "0";
    const BATCH: &str = "3";
    let cpu = share_one_processor();
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
    until_policy_is(NORMAL, cpu).await;
    let many = load("40");
    until_policy_is(BATCH, cpu).await;
    drop(many);
    let _one = load("1");
    until_policy_is(NORMAL, cpu).await;
}
