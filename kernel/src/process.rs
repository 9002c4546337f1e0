//! Processes named so that a reused pid is never mistaken for them.
//!
//! A pid alone may belong to somebody else by the time it is read back from a record. A pid together
//! with its start time does not.

use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Context, Error, Result};
use crate::fault;

/// The name of this boot of the machine: another one after each.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).context("read", path)?;
    Ok(text.trim().to_owned())
}

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Identity {
    /// The process that has `pid` now, or `None`.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        let path = PathBuf::from(format!("/proc/{pid}/stat"));
        let stat = match std::fs::read_to_string(&path) {
            Ok(stat) => stat,
            Err(error) => {
                let error = Error::new("read", path.to_string_lossy(), error);
                return if error.is_missing() { Ok(None) } else { Err(error) };
            }
        };
        let Some((state, started)) = parse(&stat) else {
            return Err(Error::other("read", path.to_string_lossy(), "is no stat line"));
        };
        // A zombie holds nothing any more; it only waits for its parent.
        Ok((!matches!(state, 'Z' | 'X')).then_some(Self { pid, started }))
    }

    /// This process.
    pub fn own() -> Result<Self> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::of(pid)?.ok_or_else(|| Error::other("identify process", pid.to_string(), "it is gone"))
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> Result<bool> {
        Ok(Self::of(self.pid)? == Some(*self))
    }

    /// Sends SIGKILL to this very process; `false` if it was gone already.
    pub fn kill(&self) -> Result<bool> {
        let subject = self.pid.to_string();
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Err(Error::other("kill process", subject, "is no process id"));
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()).context("open process", &subject) {
            Ok(handle) => handle,
            Err(error) if error.is_missing() => return Ok(false),
            Err(error) => return Err(error),
        };
        // The handle pins the process, so what is compared now cannot change before the signal.
        if !self.is_alive()? {
            return Ok(false);
        }
        fault::point("kill process", &subject)?;
        match pidfd_send_signal(&handle, Signal::KILL).context("kill process", &subject) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// State and start time of a line of `/proc/PID/stat`. The command's name stands in parentheses and may
/// hold anything, parentheses and spaces too, so the fields are counted behind the last one.
fn parse(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; the state was field 3.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// Makes this process the leader of a session of its own, away from any terminal. Fails with EPERM for
/// the leader of a process group.
pub fn new_session() -> Result<()> {
    fault::point("make session of", "process")?;
    rustix::process::setsid()
        .map(drop)
        .context("make session of", "process")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Tool;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let numbers: Vec<String> = (4..=52).map(|n: u32| n.to_string()).collect();
        let line = format!("7 (a) b) S) R {}", numbers.join(" "));
        assert_eq!(parse(&line), Some(('R', 22)));
        assert_eq!(parse("7 (a"), None);
        assert_eq!(parse("7 (a) R 4"), None);
    }

    #[test]
    fn this_process_is_alive_and_its_namesake_is_not() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive().unwrap());
        let namesake = Identity {
            started: own.started + 1,
            ..own
        };
        assert!(!namesake.is_alive().unwrap());
        // Were the start time not compared, this test would end here by SIGKILL.
        assert!(!namesake.kill().unwrap());
    }

    #[test]
    fn a_killed_process_is_gone() {
        let mut child = Tool::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = Identity::of(pid).unwrap().unwrap();
        assert!(identity.kill().unwrap());
        child.wait().unwrap();
        assert!(!identity.is_alive().unwrap());
        assert!(!identity.kill().unwrap());
    }
}
