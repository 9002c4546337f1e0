//! What engines rely on in an address driver.
//!
//! Subnets are taken at random out of `10.0.0.0/8` and `fd00::/8`; where one overlaps something on this
//! host the next is tried.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Context, Failure, Report, Subject, Verdict, ensure, fresh_hex, suite, unique};
use crate::fault::Fault;
use crate::fault::FaultKind::{Conflict, Exhausted, Invalid, NotFound};
use crate::id::{AddressSpace, PoolId};
use crate::ipam::{AddressLease, AddressPurpose, AddressRequest, IpamDriver, PoolLease, PoolRequest};

/// A driver as this suite holds it.
pub type Driver = Arc<dyn IpamDriver>;
type Ctx<'a> = Context<'a, dyn IpamDriver>;

suite! { "ipam", dyn IpamDriver;
    the_default_spaces_stay_the_same: "engines store the space with each network and ask again before the next";
    a_given_pool_is_granted_as_asked: "docker network create --subnet";
    a_given_pool_is_granted_again_and_counted: "swarm's manager and node ask for one subnet, and replays ask again";
    chosen_pools_do_not_overlap: "libnetwork keeps pools that it rejects and asks for another";
    an_overlapping_pool_is_refused: "two networks of overlapping subnets cannot be routed";
    pools_of_two_spaces_do_not_meet: "on a swarm manager the same subnet is held in the local and the global space";
    a_released_pool_can_be_had_again: "docker network rm, then create with the same subnet";
    the_last_release_of_a_pool_frees_its_addresses: "engines release pools of networks whose endpoints they forgot";
    release_of_an_unknown_pool_is_already_so: "engines release again after they lost an answer";
    a_sub_pool_outside_its_pool_is_refused: "a mistyped --ip-range must not give addresses of another subnet";
    an_address_of_an_unknown_pool_is_refused: "an address nobody keeps would be given twice";
    an_address_has_its_pools_prefix_length: "the answer becomes the interface's address as it is";
    addresses_are_given_once: "two containers with one address";
    addresses_are_never_the_network_or_its_broadcast: "nobody can talk to a host with such an address";
    a_given_address_is_granted: "docker run --ip, and --aux-address";
    a_held_address_is_refused: "docker run --ip of an address in use";
    a_replayed_address_is_granted_again: "an engine that starts asks again for every live endpoint";
    an_address_outside_its_pool_is_refused: "a container with it could talk to nobody";
    an_auxiliary_address_may_lie_outside_the_sub_pool: "engines do not tolerate a remote driver's refusal as their own";
    chosen_addresses_come_from_the_sub_pool: "docker network create --ip-range";
    a_sub_pool_has_an_end: "addresses outside --ip-range belong to somebody else";
    the_gateway_is_granted_again: "every host, and every start of an engine, asks for the gateway";
    a_chosen_gateway_stays_the_same: "engines that name no gateway ask again as well";
    the_gateway_is_given_to_nobody_else: "a container with the gateway's address cuts its network off";
    a_released_address_is_given_again: "a small subnet must outlive many containers";
    release_of_a_free_address_is_already_so: "swarm releases each address twice";
    release_frees_only_its_own_address: "the second release must not hit the address's next owner";
    a_slash_30_holds_two_addresses_and_then_says_so: "an error is the only way to tell an engine that none is left";
    ipv6_pools_give_ipv6_addresses: "a network of both families asks for two pools";
    a_chosen_ipv6_pool_is_ipv6: "docker network create --ipv6 without a subnet";
    an_address_of_the_other_family_is_refused: "docker run --ip6 reaches the pool as text only";
    concurrent_requests_never_double: "compose starts many containers at once";
    concurrently_chosen_pools_do_not_overlap: "compose creates many networks at once";
    pools_and_addresses_survive_a_restart_of_the_driver: "engines that need no replay never ask again";
}

/// Runs the suite and panics with every failed case.
pub fn check(subject: &Subject<'_, dyn IpamDriver>) -> Vec<Report> {
    super::check(SUITE, subject)
}

