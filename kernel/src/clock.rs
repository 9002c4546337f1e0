//! Time since boot, which nobody sets and which goes on in suspend.

use std::time::Duration;

use crate::error::{Context, Error, Result};

const UPTIME: &str = "/proc/uptime";

/// Time since boot, in steps of 10 ms.
pub fn since_boot() -> Result<Duration> {
    let text = std::fs::read_to_string(UPTIME).context("read", UPTIME)?;
    read(&text).ok_or_else(|| Error::other("read", UPTIME, "it does not begin with seconds"))
}

fn read(uptime: &str) -> Option<Duration> {
    let (whole, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    let hundredths: u64 = hundredths.parse().ok()?;
    Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_millis(hundredths * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_read_to_hundredths() {
        assert_eq!(
            read("350735.47 234388.90\n"),
            Some(Duration::from_millis(350_735_470))
        );
        assert_eq!(read("nonsense"), None);
        assert!(since_boot().unwrap() > Duration::ZERO);
    }
}
