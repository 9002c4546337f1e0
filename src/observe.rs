//! Logs on standard error, which the journal takes when we run under systemd: text, or JSON by flag.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one object a line.
    Json,
}

/// Starts logging with a filter such as `info` or `longshore=debug`.
pub(crate) fn start(filter: &str, format: Format) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("read the log filter {filter:?}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // The journal has its own clock.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours);
    if format == Format::Json {
        logs.json().init();
    } else if journal {
        logs.without_time().init();
    } else {
        logs.init();
    }
    Ok(())
}
