//! Sockets that the service manager listens on for us.
//!
//! They are there before we are and stay when we go, so that no engine's call is ever refused.
//! Protocol: `LISTEN_PID`, `LISTEN_FDS`, descriptors from 3 on (sd_listen_fds(3)).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Context, Error, Result};

const FIRST: RawFd = 3;

/// The Unix sockets handed to this process; empty without socket activation.
///
/// The descriptors are taken over once; a second call returns nothing.
pub fn listeners() -> Result<Vec<UnixListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count = handed_over(
        std::env::var("LISTEN_PID").ok().as_deref(),
        std::env::var("LISTEN_FDS").ok().as_deref(),
        std::process::id(),
    );
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + count).map(take).collect()
}

/// How many descriptors are meant for the process `me`.
fn handed_over(pid: Option<&str>, count: Option<&str>, me: u32) -> RawFd {
    if pid.and_then(|pid| pid.parse().ok()) != Some(me) {
        return 0;
    }
    count
        .and_then(|count| count.parse().ok())
        .filter(|count| (0..=1024).contains(count))
        .unwrap_or(0)
}

fn take(fd: RawFd) -> Result<UnixListener> {
    let subject = || format!("descriptor {fd}");
    // SAFETY: borrowed for this one call, which fails with EBADF if the descriptor is not open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let flags = rustix::io::fcntl_getfd(borrowed).context("take over", subject())?;
    rustix::io::fcntl_setfd(borrowed, flags | rustix::io::FdFlags::CLOEXEC)
        .context("take over", subject())?;
    let listening = rustix::net::sockopt::socket_acceptconn(borrowed).context("take over", subject())?;
    if !listening {
        return Err(Error::other("take over", subject(), "it is no listening socket"));
    }
    // SAFETY: open, as the call above showed, and ours alone: the service manager passed it to this
    // process, and `TAKEN` lets it be taken once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(UnixListener::from(owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_for_us_is_taken() {
        assert_eq!(handed_over(Some("7"), Some("2"), 7), 2);
        assert_eq!(handed_over(Some("8"), Some("2"), 7), 0);
        assert_eq!(handed_over(None, Some("2"), 7), 0);
        assert_eq!(handed_over(Some("7"), Some("-1"), 7), 0);
        assert_eq!(handed_over(Some("7"), Some("x"), 7), 0);
    }
}
