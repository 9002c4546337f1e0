//! Ports that are relayed, many of them.

use super::*;

/// A number of this process's status: threads, or kilobytes.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn bindings(ports: std::ops::Range<u16>) -> Vec<PortBinding> {
    let binding = |port| PortBinding {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_ip: Some([0; 4].into()),
        host_port: port,
        host_port_end: port,
    };
    ports.map(binding).collect()
}

#[test]
fn two_thousand_published_ports_cost_a_few_threads_and_megabytes() {
    World::run(|world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(80, "b");
        let spec = |ports| ConnectivitySpec {
            at: b.at.clone(),
            ports: bindings(ports),
            exposed: Vec::new(),
        };
        // Once before, so that what is measured are the ports alone.
        world.driver().program(&spec(10_000..10_001)).unwrap();
        let before = status("VmRSS:");
        world.driver().program(&spec(10_000..12_000)).unwrap();
        let grown = status("VmRSS:").saturating_sub(before);
        assert!(status("Threads:") < 10, "{} threads", status("Threads:"));
        assert!(grown < 5_000, "{grown} kB more");
        for port in [10_000, 10_777, 11_999] {
            assert_eq!(
                reads(&format!("127.0.0.1:{port}")).as_deref(),
                Some("b"),
                "{port}"
            );
        }
        world.driver().revoke(&b.at).unwrap();
        assert_eq!(reads("127.0.0.1:10777"), None);
        TcpListener::bind("0.0.0.0:10777").unwrap();
        world.driver().delete_network(&b.at.network).unwrap();
        nothing_is_left();
    });
}

#[test]
fn connections_to_one_port_beyond_its_bound_are_closed_and_others_answer() {
    World::run(|world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        // Takes connections and says nothing.
        let silent = b
            .namespace
            .run(|| TcpListener::bind("0.0.0.0:81").unwrap())
            .unwrap();
        std::thread::spawn(move || silent.incoming().collect::<Vec<_>>());
        b.serve(80, "b");
        let mut ports = bindings(10_000..10_002);
        ports[0].container_port = 81;
        let spec = ConnectivitySpec {
            at: b.at.clone(),
            ports,
            exposed: Vec::new(),
        };
        world.driver().program(&spec).unwrap();
        let clients: Vec<_> = (0..300)
            .map(|_| TcpStream::connect("127.0.0.1:10000").unwrap())
            .collect();
        let patience = Some(Duration::from_millis(5));
        let closed = || {
            let ended = clients.iter().filter(|client| {
                client.set_read_timeout(patience).unwrap();
                let mut client = *client;
                matches!(client.read(&mut [0; 1]), Ok(0)) || client.take_error().unwrap().is_some()
            });
            ended.count()
        };
        let count = (0..10)
            .map(|_| closed())
            .find(|count| *count >= 44)
            .unwrap_or_default();
        assert_eq!(count, 44, "of 300 connections 256 stay");
        assert_eq!(reads("127.0.0.1:10001").as_deref(), Some("b"));
    });
}
