//! What each command does.

/// Prints a line. Whoever stopped reading, as `| head` does, needs no more of it.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod container;
mod files;
mod image;
mod inspect;
mod network;
mod run;
mod volume;

use anyhow::{Context, Result, bail};
use plugin_api::Options;

use crate::cli::Command;
use crate::engine::Engine;
use crate::monitor;

/// Does one command and returns the exit code.
pub(crate) fn perform(engine: &Engine, command: Command) -> Result<u8> {
    if !matches!(command, Command::Monitor { .. } | Command::Version) {
        engine.repair()?;
    }
    let done = match command {
        Command::Run(typed) => return run::run(engine, &typed),
        Command::Exec(typed) => return container::exec(engine, &typed),
        Command::Image(command) => image::perform(engine, command),
        Command::Network(command) => network::perform(engine, command),
        Command::Volume(command) => volume::perform(engine, command),
        Command::Commit { container, name } => image::commit(engine, &container, &name),
        Command::Diff { container } => files::diff(engine, &container),
        Command::Logs { follow, container } => container::logs(engine, &container, follow),
        Command::Ps { all, quiet } => container::ps(engine, all, quiet),
        Command::Inspect { name } => inspect::any(engine, &name),
        Command::Stop { time, containers } => each(&containers, |one| container::stop(engine, one, time)),
        Command::Start { containers } => each(&containers, |one| run::start(engine, one)),
        Command::Kill { signal, containers } => {
            each(&containers, |one| container::kill(engine, one, &signal))
        }
        Command::Rm {
            force,
            volumes,
            containers,
        } => each(&containers, |one| container::remove(engine, one, force, volumes)),
        Command::Cp { from, to } => files::cp(engine, &from, &to),
        Command::Port { container } => container::port(engine, &container),
        Command::Version => {
            inspect::version(engine);
            Ok(())
        }
        Command::Monitor { id } => monitor::run(engine, &id),
    };
    done.map(|()| 0)
}

/// Does the same to several and prints the names of those it was done to; the first failure is told in
/// the end.
fn each(names: &[String], act: impl Fn(&str) -> Result<()>) -> Result<()> {
    let mut first = None;
    for name in names {
        match act(name) {
            Ok(()) => say!("{name}"),
            Err(error) if first.is_none() => first = Some(error),
            Err(error) => eprintln!("longshore-engine: {error:#}"),
        }
    }
    first.map_or(Ok(()), Err)
}

/// Reads `key=value` rows.
fn options(typed: &[String]) -> Result<Options> {
    let mut options = Options::new();
    for row in typed {
        let (key, value) = row
            .split_once('=')
            .with_context(|| format!("option {} is not key=value", plugin_api::id::quoted(row)))?;
        if options.insert(key.to_owned(), value.to_owned()).is_some() {
            bail!("option {key} is given twice");
        }
    }
    Ok(options)
}

/// Prints rows under a heading, in columns.
fn table(heading: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = heading.iter().map(|word| word.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths);
        let padded: Vec<String> = padded.map(|(cell, width)| format!("{cell:width$}")).collect();
        say!("{}", padded.join("   ").trim_end());
    };
    line(&heading.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    for row in rows {
        line(row);
    }
}

/// How long ago, as people say it.
fn ago(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else {
        return String::new();
    };
    let seconds = jiff::Timestamp::now().as_second() - then.as_second();
    let several = |number: i64, unit: &str| {
        let ending = if number == 1 { "" } else { "s" };
        format!("{number} {unit}{ending} ago")
    };
    match seconds {
        ..60 => several(seconds.max(0), "second"),
        60..3600 => several(seconds / 60, "minute"),
        3600..86_400 => several(seconds / 3600, "hour"),
        _ => several(seconds / 86_400, "day"),
    }
}

/// Bytes, as people say them.
fn size(bytes: u64) -> String {
    let mut tenths = bytes.saturating_mul(10);
    for unit in ["B", "kB", "MB", "GB"] {
        if tenths < 10_000 {
            return if unit == "B" {
                format!("{bytes}B")
            } else {
                format!("{}.{}{unit}", tenths / 10, tenths % 10)
            };
        }
        tenths /= 1000;
    }
    format!("{}.{}TB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_options_read_well() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(1000), "1.0kB");
        assert_eq!(size(1_234_567), "1.2MB");
        assert_eq!(size(5_000_000_000), "5.0GB");
        let rows = |rows: &[&str]| options(&rows.iter().map(|&row| row.to_owned()).collect::<Vec<_>>());
        assert_eq!(rows(&["a=b=c"]).unwrap()["a"], "b=c");
        assert!(rows(&["a"]).is_err() && rows(&["a=1", "a=2"]).is_err());
    }
}