fn local(ctx: &Ctx<'_>) -> Result<AddressSpace, Failure> {
    Ok(ctx.driver().default_spaces()?.local)
}

/// A subnet at random; four times as wide as asked, so that its neighbours are nobody's.
fn somewhere(prefix: u8) -> Ipv4Net {
    let [.., a, b, c] = unique().to_be_bytes();
    let wide = Ipv4Net::new(Ipv4Addr::new(10, a, b, c), prefix.min(24) - 2).expect("a prefix up to 32");
    Ipv4Net::new(wide.network(), prefix).expect("a prefix up to 32")
}

fn somewhere_v6() -> IpNet {
    let bits = u128::from(unique() >> 8) << 64 | 0xfd_u128 << 120;
    Ipv6Net::new(Ipv6Addr::from(bits), 64)
        .expect("a prefix up to 128")
        .into()
}

fn wish(space: AddressSpace, pool: Option<IpNet>) -> PoolRequest {
    let (sub_pool, options) = (None, crate::Options::new());
    let v6 = matches!(pool, Some(IpNet::V6(_)));
    PoolRequest {
        space,
        pool,
        sub_pool,
        options,
        v6,
    }
}

fn ask(ctx: &Ctx<'_>, request: &PoolRequest) -> Result<PoolLease, Fault> {
    let lease = ctx.driver().request_pool(request)?;
    let id = lease.id.clone();
    ctx.at_end(move |driver| {
        let _ = driver.release_pool(&id);
    });
    Ok(lease)
}

/// A pool of our own; where the first subnet is taken on this host, another.
fn pool_like(ctx: &Ctx<'_>, shape: impl Fn() -> PoolRequest) -> Result<PoolLease, Failure> {
    let mut last = None;
    for _ in 0..8 {
        match ask(ctx, &shape()) {
            Ok(lease) => return Ok(lease),
            Err(fault) => last = Some(fault),
        }
    }
    let text = last.map(|fault| fault.sentence()).unwrap_or_default();
    Err(Failure::new(format!(
        "8 subnets at random were refused, the last: {text}"
    )))
}

fn pool(ctx: &Ctx<'_>, prefix: u8) -> Result<PoolLease, Failure> {
    let space = local(ctx)?;
    pool_like(ctx, || wish(space.clone(), Some(somewhere(prefix).into())))
}

fn request(pool: &PoolId, address: Option<IpAddr>, purpose: AddressPurpose) -> AddressRequest {
    let pool = pool.clone();
    AddressRequest {
        pool,
        address,
        purpose,
        mac: None,
        serial: false,
        holder: None,
    }
}

fn any(ctx: &Ctx<'_>, pool: &PoolId) -> Result<AddressLease, Fault> {
    obtain(ctx, pool, None, AddressPurpose::Endpoint)
}

fn given(ctx: &Ctx<'_>, pool: &PoolId, address: IpAddr) -> Result<AddressLease, Fault> {
    obtain(ctx, pool, Some(address), AddressPurpose::Endpoint)
}

fn gateway(ctx: &Ctx<'_>, pool: &PoolId, address: Option<IpAddr>) -> Result<AddressLease, Fault> {
    obtain(ctx, pool, address, AddressPurpose::Gateway)
}

fn obtain(
    ctx: &Ctx<'_>,
    pool: &PoolId,
    address: Option<IpAddr>,
    purpose: AddressPurpose,
) -> Result<AddressLease, Fault> {
    let mut request = request(pool, address, purpose);
    if ctx.driver().capabilities().requires_mac && purpose == AddressPurpose::Endpoint {
        let mut mac = [2; 6];
        mac[1..].copy_from_slice(&unique().to_be_bytes()[..5]);
        request.mac = Some(crate::id::MacAddr(mac));
    }
    ctx.driver().request_address(&request)
}

