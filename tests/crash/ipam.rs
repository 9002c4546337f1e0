//! Verbs of the local address driver.
//!
//! Pools and addresses are asked for by name here. One that the driver chose in an answer nobody got is
//! known to nobody but the driver; such an address goes with its pool, such a pool stays, in any plugin.

use std::net::IpAddr;

use plugin_api::Fault;
use plugin_api::id::PoolId;
use plugin_api::ipam::{AddressPurpose, AddressRequest, IpamDriver, PoolRequest};

use crate::ground::Ground;
use crate::sweep::sweep;

const DRIVERS: &str = "[ipam.crash]\ndriver = \"local\"\n";
const SUBNET: &str = "10.88.0.0/24";

fn pool(ground: &Ground) -> Result<(), Fault> {
    let ipam = ground.client()?.ipam();
    let request = PoolRequest {
        space: ipam.default_spaces()?.local,
        pool: Some(SUBNET.parse().unwrap()),
        sub_pool: None,
        options: std::collections::BTreeMap::new(),
        v6: false,
    };
    let lease = ipam.request_pool(&request)?;
    assert_eq!(lease.pool.to_string(), SUBNET);
    ground.remember("pool", lease.id.as_str());
    Ok(())
}

fn pool_id(ground: &Ground) -> PoolId {
    PoolId::new(ground.recall("pool")).unwrap()
}

/// As often as it takes: a request whose answer was lost may count or not.
fn no_pool(ground: &Ground) -> Result<(), Fault> {
    for _ in 0..3 {
        ground.client()?.ipam().release_pool(&pool_id(ground))?;
    }
    Ok(())
}

fn request(ground: &Ground, address: Option<&str>, purpose: AddressPurpose) -> Result<String, Fault> {
    let request = AddressRequest {
        pool: pool_id(ground),
        address: address.map(|text| text.parse().unwrap()),
        purpose,
        mac: None,
        serial: false,
        holder: None,
    };
    let lease = ground.client()?.ipam().request_address(&request)?;
    assert_eq!(lease.address.trunc().to_string(), SUBNET);
    if let Some(address) = address {
        assert_eq!(lease.address.addr().to_string(), address);
    }
    Ok(lease.address.addr().to_string())
}

fn release(ground: &Ground, address: &str) -> Result<(), Fault> {
    let address: IpAddr = address.parse().unwrap();
    ground
        .client()?
        .ipam()
        .release_address(&pool_id(ground), address)?;
    Ok(())
}

fn gateway(ground: &Ground) -> Result<(), Fault> {
    request(ground, Some("10.88.0.1"), AddressPurpose::Gateway).map(drop)
}

fn no_gateway(ground: &Ground) -> Result<(), Fault> {
    release(ground, "10.88.0.1")
}

fn address(ground: &Ground) -> Result<(), Fault> {
    request(ground, Some("10.88.0.7"), AddressPurpose::Endpoint).map(drop)
}

fn no_address(ground: &Ground) -> Result<(), Fault> {
    release(ground, "10.88.0.7")
}

/// An address that is held is refused, to whomever; an engine gives back what it failed to get.
fn address_anew(ground: &Ground) -> Result<(), Fault> {
    no_address(ground)?;
    address(ground)
}

fn any_address(ground: &Ground) -> Result<(), Fault> {
    let chosen = request(ground, None, AddressPurpose::Endpoint)?;
    assert_ne!(chosen, "10.88.0.1", "the gateway's address was given away");
    assert_ne!(chosen, "10.88.0.7", "an address was given twice");
    ground.remember("address", chosen);
    Ok(())
}

fn not_any_address(ground: &Ground) -> Result<(), Fault> {
    release(ground, &ground.recall("address"))
}

sweep!(requesting_a_pool: DRIVERS, [], pool, [no_pool]);
sweep!(requesting_a_held_pool: DRIVERS, [pool], pool, [no_pool]);
sweep!(requesting_a_gateway: DRIVERS, [pool], gateway, [no_gateway, no_pool]);
sweep!(requesting_an_address: DRIVERS, [pool, gateway], address => address_anew, [no_address, no_gateway, no_pool]);
sweep!(requesting_any_address: DRIVERS, [pool, gateway, address], any_address, [not_any_address, no_address, no_pool]);
sweep!(releasing_an_address: DRIVERS, [pool, address], no_address, [address, no_address, no_pool]);
sweep!(releasing_a_pool: DRIVERS, [pool, gateway, address], no_pool, []);
