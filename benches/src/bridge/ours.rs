//! Our driver as an engine speaks to it.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::{Client, request};
use crate::ground::milliseconds;
use crate::server::Server;

/// A server with every driver, and one connection to its networks.
pub(super) struct Ours {
    client: Client,
    pub(super) server: Server,
}

impl Ours {
    pub(super) fn start(longshore: &Path) -> Result<Self> {
        let server = Server::ours(longshore)?;
        let client = Client::connect(&server.networks())?;
        Ok(Self { client, server })
    }

    /// The same, with a network of room for many.
    pub(super) fn with_network(longshore: &Path) -> Result<Self> {
        let mut ours = Self::start(longshore)?;
        ours.create_network("bench", "10.201.0.0/16", "10.201.0.1/16")?;
        Ok(ours)
    }

    /// One verb of the network plugin; the reply's JSON.
    pub(super) fn call(&mut self, verb: &str, body: &Value) -> Result<Value> {
        let verb = format!("NetworkDriver.{verb}");
        let reply = self
            .client
            .reply(&request(&verb, &body.to_string()))
            .with_context(|| format!("call {verb}"))?;
        Ok(serde_json::from_slice(reply).unwrap_or(Value::Null))
    }

    pub(super) fn create_network(&mut self, id: &str, pool: &str, gateway: &str) -> Result<()> {
        let data = json!([{"AddressSpace": "LongshoreLocal", "Pool": pool, "Gateway": gateway}]);
        let body = json!({"NetworkID": id, "Options": {}, "IPv4Data": data, "IPv6Data": []});
        self.call("CreateNetwork", &body).map(drop)
    }

    pub(super) fn delete_network(&mut self, id: &str) -> Result<()> {
        self.call("DeleteNetwork", &json!({"NetworkID": id})).map(drop)
    }

    /// An endpoint made and joined: its address, and the link that the engine would move.
    pub(super) fn join(&mut self, id: &str, nth: usize) -> Result<(String, String)> {
        let address = format!("10.201.{}.{}/16", 1 + nth / 200, 2 + nth % 200);
        let interface = json!({"Address": address, "AddressIPv6": "", "MacAddress": ""});
        let body = json!({"NetworkID": "bench", "EndpointID": id, "Interface": interface, "Options": {}});
        self.call("CreateEndpoint", &body)?;
        let key = format!("/run/netns/{id}");
        let body = json!({"NetworkID": "bench", "EndpointID": id, "SandboxKey": key, "Options": {}});
        let reply = self.call("Join", &body)?;
        let link = reply["InterfaceName"]["SrcName"].as_str().unwrap_or_default();
        Ok((address, link.to_owned()))
    }

    pub(super) fn leave(&mut self, id: &str) -> Result<()> {
        let body = json!({"NetworkID": "bench", "EndpointID": id});
        self.call("Leave", &body)?;
        self.call("DeleteEndpoint", &body).map(drop)
    }

    /// Publishes `count` ports of an endpoint on the host's ports from `first` on: milliseconds from the first
    /// byte of the request to the last of the answer.
    pub(super) fn publish(&mut self, id: &str, first: u16, count: u16) -> Result<f64> {
        let port = |port: u16| {
            json!({"Proto": 6, "IP": "", "Port": port + 1, "HostIP": "", "HostPort": first + port,
                   "HostPortEnd": first + port})
        };
        let ports: Vec<_> = (0..count).map(port).collect();
        let options = json!({"com.docker.network.portmap": ports});
        let body = json!({"NetworkID": "bench", "EndpointID": id, "Options": options});
        let verb = "NetworkDriver.ProgramExternalConnectivity";
        let bytes = request(verb, &body.to_string());
        milliseconds(|| self.client.call(&bytes).context("publish ports"))
    }

    pub(super) fn revoke(&mut self, id: &str) -> Result<()> {
        let body = json!({"NetworkID": "bench", "EndpointID": id});
        self.call("RevokeExternalConnectivity", &body).map(drop)
    }
}
