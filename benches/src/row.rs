//! One measured number beside its peer and its goal.

use serde_json::{Value, json};

/// What a number is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// No more than this share of the peer's; without a peer nobody judges.
    OfPeer(f64),
    /// No less than this share of the peer's; without a peer nobody judges.
    ShareOfPeer(f64),
    /// A number to know, not to judge.
    Known,
}

impl Goal {
    fn met(self, value: f64, peer: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::AtLeast(limit) => Some(value >= limit),
            Self::OfPeer(share) => peer.map(|peer| value <= peer * share),
            Self::ShareOfPeer(share) => peer.map(|peer| value >= peer * share),
            Self::Known => None,
        }
    }

    fn spoken(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::OfPeer(share) => format!("<= {} x", rounded(share)),
            Self::ShareOfPeer(share) => format!(">= {} x", rounded(share)),
            Self::Known => String::new(),
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) room: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    /// Who the peer is and what it reached; none when the machine has no peer.
    pub(crate) peer: Option<(&'static str, f64)>,
    /// The least of ours and of the peer's samples, where the row is a percentile of samples.
    pub(crate) least: Option<(f64, Option<f64>)>,
    pub(crate) goal: Goal,
}

impl Row {
    /// A row of medians: our samples, and the peer's of the same rounds; no samples of a peer are no peer.
    pub(crate) fn medians(
        title: (&'static str, &'static str, &'static str),
        mut ours: Vec<f64>,
        peer: (&'static str, Vec<f64>),
        goal: Goal,
    ) -> Self {
        let (room, name, unit) = title;
        let (peer, mut peers) = peer;
        let median = percentile(&mut ours, 0.5);
        let peer = (!peers.is_empty()).then(|| (peer, percentile(&mut peers, 0.5)));
        // Both are sorted now.
        let least = ours.first().map(|least| (*least, peers.first().copied()));
        Self {
            room,
            name,
            unit,
            ours: median,
            peer,
            least,
            goal,
        }
    }

    /// Why there is no peer: none was asked for, or the machine has not what it needs.
    fn without_peer(&self) -> &'static str {
        match (self.goal, self.least) {
            (Goal::AtMost(_) | Goal::AtLeast(_) | Goal::Known, Some(_)) => "",
            _ => "no peer on this machine",
        }
    }

    /// The row as one JSON object; `ratio` is ours over the peer's.
    pub(crate) fn json(&self) -> Value {
        json!({
            "room": self.room,
            "row": self.name,
            "unit": self.unit,
            "ours": rounded(self.ours),
            "peer_name": self.peer.map_or(self.without_peer(), |(name, _)| name),
            "peer": self.peer.map(|(_, value)| rounded(value)),
            "ratio": self.peer.filter(|(_, value)| *value > 0.0).map(|(_, value)| rounded(self.ours / value)),
            "ours_min": self.least.map(|(ours, _)| rounded(ours)),
            "peer_min": self.least.and_then(|(_, peer)| peer).map(rounded),
            "load": load(),
            "goal": self.goal.spoken(),
            "met": self.goal.met(self.ours, self.peer.map(|(_, value)| value)),
        })
    }
}

/// How many wanted to run during the last minute, ourselves among them; none where the kernel tells not.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The value below which `share` of the samples lie; sorts them.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let count = samples.len();
    let wished = (0..count)
        .find(|rank| position(*rank, count) >= share)
        .unwrap_or(count.saturating_sub(1));
    samples.get(wished).copied().unwrap_or(f64::NAN)
}

#[allow(clippy::cast_precision_loss, reason = "a count of samples is far below 2^52")]
fn position(rank: usize, count: usize) -> f64 {
    (rank + 1) as f64 / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&mut samples, 0.5) - 50.0).abs() < 0.1);
        assert!((percentile(&mut samples, 0.99) - 99.0).abs() < 0.1);
        assert!((percentile(&mut [7.0], 0.5) - 7.0).abs() < 0.1);
    }

    #[test]
    fn a_goal_is_met_on_its_own_side() {
        assert_eq!(Goal::AtMost(40.0).met(40.0, None), Some(true));
        assert_eq!(Goal::AtMost(40.0).met(40.1, None), Some(false));
        assert_eq!(Goal::AtLeast(30_000.0).met(29_999.0, None), Some(false));
        assert_eq!(Goal::Known.met(1.0, None), None);
        assert_eq!(Goal::OfPeer(0.1).met(1.0, None), None);
        assert_eq!(Goal::OfPeer(0.1).met(1.0, Some(10.0)), Some(true));
        assert_eq!(Goal::OfPeer(0.1).met(1.1, Some(10.0)), Some(false));
        assert_eq!(Goal::ShareOfPeer(0.98).met(9.8, Some(10.0)), Some(true));
        assert_eq!(Goal::ShareOfPeer(0.98).met(9.7, Some(10.0)), Some(false));
    }

    #[test]
    fn medians_come_with_the_least() {
        let row = Row::medians(
            ("layers", "x", "ms"),
            vec![3.0, 1.0, 2.0],
            ("somebody", vec![40.0, 10.0, 20.0]),
            Goal::OfPeer(0.1),
        );
        let json = row.json();
        assert_eq!((&json["ours"], &json["peer"]), (&2.0.into(), &20.0.into()));
        assert_eq!(
            (&json["ours_min"], &json["peer_min"]),
            (&1.0.into(), &10.0.into())
        );
        assert_eq!(json["met"], true);
        let alone = Row::medians(("layers", "x", "ms"), vec![1.0], ("nobody", vec![]), Goal::Known);
        assert!(alone.json()["peer"].is_null());
    }

    #[test]
    fn a_row_without_peer_says_so() {
        let row = Row {
            room: "rpc",
            name: "x",
            unit: "us",
            ours: 1.0,
            peer: None,
            least: None,
            goal: Goal::Known,
        };
        assert_eq!(row.json()["peer_name"], "no peer on this machine");
        assert!(row.json()["ratio"].is_null());
    }
}
