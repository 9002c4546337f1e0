//! `cargo xtask bench`: builds with optimisation, measures, prints the table.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{dist, run};

/// Measures `rooms`, or all; writes the rows as JSON lines to `json` too.
pub(crate) fn bench(rooms: &[String], json: Option<&Path>) -> Result<()> {
    let release = dist::build(&["longshore", "benches"])?;
    let mut command = run::program("unshare");
    // The drivers are real: what they make shall be seen by nobody else.
    command.args(["--mount", "--net", "--propagation", "private"]);
    command
        .arg(release.join("longshore-bench"))
        .arg("--longshore")
        .arg(release.join("longshore"))
        .args(rooms);
    let lines = run::read_out(&mut command)?;
    let rows: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("read the row {line}")))
        .collect::<Result<_>>()?;
    print!("{}", table(&rows));
    if let Some(file) = json {
        std::fs::write(file, lines).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn table(rows: &[Value]) -> String {
    let mut text = format!(
        "{:8} {:28} {:8} {:>10} {:>10} {:>7} {:>10} {:5} {}\n",
        "room", "row", "unit", "ours", "peer", "ratio", "goal", "met", "peer name"
    );
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| {
            row[key]
                .as_f64()
                .map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        let met = match row["met"].as_bool() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let _ = writeln!(
            text,
            "{:8} {:28} {:8} {:>10} {:>10} {:>7} {:>10} {:5} {}",
            word("room"),
            word("row"),
            word("unit"),
            number("ours"),
            number("peer"),
            number("ratio"),
            word("goal"),
            met,
            word("peer_name")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missed_goal_stands_out() {
        let row = json!({"room": "rpc", "row": "x", "unit": "us", "ours": 41.0, "peer": null,
            "peer_name": "no peer on this machine", "ratio": null, "goal": "<= 40", "met": false});
        let text = table(&[row]);
        assert!(
            text.contains(" NO ") && text.contains("no peer on this machine"),
            "{text}"
        );
    }
}
