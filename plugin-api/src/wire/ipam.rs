//! `IpamDriver.*`. Errors live in `Error`, not in `Err`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Loose, Verb, bytes, loose_of, nullable, options_of, parse_maybe, reply, request, show};
use crate::Options;
use crate::fault::Fault;
use crate::id::{AddressSpace, HolderId, MacAddr, PoolId};
use crate::ipam::{
    AddressLease, AddressPurpose, AddressRequest, DefaultSpaces, HOLDER, IpamCapabilities, PoolLease,
    PoolRequest,
};

const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";
const MAC: &str = "com.docker.network.endpoint.macaddress";
const SERIAL: &str = "com.docker.network.ipam.serial";

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Capabilities {
    #[serde(rename = "RequiresMACAddress", deserialize_with = "nullable")]
    mac: bool,
    #[serde(rename = "RequiresRequestReplay", deserialize_with = "nullable")]
    replay: bool,
}

/// Reply to `GetCapabilities`.
pub fn capabilities_reply(can: IpamCapabilities) -> Vec<u8> {
    bytes(&Capabilities {
        mac: can.requires_mac,
        replay: can.requires_replay,
    })
}

/// Capabilities in the reply to `GetCapabilities`.
pub fn capabilities_reply_in(body: &[u8]) -> Result<IpamCapabilities, Fault> {
    let read: Capabilities = reply(Verb::IpamCapabilities, body)?;
    Ok(IpamCapabilities {
        requires_mac: read.mac,
        requires_replay: read.replay,
    })
}

#[derive(Serialize, Deserialize)]
struct Spaces {
    #[serde(rename = "LocalDefaultAddressSpace")]
    local: String,
    #[serde(rename = "GlobalDefaultAddressSpace")]
    global: String,
}

/// Reply to `GetDefaultAddressSpaces`.
pub fn default_spaces_reply(spaces: &DefaultSpaces) -> Vec<u8> {
    bytes(&Spaces {
        local: spaces.local.to_string(),
        global: spaces.global.to_string(),
    })
}