fn nth(lease: &PoolLease, n: u32) -> IpAddr {
    match lease.pool {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) + n).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) + u128::from(n)).into(),
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Takes addresses until the driver refuses, at most `limit`.
fn drain(ctx: &Ctx<'_>, pool: &PoolId, limit: usize) -> Result<Vec<IpAddr>, Failure> {
    let mut taken = Vec::new();
    loop {
        let answer = any(ctx, pool);
        match answer {
            Ok(lease) => taken.push(lease.address.addr()),
            refusal @ Err(_) => {
                ctx.refused(refusal, Exhausted, "an address of a full pool")?;
                return Ok(taken);
            }
        }
        ensure!(
            taken.len() <= limit,
            "more than {limit} addresses were given: {taken:?}"
        );
    }
}

fn the_default_spaces_stay_the_same(ctx: &Ctx<'_>) -> Verdict {
    let first = ctx.driver().default_spaces()?;
    pool(ctx, 24)?;
    let second = ctx.driver().default_spaces()?;
    ensure!(first == second, "first {first:?}, then {second:?}");
    Ok(())
}

fn a_given_pool_is_granted_as_asked(ctx: &Ctx<'_>) -> Verdict {
    let space = local(ctx)?;
    let asked = std::cell::Cell::new(None);
    let lease = pool_like(ctx, || {
        asked.set(Some(somewhere(24).into()));
        wish(space.clone(), asked.get())
    })?;
    ensure!(
        Some(lease.pool) == asked.get(),
        "asked for {:?}, got {}",
        asked.get(),
        lease.pool
    );
    Ok(())
}

fn a_given_pool_is_granted_again_and_counted(ctx: &Ctx<'_>) -> Verdict {
    let first = pool(ctx, 24)?;
    let again = ask(ctx, &wish(local(ctx)?, Some(first.pool)))?;
    ensure!(
        (&first.id, first.pool) == (&again.id, again.pool),
        "first {first:?}, then {again:?}"
    );
    let held = any(ctx, &first.id)?.address.addr();
    ctx.driver().release_pool(&first.id)?;
    let other = any(ctx, &first.id).map_err(|fault| {
        Failure::new(format!(
            "the pool is gone after one of two releases: {}",
            fault.sentence()
        ))
    })?;
    ensure!(
        other.address.addr() != held,
        "one of two releases freed the addresses"
    );
    ctx.driver().release_pool(&first.id)?;
    ctx.refused(any(ctx, &first.id), NotFound, "an address after both releases")
}

fn chosen_pools_do_not_overlap(ctx: &Ctx<'_>) -> Verdict {
    let mut pools: Vec<IpNet> = Vec::new();
    for _ in 0..4 {
        let lease = ask(ctx, &wish(local(ctx)?, None))?;
        let hit = pools.iter().find(|pool| overlap(pool, &lease.pool));
        ensure!(hit.is_none(), "{} overlaps {hit:?}, chosen before", lease.pool);
        pools.push(lease.pool);
    }
    Ok(())
}

fn an_overlapping_pool_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    for prefix in [25, 23] {
        let other = IpNet::new(lease.pool.network(), prefix)
            .expect("a prefix up to 32")
            .trunc();
        let answer = ask(ctx, &wish(local(ctx)?, Some(other)));
        ctx.refused(answer, Conflict, &format!("{other} beside {}", lease.pool))?;
    }
    Ok(())
}

fn pools_of_two_spaces_do_not_meet(ctx: &Ctx<'_>) -> Verdict {
    let spaces = ctx.driver().default_spaces()?;
    if spaces.local == spaces.global {
        return Err(Failure::absent("the driver has one address space only"));
    }
    let here = pool(ctx, 24)?;
    let there = ask(ctx, &wish(spaces.global, Some(here.pool)))?;
    ensure!(here.id != there.id, "both spaces name their pool {}", here.id);
    given(ctx, &here.id, nth(&here, 9))?;
    given(ctx, &there.id, nth(&here, 9))?;
    ctx.driver().release_pool(&there.id)?;
    any(ctx, &here.id)?;
    Ok(())
}

fn a_released_pool_can_be_had_again(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    ctx.changed(ctx.driver().release_pool(&lease.id), "release of a held pool")?;
    let narrower = IpNet::new(lease.pool.network(), 26).expect("a prefix up to 32");
    ask(ctx, &wish(local(ctx)?, Some(narrower)))?;
    Ok(())
}

