//! The three sweeps over one verb.

use plugin_api::Fault;

use crate::ground::{Ground, Shape, Start};

/// One call, or several that belong together.
pub(crate) type Step = fn(&Ground) -> Result<(), Fault>;

/// A verb with its surroundings.
pub(crate) struct Scene {
    /// Tables of the configuration; the socket is `crash`.
    pub(crate) drivers: &'static str,
    /// What is there before it.
    pub(crate) before: &'static [Step],
    /// The verb.
    pub(crate) verb: Step,
    /// Verbs that this one implies: it may be interrupted where each of them has ended.
    pub(crate) implies: &'static [Step],
    /// The verb after a fault, as an engine would say it that does not know whether it was heard.
    pub(crate) again: Step,
    /// What takes everything away again.
    pub(crate) after: &'static [Step],
}

/// A verb's world at three moments, and how many changes lie between the last two.
struct Rehearsal {
    empty: Shape,
    records: Shape,
    before: Shape,
    /// After each verb that is implied.
    between: Vec<Shape>,
    after: Shape,
    changes: u64,
    /// Changes of a start that has nothing to repair.
    start_changes: u64,
}

/// ENOSPC and EIO.
const ERRORS: [i32; 2] = [28, 5];
/// No verb makes that many changes.
const ENDLESS: u64 = 500;

impl Scene {
    /// Runs the verb without any fault, twice: the first network of a host also sets what stays set.
    fn rehearse(&self, ground: &mut Ground) -> Rehearsal {
        self.rehearse_once(ground);
        let mut rehearsal = self.rehearse_once(ground);
        self.set_up(ground);
        for step in self.implies {
            told("an implied verb", step(ground));
            rehearsal.between.push(ground.shape());
        }
        told("the verb after those it implies", (self.verb)(ground));
        self.take_down(ground, &rehearsal);
        rehearsal
    }

    fn rehearse_once(&self, ground: &mut Ground) -> Rehearsal {
        assert_eq!(ground.start("die:0"), Start::Up);
        let empty = ground.shape();
        ground.stop();
        let records = ground.records();
        ground.arm();
        assert_eq!(ground.start("die:0"), Start::Up);
        let (start_changes, _) = ground.counted();
        ground.disarm();
        // Changes are counted from the start of a process on, and so they will be while sweeping.
        assert_eq!(ground.start("die:0"), Start::Up);
        self.set_up(ground);
        // What was set up may still be at work, such as a trash being emptied.
        ground.died(true);
        let before = ground.shape();
        ground.arm();
        told("the verb", (self.verb)(ground));
        ground.died(true);
        let (changes, _) = ground.counted();
        ground.disarm();
        let after = ground.shape();
        let rehearsal = Rehearsal {
            empty,
            records,
            before,
            between: Vec::new(),
            after,
            changes,
            start_changes,
        };
        self.take_down(ground, &rehearsal);
        rehearsal
    }

    fn set_up(&self, ground: &Ground) {
        for (number, step) in self.before.iter().enumerate() {
            told(&format!("step {number} before the verb"), step(ground));
        }
    }

    fn take_down(&self, ground: &Ground, rehearsal: &Rehearsal) {
        for (number, step) in self.after.iter().enumerate() {
            told(&format!("step {number} after the verb"), step(ground));
        }
        ground.assert_becomes("after everything was taken away", &[&rehearsal.empty]);
    }

    /// After a fault: the verb was done or not done, can be said again, and leaves nothing.
    fn check(&self, ground: &Ground, rehearsal: &Rehearsal) {
        let mut legal = vec![&rehearsal.before, &rehearsal.after];
        legal.extend(&rehearsal.between);
        ground.assert_becomes("after the fault", &legal);
        told("the verb, said again", (self.again)(ground));
        ground.assert_becomes("after the verb was said again", &[&rehearsal.after]);
        self.take_down(ground, rehearsal);
    }

    fn finish(ground: &mut Ground, rehearsal: &Rehearsal) {
        ground.stop();
        let left: Vec<_> = ground.records().difference(&rehearsal.records).cloned().collect();
        assert!(left.is_empty(), "records are left:\n{}", left.join("\n"));
    }

    /// Says the verb with the fault armed and tells whether longshore died of it.
    fn attempt(&self, ground: &mut Ground) -> (bool, Result<(), Fault>) {
        self.set_up(ground);
        ground.arm();
        let answer = (self.verb)(ground);
        let died = ground.died(answer.is_ok());
        ground.disarm();
        (died, answer)
    }

    /// Kill -9 at every change of the verb.
    pub(crate) fn dies(&self) {
        let mut ground = Ground::new(self.drivers);
        let rehearsal = self.rehearse(&mut ground);
        assert!(
            rehearsal.changes > 0,
            "the verb changes nothing, so nothing is swept"
        );
        assert_eq!(ground.start("die:1"), Start::Up);
        let mut at = 1;
        loop {
            let (died, answer) = self.attempt(&mut ground);
            let (counted, point) = ground.counted();
            if !died {
                told("the verb beyond its last change", answer);
                assert!(counted < at, "longshore outlived its death at {point}");
                break;
            }
            println!("died at {point}");
            at += 1;
            assert!(at < ENDLESS, "the sweep does not end");
            assert_eq!(ground.start("die:0"), Start::Up);
            self.check(&ground, &rehearsal);
            // A process that did something before makes other changes than a fresh one.
            assert_eq!(ground.start(&format!("die:{at}")), Start::Up);
        }
        self.take_down(&ground, &rehearsal);
        Self::finish(&mut ground, &rehearsal);
        assert!(at > rehearsal.changes, "some changes were not swept");
        println!("swept {} changes", at - 1);
    }

