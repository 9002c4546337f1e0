//! UDP ports: a flow has no end, so it must be ended.

use super::*;

/// Answers every datagram with a word.
fn answer(container: &Container, word: &'static str) {
    let socket = container
        .namespace
        .run(|| UdpSocket::bind("0.0.0.0:53").unwrap())
        .unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(word.as_bytes(), from);
        }
    });
}

/// What a datagram from one and the same socket is answered with; nothing within half a second is `None`.
fn asks(client: &UdpSocket) -> Option<String> {
    client.send_to(b"?", "192.0.2.1:5353").unwrap();
    let mut bytes = [0; 16];
    let (length, _) = client.recv_from(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[test]
fn a_client_that_keeps_sending_meets_the_new_holder_of_a_udp_port() {
    World::run(|world| {
        let there = outside();
        let driver = world.driver();
        driver
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        let b = world.start("one", "b", "10.9.0.3/24");
        answer(&a, "a");
        answer(&b, "b");
        let client = there.run(|| UdpSocket::bind("192.0.2.2:7777").unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // A flow to a port that nobody has is remembered as well.
        assert_eq!(asks(&client), None);
        let several = || (0..10).find_map(|_| asks(&client));
        world.publish(&a.at, Protocol::Udp, 5353, 53).unwrap();
        assert_eq!(several().as_deref(), Some("a"));
        driver.revoke(&a.at).unwrap();
        assert_eq!(asks(&client), None, "the flow outlives the port");
        world.publish(&b.at, Protocol::Udp, 5353, 53).unwrap();
        assert_eq!(several().as_deref(), Some("b"));
        driver.leave(&b.at).unwrap();
        assert_eq!(asks(&client), None);
    });
}

#[test]
fn a_udp_port_answers_on_loopback_addresses_until_it_is_revoked() {
    World::run(|mut world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        answer(&b, "b");
        let published = |host_ip, host_port| PortBinding {
            protocol: Protocol::Udp,
            container_port: 53,
            host_ip,
            host_port,
            host_port_end: host_port,
        };
        let spec = ConnectivitySpec {
            at: b.at.clone(),
            ports: vec![
                published(Some([127, 0, 0, 1].into()), 5353),
                published(None, 5354),
            ],
            exposed: Vec::new(),
        };
        world.driver().program(&spec).unwrap();
        let asks = |port: u16| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut bytes = [0; 16];
            (0..4).find_map(|_| {
                client.send_to(b"?", ("127.0.0.1", port)).unwrap();
                let (length, from) = client.recv_from(&mut bytes).ok()?;
                assert_eq!(from.to_string(), format!("127.0.0.1:{port}"));
                Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
            })
        };
        for port in [5353, 5354] {
            assert_eq!(asks(port).as_deref(), Some("b"), "port {port}");
        }
        world.restart();
        assert_eq!(asks(5353).as_deref(), Some("b"), "after a restart");
        // More senders than a port remembers do no harm to those it knows.
        let many: Vec<_> = (0..300)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        for sender in &many {
            sender.send_to(b"?", "127.0.0.1:5353").unwrap();
        }
        assert_eq!(asks(5354).as_deref(), Some("b"));
        world.driver().revoke(&b.at).unwrap();
        UdpSocket::bind("127.0.0.1:5353").expect("the port is free again");
    });
}
