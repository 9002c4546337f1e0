//! What comes next for a volume: a table, and nothing else.
//!
//! Every verb, the repair at start and the keeper ask here until the answer is [`Step::Rest`]. A death
//! between two steps is found by the next question.

/// How a volume was found: its record's phase, and where that says whole, the back end's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is no record.
    Absent,
    /// Its making was begun and not ended.
    HalfMade,
    /// Its removal was begun and not ended.
    HalfGone,
    /// Recorded as whole, but its data is not there.
    Lost,
    /// Whole, and of a kind that needs no attaching.
    Present,
    /// Whole, not attached.
    Idle,
    /// Whole, and attached.
    Attached,
}

/// What is wanted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It shall not be.
    Gone,
    /// It shall be.
    There,
    /// A container shall have it.
    Attached,
    /// No container needs it any more.
    Idle,
}

/// Whose word keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Nobody's.
    Free,
    /// An engine that lives holds it.
    Held,
    /// A mount namespace shows it, or may show it out of our sight.
    Used,
}

/// One thing to do, after which the question is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: what is wanted is.
    Rest,
    Make,
    Attach,
    Detach,
    /// Record that it goes, and take it away.
    Remove,
    /// End what was begun: take away data, then record.
    Clear,
    Refuse(Refusal),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Lost,
    Held,
    Used,
}

/// The next step.
pub(crate) fn next(found: Found, wanted: Wanted, evidence: Evidence) -> Step {
    use Evidence::{Free, Held, Used};
    match (wanted, found) {
        // What was begun by somebody who died is ended before anything else, and is nobody's meanwhile.
        (Wanted::There | Wanted::Gone, Found::HalfMade | Found::HalfGone) => Step::Clear,
        (Wanted::Attached, Found::Absent | Found::HalfMade | Found::HalfGone) => {
            Step::Refuse(Refusal::Unknown)
        }
        (Wanted::There, Found::Absent) => Step::Make,
        (Wanted::Attached, Found::Idle) => Step::Attach,
        (Wanted::Attached, Found::Lost) => Step::Refuse(Refusal::Lost),
        (Wanted::There, Found::Lost | Found::Present | Found::Idle | Found::Attached)
        | (Wanted::Attached, Found::Present | Found::Attached)
        | (Wanted::Gone, Found::Absent)
        | (
            Wanted::Idle,
            Found::Absent | Found::HalfMade | Found::HalfGone | Found::Lost | Found::Present | Found::Idle,
        ) => Step::Rest,
        (Wanted::Idle, Found::Attached) => match evidence {
            Free => Step::Detach,
            Held | Used => Step::Rest,
        },
        (Wanted::Gone, Found::Lost | Found::Present | Found::Idle | Found::Attached) => {
            match (evidence, found) {
                (Held, _) => Step::Refuse(Refusal::Held),
                (Used, _) => Step::Refuse(Refusal::Used),
                (Free, Found::Attached) => Step::Detach,
                (Free, _) => Step::Remove,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: [Found; 7] = [
        Found::Absent,
        Found::HalfMade,
        Found::HalfGone,
        Found::Lost,
        Found::Present,
        Found::Idle,
        Found::Attached,
    ];
    const WANTED: [Wanted; 4] = [Wanted::Gone, Wanted::There, Wanted::Attached, Wanted::Idle];
    const EVIDENCE: [Evidence; 3] = [Evidence::Free, Evidence::Held, Evidence::Used];

    fn every_cell() -> impl Iterator<Item = (Found, Wanted, Evidence)> {
        FOUND.into_iter().flat_map(|found| {
            WANTED.into_iter().flat_map(move |wanted| {
                EVIDENCE
                    .into_iter()
                    .map(move |evidence| (found, wanted, evidence))
            })
        })
    }

    /// What a step that went well leaves behind.
    fn after(found: Found, step: Step) -> Found {
        match step {
            Step::Rest | Step::Refuse(_) => found,
            Step::Make | Step::Detach => Found::Idle,
            Step::Attach => Found::Attached,
            Step::Remove | Step::Clear => Found::Absent,
        }
    }

    #[test]
    fn every_way_ends_where_it_was_wanted_or_in_a_refusal() {
        for (start, wanted, evidence) in every_cell() {
            let mut found = start;
            let mut step = next(found, wanted, evidence);
            for _ in 0..3 {
                found = after(found, step);
                step = next(found, wanted, evidence);
            }
            let arrived = match wanted {
                Wanted::Gone => found == Found::Absent,
                Wanted::There => !matches!(found, Found::Absent | Found::HalfMade | Found::HalfGone),
                Wanted::Attached => matches!(found, Found::Attached | Found::Present),
                Wanted::Idle => found != Found::Attached || evidence != Evidence::Free,
            };
            match step {
                Step::Rest => assert!(arrived, "{start:?} {wanted:?} {evidence:?} rests at {found:?}"),
                Step::Refuse(_) => assert!(!arrived, "{start:?} {wanted:?} {evidence:?} refused in vain"),
                step => panic!("{start:?} {wanted:?} {evidence:?} goes round at {step:?}"),
            }
        }
    }

    #[test]
    fn what_anybody_needs_is_never_taken_away() {
        for (found, wanted, evidence) in every_cell() {
            let step = next(found, wanted, evidence);
            let whole = matches!(
                found,
                Found::Lost | Found::Present | Found::Idle | Found::Attached
            );
            if whole && evidence != Evidence::Free {
                assert!(
                    !matches!(step, Step::Remove | Step::Clear | Step::Detach),
                    "{found:?} {wanted:?} {evidence:?}: {step:?}"
                );
            }
            if wanted != Wanted::Gone && whole {
                assert!(!matches!(step, Step::Remove | Step::Clear | Step::Make));
            }
        }
    }

    #[test]
    fn an_attached_volume_is_never_removed_and_a_lost_one_never_attached() {
        for (found, wanted, evidence) in every_cell() {
            let step = next(found, wanted, evidence);
            if found == Found::Attached {
                assert_ne!(step, Step::Remove);
            }
            if found == Found::Lost {
                assert_ne!(step, Step::Attach);
            }
        }
    }
}
