//! When a worker lets others run first, so that more requests are there when it looks.
//!
//! A worker that is woken by the first of fifty clients and takes the processor from the others serves one
//! request, wakes the node for one, and is woken again by the next. Under the policy `SCHED_BATCH` it does not
//! take the processor: the others finish what they were at, and one turn serves them all. On a processor that
//! is idle there is no difference. Where somebody who sends nothing has the processor, it would only wait: so
//! this is for as long as it gathers, and does not wait (docs/decisions/0057).

use std::time::Duration;

use metrics::Gauge;

use crate::metrics::workers_batch_scheduled;
use crate::scheduling::{CpuUse, CurrentThread, SchedulingPolicy};
use crate::topology::Timestamp;

/// Clients served between two looks, below which it does not matter: 1,000 a second.
const LEAST_SERVED: u32 = 50;
/// Clients that a turn serves, from which on it gathers, and from which on it goes on to do so.
const GATHERS: u32 = 3;
const STILL_GATHERS: u32 = 2;
/// For every so many clients that a turn serves, the worker may wait as long as it runs.
const SERVED_PER_WAIT: u32 = 8;
/// When it waited too long, it is not tried again for this long.
const PAUSE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Gathering {
    /// `None`: the kernel can not say enough, or the operator chose the policy.
    thread: Option<CurrentThread>,
    turns: u32,
    served: u32,
    /// Until the last look; `None`: that one found too little to do.
    used: Option<CpuUse>,
    chosen: Choice,
    under_batch: Gauge,
}

impl Gathering {
    /// Of the thread that calls; `wanted` is the operator's setting.
    pub(super) fn new(wanted: bool) -> Self {
        let thread = wanted.then(CurrentThread::new).and_then(Result::ok);
        let normal =
            |thread: &CurrentThread| matches!(thread.policy(), Ok(Some(SchedulingPolicy::Normal)));
        Gathering {
            thread: thread.filter(normal),
            turns: 0,
            served: 0,
            used: None,
            chosen: Choice::default(),
            under_batch: workers_batch_scheduled(),
        }
    }

    /// A turn served so many clients.
    pub(super) fn turn(&mut self, served: u32) {
        self.turns += u32::from(served > 0);
        self.served += served;
    }

    /// Looks at what was done since the last look, and chooses the policy.
    pub(super) fn look(&mut self, now: Timestamp) {
        let (turns, served) = (
            std::mem::take(&mut self.turns),
            std::mem::take(&mut self.served),
        );
        if served < LEAST_SERVED && self.chosen.policy() == SchedulingPolicy::Normal {
            self.used = None;
            return;
        }
        let Some(thread) = &self.thread else {
            return;
        };
        let before = self.chosen.policy();
        let done = thread.cpu_use().and_then(|used| {
            let Some(since) = self.used.replace(used) else {
                return Ok(());
            };
            self.chosen.look(
                now,
                &Look {
                    turns,
                    served,
                    ran: used.ran.saturating_sub(since.ran),
                    waited: used.waited.saturating_sub(since.waited),
                },
            );
            let policy = self.chosen.policy();
            if policy != before {
                tracing::debug!(?policy, turns, served, "scheduling");
                thread.set_policy(policy)?;
                match policy {
                    SchedulingPolicy::Batch => self.under_batch.increment(1),
                    SchedulingPolicy::Normal => self.under_batch.decrement(1),
                }
            }
            Ok(())
        });
        if let Err(error) = done {
            tracing::info!(%error, "workers can not let their clients run first; they work without");
            self.thread = None;
        }
    }
}

/// What a worker did for a while.
struct Look {
    /// Turns that served clients.
    turns: u32,
    /// Clients served, each once for every turn.
    served: u32,
    ran: Duration,
    waited: Duration,
}

impl Look {
    fn gathers(&self, least: u32) -> bool {
        // A kernel that does not count says 0.
        !self.ran.is_zero() && self.served >= LEAST_SERVED && self.served >= least * self.turns
    }

    fn waits_too_long(&self) -> bool {
        // waited / ran > (served / turns) / SERVED_PER_WAIT, without a division by 0.
        self.waited * self.turns * SERVED_PER_WAIT > self.ran * self.served
    }
}

