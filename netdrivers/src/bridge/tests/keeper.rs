//! What others break while the driver runs.

use std::time::Instant;

use super::*;

/// How long until it is so.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(5), "{what} is not repaired");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

pub(super) fn nft(words: &[&str]) {
    #[allow(clippy::disallowed_methods)] // A test may be the somebody who runs nft.
    let status = std::process::Command::new("nft").args(words).status().unwrap();
    assert!(status.success());
}

pub(super) fn network_with_a_port(world: &World) -> Container {
    let driver = world.driver();
    driver
        .create_network(&network_spec("one", "10.9.0.0/24"))
        .unwrap();
    let b = world.start("one", "b", "10.9.0.3/24");
    b.serve(80, "b");
    world.publish(&b.at, Protocol::Tcp, 8080, 80).unwrap();
    b
}

/// The goal for the time from an event to its repair.
pub(super) const SOON: Duration = Duration::from_millis(100);

#[test]
fn a_flushed_firewall_is_whole_again_within_a_tenth_of_a_second() {
    World::run(|world| {
        let there = outside();
        let _b = network_with_a_port(&world);
        let netfilter = Socket::netfilter().unwrap();
        for words in [
            &["flush", "ruleset"][..],
            &["delete", "table", "inet", "longshore"],
            &["flush", "chain", "inet", "longshore", "forward"],
            &["flush", "set", "inet", "longshore", "bridges"],
            &["add", "rule", "inet", "longshore", "forward", "drop"],
        ] {
            nft(words);
            let took = until("the table", || {
                netfilter.tables().unwrap() == ["longshore"]
                    && world.driver().core.are_tables_whole().unwrap()
            });
            assert!(took < SOON, "{words:?} was repaired after {took:?}");
        }
        assert_eq!(
            there.run(|| reads("192.0.2.1:8080")).unwrap().as_deref(),
            Some("b")
        );
    });
}

#[test]
fn a_deleted_bridge_or_address_is_there_again_within_a_tenth_of_a_second() {
    World::run(|world| {
        let there = outside();
        let b = network_with_a_port(&world);
        let host = Socket::route().unwrap();
        let outer = plan::link_names(&b.at.endpoint).0;
        let is_whole = || {
            let bridge = host.link("br-one").unwrap().map(|bridge| bridge.index);
            let has_address = host
                .addresses()
                .unwrap()
                .iter()
                .any(|has| Some(has.link) == bridge && has.address.to_string() == "10.9.0.1/24");
            let port = host.link(&outer).unwrap().unwrap();
            bridge.is_some() && has_address && port.master == bridge && port.is_up()
        };
        assert!(is_whole());
        let bridge = || host.index_of("br-one").unwrap();
        let breaks: [(&str, &dyn Fn() -> kernel::netlink::Request); 5] = [
            ("bridge", &|| link::delete(At::Name("br-one"))),
            ("address", &|| {
                address::delete(bridge(), "10.9.0.1/24".parse().unwrap())
            }),
            ("bridge that is down", &|| link::set_down(At::Name("br-one"))),
            ("port", &|| link::set_master(At::Name(&outer), None)),
            ("port that is down", &|| link::set_down(At::Name(&outer))),
        ];
        for (what, request) in breaks {
            host.one(request()).unwrap();
            let took = until(what, is_whole);
            assert!(took < SOON, "the {what} was repaired after {took:?}");
        }
        let read = there
            .run(|| (0..5).find_map(|_| reads("192.0.2.1:8080")))
            .unwrap();
        assert_eq!(read.as_deref(), Some("b"));
    });
}

#[test]
fn a_comparison_finds_what_no_event_told_and_changes_nothing_else() {
    run_in_new(|| {
        let home = tempfile::tempdir().unwrap();
        let host = Socket::route().unwrap();
        host.one(link::set_up(At::Name("lo"))).unwrap();
        // The core alone hears of nothing.
        let core = super::super::driver::Core::open(home.path(), home.path()).unwrap();
        core.make_network_of(&network_spec("one", "10.9.0.0/24")).unwrap();
        let (rules, links) = (ruleset(), link_names());
        for words in [
            &["flush", "ruleset"][..],
            &["flush", "set", "inet", "longshore", "bridges"],
            &["flush", "chain", "inet", "longshore", "publish"],
        ] {
            nft(words);
            core.compare_all().unwrap();
            assert_eq!(ruleset(), rules, "{words:?}");
        }
        host.one(link::delete(At::Name("br-one"))).unwrap();
        core.compare_all().unwrap();
        assert_eq!(link_names(), links);
        let watch = kernel::netlink::watch::Watch::open().unwrap();
        core.compare_all().unwrap();
        assert_eq!(tables_made(&watch), 0, "a whole table was replaced");
    })
    .unwrap();
}

/// How often the table was made since `watch` was asked last.
fn tables_made(watch: &kernel::netlink::watch::Watch) -> usize {
    use kernel::netlink::watch::Event;
    let mut count = 0;
    watch
        .wait(Duration::from_millis(300), |event| {
            count += usize::from(matches!(event, Event::Table(..)));
        })
        .unwrap();
    count
}

#[test]
fn the_keeper_rests_behind_its_own_and_its_drivers_changes() {
    World::run(|world| {
        let watch = kernel::netlink::watch::Watch::open().unwrap();
        let b = network_with_a_port(&world);
        world.driver().revoke(&b.at).unwrap();
        assert!(tables_made(&watch) > 0);
        assert_eq!(tables_made(&watch), 0, "the keeper answered the driver");
        nft(&["flush", "chain", "inet", "longshore", "forward"]);
        std::thread::sleep(Duration::from_millis(200));
        assert!(tables_made(&watch) > 0);
        assert_eq!(tables_made(&watch), 0, "the keeper answered itself");
        world.driver().delete_network(&b.at.network).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        nothing_is_left();
    });
}
