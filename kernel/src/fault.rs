//! Faults on demand, for the crash tests: fail or die at the Nth change of the world.
//!
//! Only with the cargo feature `fault`; without it [`point`] is nothing. `LONGSHORE_FAULT` is
//! `die:N:FILE` or `fail:N:ERRNO:FILE`. Points are counted while FILE exists; at the Nth the process
//! kills itself with SIGKILL, or the call fails with ERRNO. N = 0 only counts. The count goes to
//! `FILE.count`, so that a sweep knows when it has passed the last point of a verb.

#[cfg(not(feature = "fault"))]
use crate::error::Result;

/// A place where the world is about to change (or, after a commit, has just changed).
#[cfg(not(feature = "fault"))]
#[inline]
pub fn point(_operation: &'static str, _subject: &str) -> Result<()> {
    Ok(())
}

#[cfg(feature = "fault")]
pub use armed::point;

#[cfg(feature = "fault")]
mod armed {
    use std::io;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::error::{Error, Result};

    enum Action {
        Die,
        Fail(i32),
    }

    struct Plan {
        at: u64,
        action: Action,
        armed_by: PathBuf,
    }

    static SEEN: AtomicU64 = AtomicU64::new(0);

    fn plan() -> Option<&'static Plan> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        PLAN.get_or_init(|| parse(&std::env::var("LONGSHORE_FAULT").ok()?))
            .as_ref()
    }

    fn parse(text: &str) -> Option<Plan> {
        let mut parts = text.splitn(4, ':');
        let word = parts.next()?;
        let at = parts.next()?.parse().ok()?;
        let action = match word {
            "die" => Action::Die,
            "fail" => Action::Fail(parts.next()?.parse().ok()?),
            _ => return None,
        };
        Some(Plan {
            at,
            action,
            armed_by: parts.next()?.into(),
        })
    }

    /// A place where the world is about to change (or, after a commit, has just changed).
    pub fn point(operation: &'static str, subject: &str) -> Result<()> {
        let Some(plan) = plan().filter(|plan| plan.armed_by.exists()) else {
            return Ok(());
        };
        let seen = SEEN.fetch_add(1, Ordering::SeqCst) + 1;
        let mut count = plan.armed_by.clone().into_os_string();
        count.push(".count");
        let _ = std::fs::write(count, format!("{seen} {operation} {subject}\n"));
        if seen != plan.at {
            return Ok(());
        }
        match plan.action {
            Action::Die => {
                let me = rustix::process::getpid();
                let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
                loop {
                    std::thread::park();
                }
            }
            Action::Fail(errno) => Err(Error::new(
                operation,
                subject,
                io::Error::from_raw_os_error(errno),
            )),
        }
    }
}
