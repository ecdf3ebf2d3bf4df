//! How the kernel schedules a thread: how long it ran and waited, and the policy. Linux only, as the rest.
//!
//! The only unsafe code of this crate: no library sets the policy of a thread without setting its niceness
//! too (docs/decisions/0057).

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The two policies for ordinary threads, see sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulingPolicy {
    /// `SCHED_OTHER`: a thread that wakes up may take the processor from the one that runs.
    Normal,
    /// `SCHED_BATCH`: a thread that wakes up waits until the one that runs waits itself, or has had its share.
    Batch,
}

/// What a thread did with its time since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// It was on a processor.
    pub ran: Duration,
    /// It could have run, and others did.
    pub waited: Duration,
}

/// The thread that made it: the kernel's calls mean the caller, so it does not leave that thread.
#[derive(Debug)]
pub struct CurrentThread {
    schedstat: File,
    of_this_thread: PhantomData<*const ()>,
}

impl CurrentThread {
    /// # Errors
    /// The kernel keeps no figures about threads (`CONFIG_SCHED_INFO`), or has them hidden.
    pub fn new() -> io::Result<Self> {
        Ok(CurrentThread {
            schedstat: File::open("/proc/thread-self/schedstat")?,
            of_this_thread: PhantomData,
        })
    }

    /// One system call.
    ///
    /// # Errors
    /// The kernel said something else than three numbers.
    pub fn cpu_use(&self) -> io::Result<CpuUse> {
        let mut text = [0; 64];
        let len = self.schedstat.read_at(&mut text, 0)?;
        parse(&text[..len]).ok_or_else(|| {
            let said = text[..len].escape_ascii();
            io::Error::new(io::ErrorKind::InvalidData, format!("schedstat says {said}"))
        })
    }

    /// `None`: another one than the two of [`SchedulingPolicy`], such as a real-time policy.
    ///
    /// # Errors
    /// The kernel does not tell.
    #[allow(unsafe_code)]
    pub fn policy(&self) -> io::Result<Option<SchedulingPolicy>> {
        // SAFETY: takes and returns plain numbers; 0 is the calling thread.
        match unsafe { libc::sched_getscheduler(0) } {
            -1 => Err(io::Error::last_os_error()),
            libc::SCHED_OTHER => Ok(Some(SchedulingPolicy::Normal)),
            libc::SCHED_BATCH => Ok(Some(SchedulingPolicy::Batch)),
            _ => Ok(None),
        }
    }

    /// Needs no right. Threads that this one starts inherit it.
    ///
    /// # Errors
    /// A filter of system calls forbids it.
    #[allow(unsafe_code)]
    pub fn set_policy(&self, policy: SchedulingPolicy) -> io::Result<()> {
        let policy = match policy {
            SchedulingPolicy::Normal => libc::SCHED_OTHER,
            SchedulingPolicy::Batch => libc::SCHED_BATCH,
        };
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: reads the parameters, which outlive the call; 0 is the calling thread.
        match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Nanoseconds on a processor, nanoseconds in a run queue, and how often it got one
/// (Documentation/scheduler/sched-stats of Linux).
fn parse(schedstat: &[u8]) -> Option<CpuUse> {
    let text = std::str::from_utf8(schedstat).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(|n| n.parse().ok());
    let ran = Duration::from_nanos(numbers.next()??);
    let waited = Duration::from_nanos(numbers.next()??);
    Some(CpuUse { ran, waited })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_can_be_set_and_taken_back() -> io::Result<()> {
        let thread = CurrentThread::new()?;
        let before = thread.policy()?;
        for policy in [SchedulingPolicy::Batch, SchedulingPolicy::Normal] {
            thread.set_policy(policy)?;
            assert_eq!(thread.policy()?, Some(policy));
        }
        thread.set_policy(before.unwrap_or(SchedulingPolicy::Normal))
    }

    #[test]
    fn a_thread_that_works_has_run() -> io::Result<()> {
        let thread = CurrentThread::new()?;
        let before = thread.cpu_use()?;
        let mut work = 0_u64;
        while thread.cpu_use()?.ran < before.ran + Duration::from_millis(1) {
            work = std::hint::black_box(work + 1);
        }
        Ok(())
    }

    #[test]
    fn what_is_not_two_numbers_is_nothing() {
        let said = CpuUse {
            ran: Duration::from_nanos(12),
            waited: Duration::from_nanos(3),
        };
        assert_eq!(parse(b"12 3 4\n"), Some(said));
        for bad in ["", "12", "12 x 4", "-1 2 3"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
