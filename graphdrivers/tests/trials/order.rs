//! Verbs of many callers at once, and the question whether one caller could have said them one by one, in
//! an order that keeps who answered before whom, and got the same answers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use plugin_api::graph::{GraphInit, GraphPlugin};
use plugin_api::{Done, Fault, FaultKind};

use crate::common::{BackEnd, id, layer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Get,
    Put,
    Remove,
    Exists,
}

/// What a verb answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Changed,
    AlreadySo,
    Yes,
    No,
    Refused(FaultKind),
}

/// A verb between the two moments at which it was said and answered.
#[derive(Debug, Clone, Copy)]
struct Said {
    verb: Verb,
    from: u64,
    to: u64,
    answer: Answer,
}

/// One layer, as simple as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Model {
    there: bool,
    holds: u32,
}

impl Model {
    fn say(mut self, verb: Verb) -> (Self, Answer) {
        use Answer::{AlreadySo, Changed, No, Refused, Yes};
        let answer = match verb {
            Verb::Create if self.there => AlreadySo,
            Verb::Create => {
                self.there = true;
                Changed
            }
            Verb::Get if self.there => {
                self.holds += 1;
                Yes
            }
            Verb::Get => Refused(FaultKind::NotFound),
            Verb::Put if self.holds > 0 => {
                self.holds -= 1;
                Changed
            }
            Verb::Put => AlreadySo,
            Verb::Remove if !self.there => AlreadySo,
            Verb::Remove if self.holds > 0 => Refused(FaultKind::InUse),
            Verb::Remove => {
                self.there = false;
                Changed
            }
            Verb::Exists if self.there => Yes,
            Verb::Exists => No,
        };
        (self, answer)
    }
}

/// What each caller said of one layer, in the caller's order.
type History = Vec<Vec<Said>>;

/// Whether some order of the verbs explains every answer.
fn has_an_order(history: &History) -> bool {
    let mut todo = vec![(vec![0; history.len()], Model::default())];
    let mut seen = HashSet::new();
    while let Some((done, model)) = todo.pop() {
        let next = |caller: usize| history[caller].get(done[caller]).copied();
        // Whoever was answered before another began came before it.
        let first_answer = (0..history.len()).filter_map(next).map(|said| said.to).min();
        let Some(first_answer) = first_answer else {
            return true;
        };
        for caller in 0..history.len() {
            let Some(said) = next(caller).filter(|said| said.from <= first_answer) else {
                continue;
            };
            let (after, answer) = model.say(said.verb);
            if answer == said.answer {
                let mut done = done.clone();
                done[caller] += 1;
                if seen.insert((done.clone(), after)) {
                    todo.push((done, after));
                }
            }
        }
    }
    false
}

fn of_done(answer: Result<Done, Fault>) -> Answer {
    match answer {
        Ok(Done::Changed) => Answer::Changed,
        Ok(Done::AlreadySo) => Answer::AlreadySo,
        Err(fault) => Answer::Refused(fault.kind),
    }
}

fn say(plugin: &dyn GraphPlugin, name: &str, verb: Verb) -> Answer {
    match verb {
        Verb::Create => of_done(plugin.create_read_write(&layer(name, "base"))),
        Verb::Get => match plugin.get(&id(name), "") {
            // Not looked at: holds have no owner, and another caller may put this one at once.
            Ok(_) => Answer::Yes,
            Err(fault) => Answer::Refused(fault.kind),
        },
        Verb::Put => of_done(plugin.put(&id(name))),
        Verb::Remove => of_done(plugin.remove(&id(name))),
        Verb::Exists => match plugin.exists(&id(name)) {
            Ok(true) => Answer::Yes,
            Ok(false) => Answer::No,
            Err(fault) => Answer::Refused(fault.kind),
        },
    }
}

const CALLERS: usize = 8;
const NAMES: usize = 4;
const EACH: usize = 125;

/// A thousand verbs of eight callers on four layers.
pub(crate) fn a_thousand_verbs_at_once_have_an_order(back_end: BackEnd) {
    back_end.alone(|state| {
        let plugin = back_end.graph(state).unwrap();
        plugin.init(&GraphInit::default()).unwrap();
        let below = crate::common::archive(&[crate::common::file("below", "b")]);
        crate::common::fill(&*plugin, "base", "", &below).unwrap();
        let clock = AtomicU64::new(0);
        let tick = || clock.fetch_add(1, Ordering::SeqCst);
        let caller = |number: usize| {
            let mut mine: Vec<Vec<Said>> = vec![Vec::new(); NAMES];
            let mut dice = number as u64;
            for _ in 0..EACH {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1442);
                let roll = usize::try_from(dice >> 40).unwrap();
                // Gets and puts in equal numbers, so that holds come and go.
                let verb = [
                    Verb::Create,
                    Verb::Create,
                    Verb::Get,
                    Verb::Get,
                    Verb::Put,
                    Verb::Put,
                    Verb::Remove,
                    Verb::Exists,
                ][roll % 8];
                let layer = roll / 8 % NAMES;
                let from = tick();
                let answer = say(&*plugin, &format!("l{layer}"), verb);
                let to = tick();
                let said = Said {
                    verb,
                    from,
                    to,
                    answer,
                };
                mine[layer].push(said);
            }
            mine
        };
        let all: Vec<Vec<Vec<Said>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CALLERS).map(|n| scope.spawn(move || caller(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut total = 0;
        for layer in 0..NAMES {
            let history: History = all.iter().map(|mine| mine[layer].clone()).collect();
            total += history.iter().map(Vec::len).sum::<usize>();
            assert!(has_an_order(&history), "no order explains {history:#?}");
        }
        assert_eq!(total, CALLERS * EACH);
        for layer in 0..NAMES {
            let name = id(&format!("l{layer}"));
            while plugin.put(&name).unwrap() == Done::Changed {}
            plugin.remove(&name).unwrap();
        }
        assert_eq!(crate::common::mounted_below(&state.join("mounts")), 0);
        assert!(crate::common::left_in(&state.join("mounts")).is_empty());
    });
}

#[test]
fn an_answer_that_no_order_explains_is_found() {
    let said = |verb, from, to, answer| Said {
        verb,
        from,
        to,
        answer,
    };
    let create = said(Verb::Create, 0, 1, Answer::Changed);
    // The remove was over before the get began.
    let remove = said(Verb::Remove, 2, 3, Answer::Changed);
    let late = said(Verb::Get, 4, 5, Answer::Yes);
    assert!(!has_an_order(&vec![vec![create, remove], vec![late]]));
    let meanwhile = said(Verb::Exists, 2, 5, Answer::Yes);
    assert!(has_an_order(&vec![vec![create, remove], vec![meanwhile]]));
    // A held layer was removed.
    let held = said(Verb::Get, 1, 2, Answer::Yes);
    assert!(!has_an_order(&vec![
        vec![create],
        vec![held],
        vec![said(Verb::Remove, 3, 4, Answer::Changed)]
    ]));
}
