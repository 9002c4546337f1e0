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
    /// A number to know, not to judge.
    Known,
}

impl Goal {
    fn met(self, value: f64, peer: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::AtLeast(limit) => Some(value >= limit),
            Self::OfPeer(share) => peer.map(|peer| value <= peer * share),
            Self::Known => None,
        }
    }

    fn spoken(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::OfPeer(share) => format!("<= {share} x"),
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
    pub(crate) goal: Goal,
}

impl Row {
    /// The row as one JSON object; `ratio` is ours over the peer's.
    pub(crate) fn json(&self) -> Value {
        json!({
            "room": self.room,
            "row": self.name,
            "unit": self.unit,
            "ours": rounded(self.ours),
            "peer_name": self.peer.map_or("no peer on this machine", |(name, _)| name),
            "peer": self.peer.map(|(_, value)| rounded(value)),
            "ratio": self.peer.filter(|(_, value)| *value > 0.0).map(|(_, value)| rounded(self.ours / value)),
            "goal": self.goal.spoken(),
            "met": self.goal.met(self.ours, self.peer.map(|(_, value)| value)),
        })
    }
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
    }

    #[test]
    fn a_row_without_peer_says_so() {
        let row = Row {
            room: "rpc",
            name: "x",
            unit: "us",
            ours: 1.0,
            peer: None,
            goal: Goal::Known,
        };
        assert_eq!(row.json()["peer_name"], "no peer on this machine");
        assert!(row.json()["ratio"].is_null());
    }
}
