//! What is to be measured, and how long.

use std::path::PathBuf;

use anyhow::Result;

use crate::row::Row;

/// The words that came in.
pub(crate) struct Wishes {
    pub(crate) longshore: PathBuf,
    pub(crate) only: Vec<String>,
    pub(crate) quick: bool,
}

/// Measures one row, or a few that come from the same work.
pub(crate) type Measure = fn(&Wishes, &mut dyn FnMut(&Row)) -> Result<()>;

impl Wishes {
    /// How many rounds: `full`, or a glance.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick { full.min(2) } else { full }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// Measures the wished ones of `rows`. One that cannot be measured costs itself alone, but is told at
    /// the end.
    pub(crate) fn each(
        &self,
        room: &str,
        rows: &[(&str, Measure)],
        tell: &mut dyn FnMut(&Row),
    ) -> Result<()> {
        let mut broken = Vec::new();
        for (name, measure) in rows.iter().filter(|(name, _)| self.wants(name)) {
            eprintln!("{room}: {name}");
            if let Err(error) = measure(self, tell) {
                eprintln!("{room}: {name} could not be measured: {error:#}");
                broken.push(*name);
            }
        }
        anyhow::ensure!(broken.is_empty(), "{room}: not measured: {}", broken.join(", "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Goal;

    fn wishes(only: &[&str]) -> Wishes {
        Wishes {
            longshore: PathBuf::new(),
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            quick: true,
        }
    }

    #[test]
    fn a_row_that_breaks_costs_itself_alone() {
        fn fails(_: &Wishes, _: &mut dyn FnMut(&Row)) -> Result<()> {
            anyhow::bail!("no")
        }
        #[allow(
            clippy::unnecessary_wraps,
            reason = "it stands in a list beside one that fails"
        )]
        fn works(_: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
            tell(&Row::medians(
                ("r", "x", "ms"),
                vec![1.0],
                ("p", vec![]),
                Goal::Known,
            ));
            Ok(())
        }
        let mut told = 0;
        let rows: &[(&str, Measure)] = &[("one", fails), ("two", works)];
        let error = wishes(&[]).each("r", rows, &mut |_| told += 1).unwrap_err();
        assert!(error.to_string().ends_with("not measured: one"), "{error}");
        assert_eq!(told, 1);
        wishes(&["two"]).each("r", rows, &mut |_| told += 1).unwrap();
        assert_eq!(told, 2);
    }
}