fn the_last_release_of_a_pool_frees_its_addresses(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    given(ctx, &lease.id, nth(&lease, 77))?;
    ctx.driver().release_pool(&lease.id)?;
    let again = ask(ctx, &wish(local(ctx)?, Some(lease.pool)))?;
    given(ctx, &again.id, nth(&again, 77))?;
    Ok(())
}

fn release_of_an_unknown_pool_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    ctx.changed(ctx.driver().release_pool(&lease.id), "the first release")?;
    ctx.already_so(ctx.driver().release_pool(&lease.id), "the second release")?;
    let strange = PoolId::new(fresh_hex()).expect("hexadecimal digits are printable");
    ctx.already_so(
        ctx.driver().release_pool(&strange),
        "release of a pool never granted",
    )?;
    ctx.already_so(
        ctx.driver().release_address(&strange, nth(&lease, 2)),
        "release of an address in it",
    )
}

fn a_sub_pool_outside_its_pool_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let net = somewhere(24);
    let mut request = wish(local(ctx)?, Some(net.into()));
    let beyond = Ipv4Addr::from(u32::from(net.network()) + 256);
    request.sub_pool = Some(Ipv4Net::new(beyond, 28).expect("a prefix up to 32").into());
    ctx.refused(ask(ctx, &request), Invalid, "a sub-pool outside its pool")
}

fn an_address_of_an_unknown_pool_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let strange = PoolId::new(fresh_hex()).expect("hexadecimal digits are printable");
    ctx.refused(any(ctx, &strange), NotFound, "an address of a pool never granted")
}

fn an_address_has_its_pools_prefix_length(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 23)?;
    let gateway = gateway(ctx, &lease.id, Some(nth(&lease, 1)))?.address;
    let endpoint = any(ctx, &lease.id)?.address;
    for address in [gateway, endpoint] {
        ensure!(address.prefix_len() == 23, "{address} of the pool {}", lease.pool);
        ensure!(
            lease.pool.contains(&address.addr()),
            "{address} lies outside {}",
            lease.pool
        );
    }
    Ok(())
}

fn addresses_are_given_once(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    given(ctx, &lease.id, nth(&lease, 3))?;
    let mut seen = BTreeSet::from([nth(&lease, 3)]);
    for _ in 0..20 {
        let address = any(ctx, &lease.id)?.address.addr();
        ensure!(seen.insert(address), "{address} was given twice");
    }
    Ok(())
}

fn addresses_are_never_the_network_or_its_broadcast(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 29)?;
    for address in drain(ctx, &lease.id, 8)? {
        ensure!(
            address != lease.pool.network(),
            "{address} is the network's own address"
        );
        ensure!(
            address != lease.pool.broadcast(),
            "{address} is the broadcast address"
        );
    }
    Ok(())
}

fn a_given_address_is_granted(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    let got = given(ctx, &lease.id, nth(&lease, 200))?.address.addr();
    ensure!(
        got == nth(&lease, 200),
        "asked for {}, got {got}",
        nth(&lease, 200)
    );
    Ok(())
}

fn a_held_address_is_refused(ctx: &Ctx<'_>) -> Verdict {
    if ctx.driver().capabilities().requires_replay {
        return Err(Failure::absent(
            "the driver asks for replays, which look the same",
        ));
    }
    let lease = pool(ctx, 24)?;
    let held = any(ctx, &lease.id)?.address.addr();
    ctx.refused(
        given(ctx, &lease.id, held),
        Conflict,
        "a held address that was chosen",
    )?;
    given(ctx, &lease.id, nth(&lease, 200))?;
    ctx.refused(
        given(ctx, &lease.id, nth(&lease, 200)),
        Conflict,
        "a held address that was given",
    )
}

fn a_replayed_address_is_granted_again(ctx: &Ctx<'_>) -> Verdict {
    if !ctx.driver().capabilities().requires_replay {
        return Err(Failure::absent("the driver asks for no replays"));
    }
    let lease = pool(ctx, 24)?;
    let held = any(ctx, &lease.id)?;
    ask(ctx, &wish(local(ctx)?, Some(lease.pool)))?;
    let again = given(ctx, &lease.id, held.address.addr())?;
    ensure!(
        again.address == held.address,
        "held {}, replayed {}",
        held.address,
        again.address
    );
    Ok(())
}