    /// Kill -9 at every change of the verb, then at every change of the start that repairs.
    pub(crate) fn recovers(&self) {
        let mut ground = Ground::new(self.drivers);
        let rehearsal = self.rehearse(&mut ground);
        let (mut swept, stride) = (0, stride());
        for at in 1..=rehearsal.changes {
            let dies_again = format!("die:{at}");
            assert_eq!(ground.start(&dies_again), Start::Up);
            // Each death of the verb meets another share of the repairs' changes.
            let first = 1 + (at - 1) % stride;
            for repair in (first..).step_by(usize::try_from(stride).unwrap()) {
                assert!(repair < ENDLESS, "the sweep does not end");
                let (died, _) = self.attempt(&mut ground);
                if !died {
                    // Fewer changes than at the rehearsal: what it met was swept at lower numbers.
                    self.take_down(&ground, &rehearsal);
                    break;
                }
                ground.arm();
                let start = ground.start(&format!("die:{repair}"));
                // What a start leaves to be done behind its back dies as well.
                let died = start == Start::Died || ground.died(true);
                let (_, point) = ground.counted();
                ground.disarm();
                let died = died || ground.died(true);
                if died {
                    swept += 1;
                    println!("died at change {at} of the verb, then at {point}");
                    assert_eq!(ground.start("die:0"), Start::Up);
                }
                self.check(&ground, &rehearsal);
                if !died {
                    break;
                }
                assert_eq!(ground.start(&dies_again), Start::Up);
            }
        }
        Self::finish(&mut ground, &rehearsal);
        // A driver whose every change is one commit has nothing to repair at its start.
        let swept_enough = swept > 0 || rehearsal.start_changes == 0;
        assert!(swept_enough, "no start changed anything, so nothing was swept");
        println!("swept {swept} changes of repairs");
    }

    /// Every change of the verb fails once; nobody restarts anything.
    pub(crate) fn fails(&self) {
        let mut ground = Ground::new(self.drivers);
        let rehearsal = self.rehearse(&mut ground);
        let mut swept = 0;
        for errno in ERRORS {
            for at in 1.. {
                assert!(at < ENDLESS, "the sweep does not end");
                assert_eq!(ground.start(&format!("fail:{at}:{errno}")), Start::Up);
                let (died, answer) = self.attempt_failing(&mut ground);
                assert!(!died, "a failed change killed longshore");
                let (counted, point) = ground.counted();
                if counted < at {
                    told("the verb beyond its last change", answer);
                    self.take_down(&ground, &rehearsal);
                    break;
                }
                swept += 1;
                let answer = answer.err().map_or("success".into(), |fault| fault.sentence());
                println!("errno {errno} at {at}, the last was {point}: {answer}");
                // What could not be cleaned up may wait for the next verb, but not for a restart.
                told("the verb, said again", (self.again)(&ground));
                self.take_down(&ground, &rehearsal);
            }
        }
        Self::finish(&mut ground, &rehearsal);
        assert!(swept > 0, "nothing was swept");
        println!("swept {swept} failures");
    }

    fn attempt_failing(&self, ground: &mut Ground) -> (bool, Result<(), Fault>) {
        self.set_up(ground);
        ground.arm();
        let answer = (self.verb)(ground);
        // What works behind the caller's back shall meet the fault as well.
        let died = ground.died(true);
        ground.disarm();
        (died, answer)
    }
}

/// One in how many changes of a repair is swept: with LONGSHORE_SWEEP=full every one, which takes an hour.
fn stride() -> u64 {
    let full = std::env::var("LONGSHORE_SWEEP").is_ok_and(|word| word == "full");
    if full { 1 } else { 8 }
}

#[track_caller]
fn told(what: &str, answer: Result<(), Fault>) {
    if let Err(fault) = answer {
        panic!("{what} failed: {}", fault.sentence());
    }
}

/// A verb's three tests: `sweep!(mount: DRIVERS, [create], mount, [unmount, remove])`, with `mount => other`
/// where an engine that does not know whether it was heard says something else, and `leave: [revoke]`
/// where a verb implies others.
macro_rules! sweep {
    ($name:ident: $drivers:expr, $before:tt, $verb:ident, $after:tt) => {
        sweep!($name: $drivers, $before, $verb => $verb: [], $after);
    };
    ($name:ident: $drivers:expr, $before:tt, $verb:ident => $again:ident, $after:tt) => {
        sweep!($name: $drivers, $before, $verb => $again: [], $after);
    };
    ($name:ident: $drivers:expr, $before:tt, $verb:ident: $implies:tt, $after:tt) => {
        sweep!($name: $drivers, $before, $verb => $verb: $implies, $after);
    };
    ($name:ident: $drivers:expr, [$($before:ident),*], $verb:ident => $again:ident: [$($implies:ident),*], [$($after:ident),*]) => {
        mod $name {
            use super::*;
            use crate::sweep::Scene;

            const SCENE: Scene = Scene {
                drivers: $drivers,
                before: &[$($before),*],
                verb: $verb,
                implies: &[$($implies),*],
                again: $again,
                after: &[$($after),*],
            };

            #[test]
            fn dies() {
                SCENE.dies();
            }

            #[test]
            fn recovers() {
                SCENE.recovers();
            }

            #[test]
            fn fails() {
                SCENE.fails();
            }
        }
    };
}
pub(crate) use sweep;
