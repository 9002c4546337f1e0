//! Many at once.

use std::time::Instant;

use super::*;

const NETWORKS: usize = 10;
const WRITERS: usize = 16;
/// Endpoints of one writer, together a thousand.
const EACH: usize = 63;

fn spec_of(nth: usize) -> NetworkSpec {
    network_spec(&format!("n{nth}"), &format!("10.9.{nth}.0/24"))
}

/// A writer's nth endpoint; those of one network have addresses of their own.
fn at(writer: usize, nth: usize) -> (EndpointRef, String) {
    let number = writer * EACH + nth;
    let network = number % NETWORKS;
    let address = format!("10.9.{network}.{}/24", 2 + number / NETWORKS);
    let record = endpoint_record(&format!("n{network}"), &format!("e{number}"), &address);
    (record.at, address)
}

/// Makes and joins everything of a writer, publishes a port of each third, and lets every second go.
fn write(driver: &Driver, writer: usize) {
    for nth in 0..EACH {
        let (at, address) = at(writer, nth);
        let spec = EndpointSpec {
            at: at.clone(),
            interface: EndpointInterface {
                address: Some(address.parse().unwrap()),
                ..EndpointInterface::default()
            },
            ports: Vec::new(),
            exposed: Vec::new(),
            options: plugin_api::Options::new(),
        };
        driver.create_endpoint(&spec).unwrap();
        let sandbox = SandboxKey::new(format!("/run/netns/{}", at.endpoint)).unwrap();
        let options = plugin_api::Options::new();
        let join = JoinSpec {
            at: at.clone(),
            sandbox,
            options,
        };
        driver.join(&join).unwrap();
        if nth % 3 == 0 {
            let binding = PortBinding {
                protocol: Protocol::Tcp,
                container_port: 80,
                host_ip: None,
                host_port: 0,
                host_port_end: 0,
            };
            let spec = ConnectivitySpec {
                at: at.clone(),
                ports: vec![binding],
                exposed: Vec::new(),
            };
            driver.program(&spec).unwrap();
        }
        if nth % 2 == 0 {
            driver.leave(&at).unwrap();
            driver.delete_endpoint(&at).unwrap();
        }
    }
}

fn outer_links(socket: &Socket) -> Vec<String> {
    let links = socket.links().unwrap();
    let ours = links.into_iter().filter(|link| link.name.starts_with("lso"));
    let mut names: Vec<_> = ours.map(|link| link.name).collect();
    names.sort();
    names
}

#[test]
fn sixteen_writers_over_ten_networks_end_where_one_would() {
    World::run(|mut world| {
        for nth in 0..NETWORKS {
            world.driver().create_network(&spec_of(nth)).unwrap();
        }
        let driver = world.driver();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || write(driver, writer));
            }
        });
        println!("{} endpoints in {:?}", WRITERS * EACH, start.elapsed());
        let stay = |nth: &usize| nth % 2 == 1;
        let mut model: Vec<_> = (0..WRITERS)
            .flat_map(|writer| (0..EACH).filter(stay).map(move |nth| at(writer, nth).0))
            .map(|at| plan::link_names(&at.endpoint).0)
            .collect();
        model.sort();
        let socket = Socket::route().unwrap();
        super::keeper::until("every link that left", || outer_links(&socket) == model);
        assert!(driver.core.are_tables_whole().unwrap());
        println!("links gone after {:?}", start.elapsed());
        world.restart();
        assert_eq!(outer_links(&socket), model, "a restart changes links");
        assert!(world.driver().core.are_tables_whole().unwrap());
        println!("restarted after {:?}", start.elapsed());
        for nth in 0..NETWORKS {
            world.driver().delete_network(&spec_of(nth).id).unwrap();
        }
        nothing_is_left();
    });
}

#[test]
fn an_address_of_an_endpoint_that_left_does_not_answer_once_the_verb_is_answered() {
    World::run(|world| {
        let driver = world.driver();
        driver
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        // A bridge whose last port goes takes its time to come up again.
        let _other = world.start("one", "other", "10.9.0.9/24");
        for round in 0..10 {
            let a = world.start("one", "a", "10.9.0.2/24");
            a.serve(80, "old");
            assert!((0..9).any(|_| reads("10.9.0.2:80").as_deref() == Some("old")));
            driver.leave(&a.at).unwrap();
            let at = "10.9.0.2:80".parse().unwrap();
            let old = TcpStream::connect_timeout(&at, Duration::from_millis(20));
            assert!(old.is_err(), "round {round}: it still answers");
            driver.delete_endpoint(&a.at).unwrap();
        }
    });
}

#[test]
fn a_sandbox_that_vanishes_between_join_and_leave_stops_nothing() {
    World::run(|world| {
        let driver = world.driver();
        driver
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        world.publish(&a.at, Protocol::Tcp, 8080, 80).unwrap();
        let (at, link) = (a.at.clone(), plan::link_names(&a.at.endpoint).0);
        drop(a);
        let gone = || !link_names().contains(&link);
        let until = Instant::now() + Duration::from_secs(30);
        while !gone() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(), "the kernel keeps the link");
        driver.revoke(&at).unwrap();
        driver.leave(&at).unwrap();
        driver.delete_endpoint(&at).unwrap();
        for answer in [driver.leave(&at), driver.delete_endpoint(&at), driver.revoke(&at)] {
            assert_eq!(answer.unwrap(), Done::AlreadySo);
        }
        driver.delete_network(&at.network).unwrap();
        nothing_is_left();
    });
}

#[test]
fn another_network_neither_replaces_the_tables_nor_touches_what_is_published() {
    use kernel::netlink::watch::{Event, Watch};
    World::run(|world| {
        let driver = world.driver();
        driver
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        world.publish(&a.at, Protocol::Tcp, 8080, 80).unwrap();
        let before = ruleset();
        let watch = Watch::open().unwrap();
        driver
            .create_network(&network_spec("two", "10.10.0.0/24"))
            .unwrap();
        assert_ne!(ruleset(), before);
        driver.delete_network(&NetworkId::new("two").unwrap()).unwrap();
        assert_eq!(ruleset(), before);
        let mut changes = 0;
        watch
            .wait(Duration::from_millis(200), |event| {
                changes += usize::from(matches!(event, Event::Table(..)));
            })
            .unwrap();
        // Its bridge in two sets and its subnet in two, ends of ranges included, in and out again.
        assert!((2..=12).contains(&changes), "{changes} changes of tables");
    });
}
