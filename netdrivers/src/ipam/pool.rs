//! Arithmetic of subnets and addresses; no state, no kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address as a number that counts.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address of a number within the family of `like`.
pub fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => {
            let low = u32::try_from(number).expect("numbers of IPv4 addresses have 32 bits");
            Ipv4Addr::from(low).into()
        }
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// First and last number of a subnet that may be given to somebody. The network's own address and,
/// for IPv4, the broadcast address are kept back, except in subnets of one or two addresses.
pub fn usable(net: IpNet) -> (u128, u128) {
    let (first, last) = (number(net.network()), number(net.broadcast()));
    if last - first < 2 {
        (first, last)
    } else if net.addr().is_ipv4() {
        (first + 1, last - 1)
    } else {
        (first + 1, last)
    }
}

/// The part of `sub` that may be given to somebody in `net`.
pub fn usable_within(net: IpNet, sub: Option<IpNet>) -> (u128, u128) {
    let (first, last) = usable(net);
    match sub {
        None => (first, last),
        Some(sub) => (
            first.max(number(sub.network())),
            last.min(number(sub.broadcast())),
        ),
    }
}

/// The first number of a range that is not taken.
pub fn first_free<T>((first, last): (u128, u128), taken: &BTreeMap<u128, T>) -> Option<u128> {
    if first > last {
        return None;
    }
    let mut free = first;
    for number in taken.range(first..=last).map(|(number, _)| *number) {
        if number != free {
            return Some(free);
        }
        free = free.checked_add(1)?;
    }
    (free <= last).then_some(free)
}

/// Whether two subnets have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first of `candidates` that has nothing in common with `taken`.
pub fn choose(mut candidates: impl Iterator<Item = IpNet>, taken: &[IpNet]) -> Option<IpNet> {
    candidates.find(|candidate| !taken.iter().any(|other| overlap(*candidate, *other)))
}

fn v4(a: u8, b: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), prefix).expect("a prefix up to 32")
}

/// IPv4 subnets to choose from. Without a wish: /16 from 172.18.0.0, then /24 of 10.0.0.0/8 and of
/// 192.168.0.0/16; networks of many hosts begin at 10.0.0.0/8. With one: that size of the same space.
pub fn candidates_v4(wish: Option<u8>, many_hosts: bool) -> Box<dyn Iterator<Item = IpNet>> {
    let cut = |net: Ipv4Net, prefix: u8| net.subnets(prefix).into_iter().flatten().map(IpNet::from);
    let small = wish.unwrap_or(24);
    let home = (18..=31).flat_map(move |b| cut(v4(172, b, 16), wish.unwrap_or(16)));
    let ten = cut(v4(10, 0, 8), small);
    let rest = cut(v4(192, 168, 16), small);
    if many_hosts {
        Box::new(ten.chain(home).chain(rest))
    } else {
        Box::new(home.chain(ten).chain(rest))
    }
}

/// IPv6 subnets to choose from: /64 (or the size wished for) of this host's own unique local /48,
/// whose 40 random bits are `global_id`.
pub fn candidates_v6(wish: Option<u8>, global_id: u64) -> impl Iterator<Item = IpNet> {
    let top = 0xfd_u128 << 120 | u128::from(global_id & 0xff_ffff_ffff) << 80;
    let net = Ipv6Net::new(Ipv6Addr::from(top), 48).expect("48 is a prefix");
    net.subnets(wish.unwrap_or(64))
        .into_iter()
        .flatten()
        .map(IpNet::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn network_and_broadcast_are_kept_back_except_in_tiny_subnets() {
        let span = |text| {
            let (first, last) = usable(net(text));
            (
                address(first, net(text)).to_string(),
                address(last, net(text)).to_string(),
            )
        };
        let owned = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(span("10.0.0.0/24"), owned("10.0.0.1", "10.0.0.254"));
        assert_eq!(span("10.0.0.0/31"), owned("10.0.0.0", "10.0.0.1"));
        assert_eq!(span("10.0.0.9/32"), owned("10.0.0.9", "10.0.0.9"));
        assert_eq!(span("fd00::/126"), owned("fd00::1", "fd00::3"));
        assert_eq!(span("fd00::/127"), owned("fd00::", "fd00::1"));
    }

    #[test]
    fn the_first_gap_is_found() {
        let taken = |numbers: &[u128]| numbers.iter().map(|n| (*n, 'x')).collect::<BTreeMap<_, _>>();
        assert_eq!(first_free((4, 6), &taken(&[])), Some(4));
        assert_eq!(first_free((4, 6), &taken(&[3, 4, 6])), Some(5));
        assert_eq!(first_free((4, 6), &taken(&[4, 5, 6])), None);
        assert_eq!(first_free((4, 6), &taken(&[4, 5, 7])), Some(6));
        assert_eq!(first_free((6, 4), &taken(&[])), None);
        assert_eq!(first_free((u128::MAX, u128::MAX), &taken(&[u128::MAX])), None);
    }

    #[test]
    fn chosen_subnets_avoid_what_is_taken() {
        let taken = [net("172.16.0.0/12"), net("10.0.0.0/9")];
        assert_eq!(
            choose(candidates_v4(None, false), &taken),
            Some(net("10.128.0.0/24"))
        );
        assert_eq!(
            choose(candidates_v4(None, false), &[]),
            Some(net("172.18.0.0/16"))
        );
        assert_eq!(
            choose(candidates_v4(Some(28), true), &[]),
            Some(net("10.0.0.0/28"))
        );
        assert_eq!(choose(candidates_v6(None, 1), &[]), Some(net("fd00:0:1::/64")));
        let all = [net("0.0.0.0/0")];
        assert_eq!(choose(candidates_v4(None, false), &all), None);
    }
}
