//! What was said to a store and when, and what a disk may hold after a power cut.

use crate::disk::{Disk, Step, Tape};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing.
    Absent,
    /// A layer with exactly this content, as `picture` tells it.
    Whole(Vec<String>),
    /// A layer of which a container may have lost what it never flushed.
    There,
}

impl Outcome {
    fn allows(&self, found: &Self) -> bool {
        self == found || matches!((self, found), (Self::There, Self::Whole(_)))
    }

    /// How it differs, in a few words.
    fn unlike(&self, sure: &Self) -> String {
        match (self, sure) {
            (Self::Whole(found), Self::Whole(sure)) => {
                let at = found.iter().zip(sure).position(|(one, other)| one != other);
                let at = at.unwrap_or_else(|| found.len().min(sure.len()));
                format!(
                    "has {} entries, answered were {}; first {:?} instead of {:?}",
                    found.len(),
                    sure.len(),
                    found.get(at),
                    sure.get(at)
                )
            }
            (Self::Whole(found), _) => format!("has {} entries, and must be {sure:?}", found.len()),
            (_, Self::Whole(sure)) => format!("is {self:?}, answered were {} entries", sure.len()),
            _ => format!("is {self:?}, answered was {sure:?}"),
        }
    }
}

#[derive(Debug)]
struct Event {
    name: String,
    began: usize,
    ended: usize,
    after: Outcome,
}

/// Verbs with their place on the tape.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Vec<Event>);

impl Ledger {
    /// Says a verb that makes `name` what `verb` returns.
    pub(crate) fn say(&mut self, disk: &Disk, name: &str, verb: impl FnOnce() -> Outcome) {
        let began = disk.position();
        let after = verb();
        self.0.push(Event {
            name: name.to_owned(),
            began,
            ended: disk.position(),
            after,
        });
    }

    /// As [`Self::say`] of a verb whose outcome is looked at after it was answered.
    pub(crate) fn say_and_look(
        &mut self,
        disk: &Disk,
        name: &str,
        verb: impl FnOnce(),
        look: impl FnOnce() -> Outcome,
    ) {
        let began = disk.position();
        verb();
        let ended = disk.position();
        self.0.push(Event {
            name: name.to_owned(),
            began,
            ended,
            after: look(),
        });
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|event| event.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Complains unless what is found is what the last answered verb left, or what one under way may have
    /// left already.
    pub(crate) fn check(&self, name: &str, cut: usize, found: &Outcome) -> Result<(), String> {
        let mine = || self.0.iter().filter(|event| event.name == name);
        let answered = mine().rfind(|event| event.ended <= cut);
        let sure = answered.map_or(&Outcome::Absent, |event| &event.after);
        let under_way = mine().filter(|event| event.began <= cut && event.ended > cut);
        let mut legal = under_way.map(|event| &event.after).chain([sure]);
        if legal.any(|outcome| outcome.allows(found)) {
            return Ok(());
        }
        Err(format!("{name} {}", found.unlike(sure)))
    }

    fn ends(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|event| event.ended)
    }
}

/// What of the writes after the last flush reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All of them, in order.
    All,
    /// None.
    Nothing,
    /// Each piece of 4096 bytes with so many chances in ten.
    Some { seed: u64, chances: u64 },
}

/// One power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// After so many steps of the tape.
    pub(crate) at: usize,
    pub(crate) kept: Kept,
}

/// Numbers that look random and are the same in every run.
pub(crate) fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// At least `count` cuts behind step `from`, in order: at every flush, at every answer with nothing kept of
/// what was not flushed, and between flushes with random parts kept.
pub(crate) fn plan(tape: &Tape, ledger: &Ledger, from: usize, count: usize) -> Vec<Cut> {
    let flushes = (from..tape.steps.len()).filter(|at| matches!(tape.steps[*at], Step::Flush));
    let at_flushes = flushes.map(|at| Cut {
        at: at + 1,
        kept: Kept::All,
    });
    let at_answers = ledger.ends().filter(|at| *at >= from);
    let at_answers = at_answers.map(|at| Cut {
        at,
        kept: Kept::Nothing,
    });
    let mut cuts: Vec<Cut> = at_flushes.chain(at_answers).collect();
    let writes: Vec<usize> = (from..tape.steps.len())
        .filter(|at| matches!(tape.steps[*at], Step::Write(..)))
        .collect();
    let mut seed = 0;
    while cuts.len() < count && !writes.is_empty() {
        seed += 1;
        let at = writes[usize::try_from(scramble(seed)).unwrap() % writes.len()] + 1;
        let chances = [2, 5, 8][usize::try_from(seed).unwrap() % 3];
        cuts.push(Cut {
            at,
            kept: Kept::Some { seed, chances },
        });
    }
    cuts.sort_by_key(|cut| cut.at);
    cuts.dedup();
    cuts
}

