//! Logs: plain text on standard error, which the journal takes when we run under systemd.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// Starts logging with a filter such as `info` or `longshore=debug`.
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("read the log filter {filter:?}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // The journal has its own clock.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours);
    if journal {
        logs.without_time().init();
    } else {
        logs.init();
    }
    Ok(())
}