/// The policy, and what it was chosen by.
#[derive(Default)]
struct Choice {
    batch: bool,
    not_before: Timestamp,
}

impl Choice {
    fn policy(&self) -> SchedulingPolicy {
        match self.batch {
            true => SchedulingPolicy::Batch,
            false => SchedulingPolicy::Normal,
        }
    }

    fn look(&mut self, now: Timestamp, look: &Look) {
        if self.batch && look.waits_too_long() {
            self.not_before = now + PAUSE;
        }
        let least = if self.batch { STILL_GATHERS } else { GATHERS };
        self.batch = now >= self.not_before && look.gathers(least) && !look.waits_too_long();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn look(turns: u32, served: u32, ran_us: u64, waited_us: u64) -> Look {
        Look {
            turns,
            served,
            ran: Duration::from_micros(ran_us),
            waited: Duration::from_micros(waited_us),
        }
    }

    /// Measured with redis-benchmark, Redis and a worker on one processor; by policy.
    const ONE_CORE: [Look; 2] = [
        look(480, 7_350, 17_600, 18_100),
        look(148, 7_360, 15_200, 18_400),
    ];
    /// The same on two processors that two busy loops share with them, with ten clients.
    const BESIDE_LOOPS: [Look; 2] = [
        look(1_150, 2_400, 15_600, 16_900),
        look(163, 424, 2_400, 46_000),
    ];

    fn after(looks: &[&Look]) -> Choice {
        let mut choice = Choice::default();
        for (number, look) in looks.iter().enumerate() {
            let now = Timestamp::from_start(Duration::from_millis(50 * number as u64));
            choice.look(now, look);
        }
        choice
    }

    #[test]
    fn many_clients_on_one_processor_run_first_for_as_long_as_they_send() {
        let [normal, batch] = &ONE_CORE;
        assert!(after(&[normal]).batch);
        assert!(after(&[normal, batch, batch]).batch);
        assert!(!after(&[normal, batch, &look(3, 20, 100, 100)]).batch);
    }

    #[test]
    fn one_client_is_served_at_once() {
        assert!(!after(&[&look(700, 700, 22_000, 4_700)]).batch);
        let pipelines_alone = look(900, 900, 40_000, 1_000);
        assert!(!after(&[&pipelines_alone]).batch);
    }

    #[test]
    fn a_worker_that_gathers_goes_on_when_it_gathers_a_little_less() {
        let two_and_a_half = look(2_000, 5_000, 33_000, 10_000);
        assert!(!after(&[&two_and_a_half]).batch);
        assert!(after(&[&look(3_500, 11_000, 37_000, 12_000), &two_and_a_half]).batch);
    }

    #[test]
    fn a_worker_beside_busy_loops_does_not_wait_for_them() {
        let [normal, batch] = &BESIDE_LOOPS;
        assert!(!after(&[normal]).batch);
        assert!(!after(&[&ONE_CORE[0], batch]).batch);
    }

    #[test]
    fn what_waited_too_long_is_not_tried_again_at_once() {
        let mut choice = after(&[&ONE_CORE[0], &BESIDE_LOOPS[1]]);
        let left = Timestamp::from_start(Duration::from_millis(50));
        choice.look(left + PAUSE / 2, &ONE_CORE[0]);
        assert!(!choice.batch);
        choice.look(left + PAUSE, &ONE_CORE[0]);
        assert!(choice.batch);
    }

    #[test]
    fn a_policy_that_the_operator_chose_is_left_alone() -> std::io::Result<()> {
        assert!(Gathering::new(true).thread.is_some());
        assert!(Gathering::new(false).thread.is_none());
        let started_so = std::thread::spawn(|| {
            CurrentThread::new()?.set_policy(SchedulingPolicy::Batch)?;
            std::io::Result::Ok(Gathering::new(true).thread.is_none())
        });
        assert!(started_so.join().expect("it does not panic")?);
        Ok(())
    }

    #[test]
    fn a_kernel_that_counts_nothing_changes_nothing() {
        assert!(!after(&[&look(480, 7_350, 0, 0)]).batch);
    }
}