/// Every `n`-th of the cuts, so that about `count` are left, of all kinds.
pub(crate) fn sample(cuts: Vec<Cut>, count: usize) -> Vec<Cut> {
    let all = cuts.len();
    let wanted = |n: usize| (n * count) / all != ((n + 1) * count) / all;
    let kept = cuts.into_iter().enumerate().filter(|(n, _)| wanted(*n));
    kept.map(|(_, cut)| cut).collect()
}

/// Plays a tape forward to one cut after the other.
pub(crate) struct Player<'a> {
    tape: &'a Tape,
    /// With every step before `done`, which ends with a flush.
    safe: Vec<u8>,
    done: usize,
}

impl<'a> Player<'a> {
    pub(crate) fn new(tape: &'a Tape) -> Self {
        Self {
            tape,
            safe: tape.before.clone(),
            done: 0,
        }
    }

    /// The disk after a cut, which must not lie before the one asked for last.
    pub(crate) fn disk_after(&mut self, cut: Cut) -> Vec<u8> {
        let steps = &self.tape.steps[..cut.at];
        let flushed = steps.iter().rposition(|step| matches!(step, Step::Flush));
        let flushed = flushed.map_or(0, |at| at + 1).max(self.done);
        for step in &steps[self.done..flushed] {
            write(&mut self.safe, step, |_| true);
        }
        self.done = flushed;
        let mut disk = self.safe.clone();
        let mut piece = 0;
        for step in &steps[flushed..] {
            write(&mut disk, step, |_| {
                piece += 1;
                match cut.kept {
                    Kept::All => true,
                    Kept::Nothing => false,
                    Kept::Some { seed, chances } => scramble(seed << 20 | piece) % 10 < chances,
                }
            });
        }
        disk
    }
}

fn write(disk: &mut [u8], step: &Step, mut keep: impl FnMut(usize) -> bool) {
    if let Step::Write(at, bytes) = step {
        for (number, piece) in bytes.chunks(4096).enumerate() {
            let at = at + number * 4096;
            if keep(at) {
                disk[at..at + piece.len()].copy_from_slice(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_stays_and_the_rest_may_go() {
        let step = |at: usize, byte: u8| Step::Write(at * 4096, vec![byte; 4096]);
        let steps = vec![step(0, 1), step(1, 1), Step::Flush, step(1, 2), step(2, 2)];
        let tape = Tape::of(vec![0; 3 * 4096], steps);
        let mut player = Player::new(&tape);
        let mut after = |at, kept| {
            let disk = player.disk_after(Cut { at, kept });
            [disk[0], disk[4096], disk[2 * 4096]]
        };
        assert_eq!(after(2, Kept::Nothing), [0, 0, 0]);
        assert_eq!(after(2, Kept::All), [1, 1, 0]);
        assert_eq!(after(3, Kept::Nothing), [1, 1, 0]);
        assert_eq!(after(5, Kept::Nothing), [1, 1, 0]);
        assert_eq!(after(5, Kept::All), [1, 2, 2]);
        let parts: Vec<[u8; 3]> = (0..40)
            .map(|seed| after(5, Kept::Some { seed, chances: 5 }))
            .collect();
        for part in [[1, 1, 0], [1, 2, 0], [1, 1, 2], [1, 2, 2]] {
            assert!(parts.contains(&part), "{part:?} never came");
        }
    }

    #[test]
    fn a_torn_layer_is_complained_about() {
        let whole = Outcome::Whole(vec!["a".to_owned()]);
        let event = Event {
            name: "l".to_owned(),
            began: 5,
            ended: 9,
            after: whole.clone(),
        };
        let ledger = Ledger(vec![event]);
        for (cut, found, fine) in [
            (4, Outcome::Absent, true),
            (4, whole.clone(), false),
            (7, Outcome::Absent, true),
            (7, whole.clone(), true),
            (7, Outcome::Whole(Vec::new()), false),
            (9, Outcome::Absent, false),
            (9, whole, true),
        ] {
            assert_eq!(ledger.check("l", cut, &found).is_ok(), fine, "{found:?} at {cut}");
        }
    }
}
