//! Broken bodies never break the reader: recorded requests, mutated.
//!
//! Deterministic: the seed is fixed unless `LONGSHORE_FUZZ_SEED` says otherwise,
//! and `LONGSHORE_FUZZ_ITERATIONS` makes the run long.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to stop")]

mod heard;

use heard::{Heard, decode, has_fields};
use plugin_api::wire::{Verb, failure, failure_in};
use serde_json::{Value, json};

const SEED: u64 = 0x6c6f_6e67_7368_6f72;
const ITERATIONS: u64 = 20_000;

/// A small generator of our own, so that a seed means the same for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Values that have hurt readers before.
fn nasty() -> Vec<Value> {
    vec![
        Value::Null,
        json!(-1),
        json!(65_536),
        json!(1e300),
        json!(true),
        json!([]),
        json!({}),
        json!([[[[]]]]),
        json!(""),
        json!("../../etc"),
        json!("a\u{0}b"),
        json!("/"),
        json!("10.0.0.0/99"),
        json!("::/0"),
        json!("\u{202e}\u{feff}"),
        json!("x".repeat(70_000)),
    ]
}

/// Breaks the bytes: flips, cuts, doubles.
fn break_bytes(dice: &mut Dice, body: &mut Vec<u8>) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(body.len());
        match dice.below(4) {
            0 if !body.is_empty() => body[at] ^= 1 << dice.below(8),
            1 => body.truncate(at),
            2 => body.insert(at, *dice.pick(b"{}[]\",:\\\0\xff0")),
            _ => {
                let rest = body[at..].to_vec();
                body.extend(rest);
            }
        }
    }
}

/// Breaks the meaning: puts a nasty value somewhere in the tree.
fn break_value(dice: &mut Dice, value: &mut Value) {
    let here = dice.below(3) == 0;
    match value {
        Value::Object(fields) if !fields.is_empty() && !here => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let key = dice.pick(&keys);
            break_value(dice, &mut fields[key]);
        }
        Value::Array(rows) if !rows.is_empty() && !here => {
            let at = dice.below(rows.len());
            break_value(dice, &mut rows[at]);
        }
        other => *other = dice.pick(&nasty()).clone(),
    }
}

fn mutated(dice: &mut Dice, heard: &Heard) -> Vec<u8> {
    let mut body = heard.body.clone();
    if dice.below(2) == 0
        && let Ok(mut value) = serde_json::from_slice::<Value>(&body)
    {
        break_value(dice, &mut value);
        return value.to_string().into_bytes();
    }
    break_bytes(dice, &mut body);
    body
}

/// The rules of error texts: one line, no full stop, not a page.
fn assert_sentence(sentence: &str, verb: Verb, body: &[u8]) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(300)]);
    let name = verb.name();
    assert!(!sentence.is_empty(), "{name}: no sentence for {shown}");
    assert!(
        !sentence.contains(['\n', '\0', '\u{1b}']),
        "{name}: control characters in {sentence:?} for {shown}"
    );
    assert!(!sentence.ends_with('.'), "{name}: full stop in {sentence:?}");
    assert!(
        sentence.len() < 4096,
        "{name}: {} bytes of sentence for {shown}",
        sentence.len()
    );
}

#[test]
fn mutated_requests_are_read_or_refused_with_a_sentence() {
    let corpus: Vec<Heard> = heard::all()
        .into_iter()
        .filter(|heard| has_fields(heard.verb()) && !heard.is_archive)
        .collect();
    let seed = from_env("LONGSHORE_FUZZ_SEED", SEED);
    let mut dice = Dice(seed);
    let mut refused = 0_u64;
    let iterations = from_env("LONGSHORE_FUZZ_ITERATIONS", ITERATIONS);
    for _ in 0..iterations {
        let heard = dice.pick(&corpus);
        let body = mutated(&mut dice, heard);
        // Sometimes the body of one verb arrives at another.
        let verb = if dice.below(8) == 0 {
            *dice.pick(Verb::ALL)
        } else {
            heard.verb()
        };
        if let Err(fault) = decode(verb, &heard.path, &body) {
            refused += 1;
            assert_sentence(&fault.sentence(), verb, &body);
        }
    }
    println!("seed {seed:#x}: {iterations} bodies, {refused} refused");
    assert!(
        refused > iterations / 10,
        "only {refused} of {iterations} were refused: the mutations are too tame"
    );
}

#[test]
fn mutated_queries_are_read_or_refused_with_a_sentence() {
    let corpus: Vec<Heard> = heard::all()
        .into_iter()
        .filter(|heard| heard.verb() == Verb::GraphApplyDiff)
        .collect();
    let mut dice = Dice(from_env("LONGSHORE_FUZZ_SEED", SEED));
    for _ in 0..2_000 {
        let mut path = dice.pick(&corpus).path.clone().into_bytes();
        break_bytes(&mut dice, &mut path);
        let path = String::from_utf8_lossy(&path);
        if let Err(fault) = decode(Verb::GraphApplyDiff, &path, b"") {
            assert_sentence(&fault.sentence(), Verb::GraphApplyDiff, path.as_bytes());
        }
    }
}

#[test]
fn mutated_failures_never_hide_that_they_failed() {
    let mut dice = Dice(from_env("LONGSHORE_FUZZ_SEED", SEED));
    for _ in 0..2_000 {
        let mut body = failure(Some(*dice.pick(Verb::ALL)), "no such thing");
        break_bytes(&mut dice, &mut body);
        assert!(failure_in(500, &body).is_some_and(|sentence| !sentence.is_empty()));
    }
}