fn an_address_outside_its_pool_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    ctx.refused(
        given(ctx, &lease.id, nth(&lease, 256)),
        Invalid,
        "an address behind the pool",
    )
}

/// A /24 with a /28 of it as sub-pool, `.64` to `.79`.
fn ranged(ctx: &Ctx<'_>, prefix: u8) -> Result<(PoolLease, IpNet), Failure> {
    let space = local(ctx)?;
    let sub = std::cell::Cell::new(None);
    let lease = pool_like(ctx, || {
        let net = somewhere(24);
        let from = Ipv4Addr::from(u32::from(net.network()) + 64);
        sub.set(Some(IpNet::from(
            Ipv4Net::new(from, prefix).expect("a prefix up to 32"),
        )));
        let mut request = wish(space.clone(), Some(net.into()));
        request.sub_pool = sub.get();
        request
    })?;
    Ok((lease, sub.get().expect("pool_like asked at least once")))
}

fn an_auxiliary_address_may_lie_outside_the_sub_pool(ctx: &Ctx<'_>) -> Verdict {
    let (lease, _) = ranged(ctx, 28)?;
    given(ctx, &lease.id, nth(&lease, 200))?;
    Ok(())
}

fn chosen_addresses_come_from_the_sub_pool(ctx: &Ctx<'_>) -> Verdict {
    let (lease, sub) = ranged(ctx, 28)?;
    for _ in 0..8 {
        let address = any(ctx, &lease.id)?.address;
        ensure!(sub.contains(&address.addr()), "{address} lies outside {sub}");
        ensure!(
            address.prefix_len() == 24,
            "{address} has the sub-pool's prefix length"
        );
    }
    Ok(())
}

fn a_sub_pool_has_an_end(ctx: &Ctx<'_>) -> Verdict {
    let (lease, _) = ranged(ctx, 30)?;
    let taken = drain(ctx, &lease.id, 4)?;
    ensure!(taken.len() >= 2, "a /30 as sub-pool gave only {taken:?}");
    Ok(())
}

fn the_gateway_is_granted_again(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    let first = gateway(ctx, &lease.id, Some(nth(&lease, 1)))?;
    let second = gateway(ctx, &lease.id, Some(nth(&lease, 1)))?;
    ensure!(
        first.address == second.address,
        "first {}, then {}",
        first.address,
        second.address
    );
    ensure!(
        first.address.addr() == nth(&lease, 1),
        "asked for .1, got {}",
        first.address
    );
    Ok(())
}

fn a_chosen_gateway_stays_the_same(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    let first = gateway(ctx, &lease.id, None)?.address;
    let second = gateway(ctx, &lease.id, None)?.address;
    ensure!(first == second, "first {first}, then {second}");
    Ok(())
}

fn the_gateway_is_given_to_nobody_else(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 29)?;
    let gateway = gateway(ctx, &lease.id, Some(nth(&lease, 4)))?.address.addr();
    let taken = drain(ctx, &lease.id, 8)?;
    ensure!(
        !taken.contains(&gateway),
        "the gateway {gateway} was given to an endpoint"
    );
    Ok(())
}

fn a_released_address_is_given_again(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 29)?;
    let taken = drain(ctx, &lease.id, 8)?;
    let back = *taken
        .last()
        .ok_or_else(|| Failure::new("a /29 gave no address"))?;
    ctx.changed(
        ctx.driver().release_address(&lease.id, back),
        "release of a held address",
    )?;
    let got = any(ctx, &lease.id)?.address.addr();
    ensure!(got == back, "only {back} was free, but {got} was given");
    Ok(())
}

