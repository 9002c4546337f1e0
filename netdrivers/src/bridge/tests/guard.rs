//! Containers that send in the name of others.

use kernel::packet::Frames;

use super::super::guard;
use super::*;

const EVERYBODY: [u8; 6] = [0xff; 6];
/// Ends every frame of this test, so that it is known where it arrives.
const MARK: &[u8] = b"longshore hostile frame";

fn ethernet(from: [u8; 6], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = EVERYBODY.to_vec();
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    frame.extend(MARK);
    frame
}

/// An ARP answer: this address is at that station.
fn arp(from: [u8; 6], station: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 2];
    body.extend(station);
    body.extend(address);
    body.extend([0xff; 6]);
    body.extend([10, 9, 0, 3]);
    ethernet(from, 0x0806, &body)
}

fn udp(port: u16) -> Vec<u8> {
    let length = u16::try_from(8 + MARK.len()).unwrap();
    let mut body = port.to_be_bytes().to_vec();
    body.extend([0, 68]);
    body.extend(length.to_be_bytes());
    body.extend([0, 0]);
    body
}

fn ipv4(from: [u8; 6], source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len() + MARK.len()).unwrap();
    let mut head = vec![0x45, 0];
    head.extend(length.to_be_bytes());
    head.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    head.extend(source);
    head.extend([255, 255, 255, 255]);
    let sum: u32 = head
        .chunks(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    head.extend(payload);
    ethernet(from, 0x0800, &head)
}

fn ipv6(from: [u8; 6], source: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    let everybody: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
    let mut body = vec![0x60, 0, 0, 0];
    body.extend(u16::try_from(payload.len() + MARK.len()).unwrap().to_be_bytes());
    body.extend([protocol, 255]);
    body.extend(source.octets());
    body.extend(everybody.octets());
    body.extend(payload);
    ethernet(from, 0x86dd, &body)
}

/// An ICMPv6 message that speaks of an address.
fn discovery(kind: u8, target: &str) -> Vec<u8> {
    let target: std::net::Ipv6Addr = target.parse().unwrap();
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message
}

fn dropped() -> u64 {
    let rules = ruleset();
    let counts = rules.split("counter packets ").skip(1);
    counts
        .map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// What an endpoint may not send, and by what name it is known.
fn hostile(own: [u8; 6], gateway: [u8; 6]) -> Vec<(&'static str, Vec<u8>)> {
    let other = [2, 9, 9, 9, 9, 9];
    let (me, me6) = ([10, 9, 0, 2], "fd00:9::2");
    let mut tagged = ethernet(own, 0x8100, &[0, 5, 8, 0]);
    tagged.extend([0x45, 0]);
    vec![
        ("a foreign MAC address", ipv4(other, me, &udp(9))),
        ("the gateway's MAC address", ipv4(gateway, me, &udp(9))),
        ("a foreign IPv4 source", ipv4(own, [10, 9, 0, 3], &udp(9))),
        ("the gateway's IPv4 source", ipv4(own, [10, 9, 0, 1], &udp(9))),
        ("a foreign IPv6 source", ipv6(own, "fd00:9::3", UDP, &udp(9))),
        ("ARP for the gateway", arp(own, own, [10, 9, 0, 1])),
        ("ARP for a neighbour", arp(own, own, [10, 9, 0, 3])),
        ("ARP of another station", arp(own, other, me)),
        (
            "a router's advertisement",
            ipv6(own, "fe80::9", ICMPV6, &discovery(134, "::")),
        ),
        ("a redirect", ipv6(own, "fe80::9", ICMPV6, &discovery(137, me6))),
        (
            "a neighbour's advertisement",
            ipv6(own, me6, ICMPV6, &discovery(136, "fd00:9::1")),
        ),
        ("a DHCP server", ipv4(own, me, &udp(67))),
        ("a DHCPv6 server", ipv6(own, me6, UDP, &udp(547))),
        ("a VLAN tag", tagged),
        ("an unknown type", ethernet(own, 0x88cc, &[0; 40])),
    ]
}

const UDP: u8 = 17;
const ICMPV6: u8 = 58;

#[test]
fn frames_in_the_name_of_others_are_dropped_and_counted() {
    World::run(|world| {
        let driver = world.driver();
        let spec = super::ipv6::dual_spec("one", "10.9.0.0/24", "fd00:9::/64");
        driver.create_network(&spec).unwrap();
        let a = super::ipv6::start_dual(&world, "one", "a", "10.9.0.2/24", "fd00:9::2/64");
        let b = super::ipv6::start_dual(&world, "one", "b", "10.9.0.3/24", "fd00:9::3/64");
        let frames = |container: &Container| {
            let inside = Socket::in_namespace(container.namespace.as_fd()).unwrap();
            let link = inside.link("eth0").unwrap().unwrap();
            let frames = container.namespace.run(|| Frames::of(link.index).unwrap());
            (frames.unwrap(), link.mac.unwrap())
        };
        let ((sends, own), (hears, _)) = (frames(&a), frames(&b));
        let gateway = Socket::route().unwrap().link("br-one").unwrap().unwrap();
        let arrives = |frame: &[u8], patience| {
            sends.send(frame).unwrap();
            let next = || hears.next(Duration::from_millis(patience)).unwrap();
            std::iter::from_fn(next).any(|heard| heard.windows(MARK.len()).any(|part| part == MARK))
        };
        let honest = [
            arp(own, own, [10, 9, 0, 2]),
            ipv4(own, [10, 9, 0, 2], &udp(9)),
            ipv4(own, [0; 4], &udp(68)),
            ipv6(own, "fd00:9::2", UDP, &udp(9)),
            ipv6(own, "fe80::2", ICMPV6, &discovery(136, "fd00:9::2")),
        ];
        let before = dropped();
        for (nth, frame) in honest.iter().enumerate() {
            let is_there = (0..5).any(|_| arrives(frame, 300));
            assert!(is_there, "honest frame {nth} does not arrive: {}", ruleset());
        }
        assert_eq!(dropped(), before, "an honest frame is counted");
        for (what, frame) in hostile(own, gateway.mac.unwrap()) {
            let before = dropped();
            assert!(!arrives(&frame, 60), "{what} arrives");
            assert_eq!(dropped(), before + 1, "{what} is not counted: {}", ruleset());
        }
        b.serve(80, "b");
        assert_eq!(
            a.reads("10.9.0.3:80").as_deref(),
            Some("b"),
            "neighbours are untouched"
        );
        let netfilter = Socket::netfilter().unwrap();
        driver.leave(&a.at).unwrap();
        let link = plan::link_names(&a.at.endpoint).0;
        super::keeper::until("the guard of an endpoint that left", || {
            !ruleset().contains(&link)
        });
        assert!(
            guard::is_whole(
                &netfilter,
                &guard::elements(driver.core.state().endpoints.values())
            )
            .unwrap()
        );
        driver.delete_network(&a.at.network).unwrap();
        nothing_is_left();
    });
}
