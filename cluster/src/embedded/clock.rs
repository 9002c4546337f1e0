//! Until when leases live: in time since boot, which nobody sets and which goes on in suspend.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// The time of this boot.
#[derive(Debug)]
pub(super) struct Clock {
    /// Which boot it is.
    boot: String,
}

impl Clock {
    pub(super) fn new() -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            boot: boot.trim().to_owned(),
        })
    }

    /// Until when the lease of a file lives; 0, which is over, where it is of an earlier boot or none.
    pub(super) fn read(&self, path: &Path) -> io::Result<u64> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        let mut words = text.split_whitespace();
        let this_boot = words.next() == Some(self.boot.as_str());
        let deadline = words.next().and_then(|word| word.parse().ok());
        Ok(deadline.filter(|_| this_boot).unwrap_or(0))
    }

    /// Lets the lease of a file live for `ttl` from now on. One write of one length, so that a kill
    /// leaves the old time or the new one.
    pub(super) fn write(&self, path: &Path, ttl: Duration) -> io::Result<()> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let deadline = now()?.saturating_add(ttl);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let line = format!("{} {deadline:020} {:010}\n", self.boot, std::process::id());
        file.write_all_at(line.as_bytes(), 0)
    }
}

/// Milliseconds since boot.
pub(super) fn now() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    milliseconds(&text).ok_or_else(|| io::Error::other(format!("/proc/uptime says {text:?}")))
}

fn milliseconds(uptime: &str) -> Option<u64> {
    let (whole, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    Some(whole.parse::<u64>().ok()? * 1000 + hundredths.parse::<u64>().ok()? * 10)
}

/// A name that nobody else has.
pub(super) fn random() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_reads_in_milliseconds() {
        assert_eq!(milliseconds("350735.47 234388.90\n"), Some(350_735_470));
        assert_eq!(milliseconds("nonsense"), None);
    }

    #[test]
    fn a_lease_of_an_earlier_boot_or_without_a_file_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let clock = Clock::new().unwrap();
        assert_eq!(clock.read(&path).unwrap(), 0);
        clock.write(&path, Duration::from_secs(60)).unwrap();
        assert!(clock.read(&path).unwrap() > now().unwrap());
        let later = Clock {
            boot: "another".to_owned(),
        };
        assert_eq!(later.read(&path).unwrap(), 0);
    }
}