fn release_of_a_free_address_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    let address = any(ctx, &lease.id)?.address.addr();
    ctx.changed(
        ctx.driver().release_address(&lease.id, address),
        "the first release",
    )?;
    ctx.already_so(
        ctx.driver().release_address(&lease.id, address),
        "the second release",
    )?;
    ctx.already_so(
        ctx.driver().release_address(&lease.id, nth(&lease, 99)),
        "release of a free address",
    )?;
    ctx.already_so(
        ctx.driver().release_address(&lease.id, nth(&lease, 999)),
        "release of a strange address",
    )
}

fn release_frees_only_its_own_address(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 29)?;
    let taken = drain(ctx, &lease.id, 8)?;
    let back = *taken
        .first()
        .ok_or_else(|| Failure::new("a /29 gave no address"))?;
    ctx.driver().release_address(&lease.id, back)?;
    let left = drain(ctx, &lease.id, 8)?;
    ensure!(left == [back], "one release freed {left:?}, not {back}");
    Ok(())
}

fn a_slash_30_holds_two_addresses_and_then_says_so(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 30)?;
    let first = gateway(ctx, &lease.id, Some(nth(&lease, 1)))?.address.addr();
    let mut all = drain(ctx, &lease.id, 1)?;
    all.push(first);
    ensure!(all.len() == 2, "a /30 gave only {all:?}");
    Ok(())
}

fn ipv6_pools_give_ipv6_addresses(ctx: &Ctx<'_>) -> Verdict {
    let space = local(ctx)?;
    let lease = pool_like(ctx, || wish(space.clone(), Some(somewhere_v6())))?;
    let first = any(ctx, &lease.id)?.address;
    let second = any(ctx, &lease.id)?.address;
    for address in [first, second] {
        ensure!(
            lease.pool.contains(&address.addr()),
            "{address} lies outside {}",
            lease.pool
        );
        ensure!(address.prefix_len() == 64, "{address} of the pool {}", lease.pool);
    }
    ensure!(first != second, "{first} was given twice");
    Ok(())
}

fn a_chosen_ipv6_pool_is_ipv6(ctx: &Ctx<'_>) -> Verdict {
    let mut request = wish(local(ctx)?, None);
    request.v6 = true;
    let first = ask(ctx, &request)?.pool;
    let second = ask(ctx, &request)?.pool;
    ensure!(matches!(first, IpNet::V6(_)), "{first} was chosen for IPv6");
    ensure!(
        !overlap(&first, &second),
        "{second} overlaps {first}, chosen before"
    );
    Ok(())
}

fn an_address_of_the_other_family_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    let strange = somewhere_v6().addr();
    ctx.refused(
        given(ctx, &lease.id, strange),
        Invalid,
        "an IPv6 address of an IPv4 pool",
    )
}

fn concurrent_requests_never_double(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 24)?;
    let answers = super::at_once(8, |_| (0..25).map(|_| any(ctx, &lease.id)).collect::<Vec<_>>());
    let mut seen = BTreeSet::new();
    for answer in answers.into_iter().flatten() {
        let address = answer?.address.addr();
        ensure!(
            seen.insert(address),
            "{address} was given to two of 200 concurrent requests"
        );
    }
    Ok(())
}

fn concurrently_chosen_pools_do_not_overlap(ctx: &Ctx<'_>) -> Verdict {
    let request = wish(local(ctx)?, None);
    let mut pools: Vec<IpNet> = Vec::new();
    for answer in super::at_once(8, |_| ask(ctx, &request)) {
        let pool = answer?.pool;
        let hit = pools.iter().find(|other| overlap(other, &pool));
        ensure!(hit.is_none(), "{pool} and {hit:?} were chosen at once");
        pools.push(pool);
    }
    Ok(())
}

fn pools_and_addresses_survive_a_restart_of_the_driver(ctx: &Ctx<'_>) -> Verdict {
    let lease = pool(ctx, 29)?;
    let held = any(ctx, &lease.id)?.address.addr();
    ctx.restart()?;
    let left = drain(ctx, &lease.id, 8)?;
    ensure!(
        !left.contains(&held),
        "{held} was given twice, before and after the restart"
    );
    ensure!(!left.is_empty(), "the pool has nothing left after the restart");
    Ok(())
}