/// Spaces in the reply to `GetDefaultAddressSpaces`.
pub fn default_spaces_reply_in(body: &[u8]) -> Result<DefaultSpaces, Fault> {
    let read: Spaces = reply(Verb::IpamDefaultSpaces, body)?;
    Ok(DefaultSpaces {
        local: AddressSpace::new(read.local)?,
        global: AddressSpace::new(read.global)?,
    })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct PoolFields {
    #[serde(rename = "AddressSpace", deserialize_with = "nullable")]
    space: String,
    #[serde(rename = "Pool", deserialize_with = "nullable")]
    pool: String,
    #[serde(rename = "SubPool", deserialize_with = "nullable")]
    sub_pool: String,
    #[serde(rename = "Options", deserialize_with = "nullable")]
    options: Loose,
    #[serde(rename = "V6", deserialize_with = "nullable")]
    v6: bool,
}

/// Body of `RequestPool`.
pub fn pool_request(asked: &PoolRequest) -> Vec<u8> {
    bytes(&PoolFields {
        space: asked.space.to_string(),
        pool: show(asked.pool.as_ref()),
        sub_pool: show(asked.sub_pool.as_ref()),
        options: loose_of(&asked.options),
        v6: asked.v6,
    })
}

/// The pool asked for in the body of `RequestPool`.
pub fn pool_request_in(body: &[u8]) -> Result<PoolRequest, Fault> {
    let read: PoolFields = request(Verb::IpamRequestPool, body)?;
    Ok(PoolRequest {
        space: AddressSpace::new(read.space)?,
        pool: parse_maybe("Pool", &read.pool)?,
        sub_pool: parse_maybe("SubPool", &read.sub_pool)?,
        options: options_of(&read.options)?,
        v6: read.v6,
    })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct PoolReply {
    #[serde(rename = "PoolID", deserialize_with = "nullable")]
    id: String,
    #[serde(rename = "Pool", deserialize_with = "nullable")]
    pool: String,
    #[serde(rename = "Data", deserialize_with = "nullable")]
    data: BTreeMap<String, String>,
}

/// Reply to `RequestPool`.
pub fn pool_reply(lease: &PoolLease) -> Vec<u8> {
    bytes(&PoolReply {
        id: lease.id.to_string(),
        pool: lease.pool.to_string(),
        data: lease.data.clone(),
    })
}

/// The pool granted in the reply to `RequestPool`.
pub fn pool_reply_in(body: &[u8]) -> Result<PoolLease, Fault> {
    let read: PoolReply = reply(Verb::IpamRequestPool, body)?;
    let pool =
        parse_maybe("Pool", &read.pool)?.ok_or_else(|| Fault::internal("the plugin granted no pool"))?;
    Ok(PoolLease {
        id: PoolId::new(read.id)?,
        pool,
        data: read.data,
    })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct AddressFields {
    #[serde(rename = "PoolID", deserialize_with = "nullable")]
    pool: String,
    #[serde(
        rename = "Address",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    address: String,
    #[serde(
        rename = "Options",
        deserialize_with = "nullable",
        skip_serializing_if = "Loose::is_empty"
    )]
    options: Loose,
}

/// Body of `ReleasePool`.
pub fn release_pool_request(pool: &PoolId) -> Vec<u8> {
    bytes(&AddressFields {
        pool: pool.to_string(),
        ..AddressFields::default()
    })
}

/// The pool in the body of `ReleasePool`.
pub fn release_pool_request_in(body: &[u8]) -> Result<PoolId, Fault> {
    Ok(PoolId::new(
        request::<AddressFields>(Verb::IpamReleasePool, body)?.pool,
    )?)
}

/// Body of `RequestAddress`.
pub fn address_request(asked: &AddressRequest) -> Vec<u8> {
    let mut options = Options::new();
    if asked.purpose == AddressPurpose::Gateway {
        options.insert(ADDRESS_TYPE.into(), GATEWAY.into());
    }
    if let Some(mac) = asked.mac {
        options.insert(MAC.into(), mac.to_string());
    }
    if asked.serial {
        options.insert(SERIAL.into(), "true".into());
    }
    if let Some(holder) = &asked.holder {
        options.insert(HOLDER.into(), holder.to_string());
    }
    let address = show(asked.address.as_ref());
    bytes(&AddressFields {
        pool: asked.pool.to_string(),
        address,
        options: loose_of(&options),
    })
}

/// The address asked for in the body of `RequestAddress`.
pub fn address_request_in(body: &[u8]) -> Result<AddressRequest, Fault> {
    let read: AddressFields = request(Verb::IpamRequestAddress, body)?;
    let options = options_of(&read.options)?;
    let gateway = options.get(ADDRESS_TYPE).is_some_and(|kind| kind == GATEWAY);
    Ok(AddressRequest {
        pool: PoolId::new(read.pool)?,
        address: address_in(&read.address)?,
        purpose: if gateway {
            AddressPurpose::Gateway
        } else {
            AddressPurpose::Endpoint
        },
        mac: options.get(MAC).map(|text| text.parse::<MacAddr>()).transpose()?,
        serial: options.get(SERIAL).is_some_and(|text| text == "true"),
        holder: options.get(HOLDER).map(HolderId::new).transpose()?,
    })
}

/// An address, with or without a prefix length behind it: engines send both.
fn address_in(text: &str) -> Result<Option<IpAddr>, Fault> {
    parse_maybe(
        "Address",
        text.split_once('/').map_or(text, |(address, _)| address),
    )
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct AddressReply {
    #[serde(rename = "Address", deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "Data", deserialize_with = "nullable")]
    data: BTreeMap<String, String>,
}

/// Reply to `RequestAddress`.
pub fn address_reply(lease: &AddressLease) -> Vec<u8> {
    bytes(&AddressReply {
        address: lease.address.to_string(),
        data: lease.data.clone(),
    })
}

/// The address granted in the reply to `RequestAddress`.
pub fn address_reply_in(body: &[u8]) -> Result<AddressLease, Fault> {
    let read: AddressReply = reply(Verb::IpamRequestAddress, body)?;
    let address: Option<IpNet> = parse_maybe("Address", &read.address)?;
    let address = address.ok_or_else(|| Fault::internal("the plugin granted no address"))?;
    Ok(AddressLease {
        address,
        data: read.data,
    })
}

/// Body of `ReleaseAddress`.
pub fn release_address_request(pool: &PoolId, address: IpAddr) -> Vec<u8> {
    let fields = AddressFields {
        pool: pool.to_string(),
        address: address.to_string(),
        ..AddressFields::default()
    };
    bytes(&fields)
}

/// Pool and address in the body of `ReleaseAddress`.
pub fn release_address_request_in(body: &[u8]) -> Result<(PoolId, IpAddr), Fault> {
    let read: AddressFields = request(Verb::IpamReleaseAddress, body)?;
    let address =
        address_in(&read.address)?.ok_or_else(|| Fault::invalid("release an address: none was given"))?;
    Ok((PoolId::new(read.pool)?, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_told_by_an_option() {
        let body = br#"{"PoolID":"L/10.1.0.0/16","Address":"10.1.0.1/16","Options":{"RequestAddressType":"com.docker.network.gateway"}}"#;
        let asked = address_request_in(body).unwrap();
        assert_eq!(asked.purpose, AddressPurpose::Gateway);
        assert_eq!(asked.address, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(address_request_in(&address_request(&asked)).unwrap(), asked);
        let named = AddressRequest {
            holder: Some(HolderId::new("me").unwrap()),
            ..asked
        };
        assert_eq!(address_request_in(&address_request(&named)).unwrap(), named);
    }

    #[test]
    fn requests_round_trip() {
        let asked = PoolRequest {
            space: AddressSpace::new("L").unwrap(),
            pool: Some("10.1.0.0/16".parse().unwrap()),
            sub_pool: None,
            options: Options::from([("a".into(), "b".into())]),
            v6: false,
        };
        assert_eq!(pool_request_in(&pool_request(&asked)).unwrap(), asked);
        assert!(pool_request_in(br#"{"AddressSpace":"L","Pool":"10.1.0.0/99"}"#).is_err());
    }
}
