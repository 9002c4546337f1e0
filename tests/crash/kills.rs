//! Kills that no change of the world chose: at any moment, while an engine goes on with its work.

use std::time::{Duration, Instant};

use crate::ground::{Ground, Start};
use crate::network::{self, DRIVERS};
use crate::sweep::Step;

/// What an engine says in turn; it does not stop where it gets no answer.
const LIFE: [Step; 7] = [
    network::network,
    network::endpoint,
    network::join,
    network::program,
    network::revoke,
    network::leave,
    network::no_endpoint,
];

/// Kills in one run of the test command; LONGSHORE_KILLS asks for another number.
const FEW: u64 = 25;

/// A moment within a life, or soon behind it: each kill another one.
fn moment(nth: u64, life: Duration) -> Duration {
    // A multiplicative generator spreads them evenly.
    let spread = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    life.mul_f64(f64::from(u16::try_from(spread).unwrap()) / 1000.0)
}

#[test]
fn kills_at_any_moment_of_an_endpoints_life_leave_nothing_behind() {
    let kills = std::env::var("LONGSHORE_KILLS").map_or(FEW, |number| number.parse().unwrap());
    let mut ground = Ground::new(DRIVERS);
    // The first network of a host also sets what stays set.
    assert_eq!(ground.start("die:0"), Start::Up);
    network::network(&ground).unwrap();
    network::no_network(&ground).unwrap();
    let empty = ground.shape();
    let start = Instant::now();
    for step in LIFE {
        step(&ground).unwrap();
    }
    let life = start.elapsed();
    network::no_network(&ground).unwrap();
    let mut cut_short = 0;
    for nth in 0..kills {
        let pid = ground.pid();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(moment(nth, life));
                pid.kill().unwrap();
            });
            let answers: Vec<_> = LIFE.iter().map(|step| step(&ground).is_ok()).collect();
            cut_short += u64::from(answers.contains(&false));
        });
        assert_eq!(ground.start("die:0"), Start::Up, "kill {nth}");
        // The engine takes away what it knows of, as it does after its own restart.
        network::no_endpoint(&ground).unwrap();
        network::no_network(&ground).unwrap();
        ground.assert_becomes(&format!("after kill {nth}"), &[&empty]);
    }
    assert!(
        cut_short > kills / 4,
        "only {cut_short} of {kills} kills met a life"
    );
    println!("{cut_short} of {kills} kills cut a life of {life:?} short");
}
