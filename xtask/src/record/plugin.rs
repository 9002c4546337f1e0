//! A plugin that notes every request and answers so that the engine goes on.
//!
//! Layers are plain folders, copied whole; it records, it is no driver.

use std::io::{BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::http::{self, Request};
use crate::run;

/// What a plugin has heard so far.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<Request>>>);

impl Heard {
    fn note(&self, request: &Request) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.clone());
    }

    /// All requests in order of arrival.
    pub(super) fn all(&self) -> Vec<Request> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Plugin {
    home: PathBuf,
    implements: &'static [&'static str],
    heard: Heard,
    created: Mutex<Vec<String>>,
    next_host: AtomicU32,
}

/// Serves on `socket` until the process ends; layers and volumes live below `home`.
pub(super) fn serve(
    socket: &Path,
    home: &Path,
    implements: &'static [&'static str],
    heard: &Heard,
) -> Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
    let plugin = Arc::new(Plugin {
        home: home.to_owned(),
        implements,
        heard: heard.clone(),
        created: Mutex::default(),
        next_host: AtomicU32::new(2),
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let plugin = Arc::clone(&plugin);
            std::thread::spawn(move || {
                if let Err(error) = plugin.converse(stream) {
                    eprintln!("plugin: {error:#}");
                }
            });
        }
    });
    Ok(())
}

impl Plugin {
    fn converse(&self, stream: UnixStream) -> Result<()> {
        let mut to = stream.try_clone().context("share a connection")?;
        let mut from = BufReader::new(stream);
        while let Some(request) = http::read(&mut from)? {
            self.heard.note(&request);
            match self.answer(&request) {
                Ok(body) => http::answer(&mut to, 200, &body)?,
                Err(error) => {
                    let text = format!("{error:#}");
                    http::answer(
                        &mut to,
                        500,
                        json!({"Err": text, "Error": text}).to_string().as_bytes(),
                    )?;
                }
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Result<Vec<u8>> {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let verb = request.verb();
        let value = match verb.split_once('.') {
            Some(("Plugin", _)) => json!({"Implements": self.implements}),
            Some(("VolumeDriver", verb)) => self.volume(verb, &body)?,
            Some(("NetworkDriver", verb)) => network(verb, &body),
            Some(("IpamDriver", verb)) => self.ipam(verb, &body),
            Some(("GraphDriver", "Diff")) => return self.tar_out(word(&body, "ID")),
            Some(("GraphDriver", verb)) => self.graph(verb, request, &body)?,
            _ => anyhow::bail!("{verb}: no such verb"),
        };
        Ok(value.to_string().into_bytes())
    }

    fn volume(&self, verb: &str, body: &Value) -> Result<Value> {
        let name = word(body, "Name");
        let mountpoint = self.home.join(name);
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |name: &str| json!({"Name": name, "Mountpoint": self.home.join(name), "Status": {}});
        Ok(match verb {
            "Capabilities" => json!({"Capabilities": {"Scope": "local"}}),
            "Create" => {
                std::fs::create_dir_all(&mountpoint)?;
                created.push(name.to_owned());
                json!({})
            }
            "Get" if !created.iter().any(|known| known == name) => anyhow::bail!("no volume {name}"),
            "Get" => json!({"Volume": one(name)}),
            "List" => json!({"Volumes": created.iter().map(|name| one(name)).collect::<Vec<_>>()}),
            "Mount" | "Path" => json!({"Mountpoint": mountpoint}),
            "Remove" => {
                created.retain(|known| known != name);
                json!({})
            }
            _ => json!({}),
        })
    }

    fn ipam(&self, verb: &str, body: &Value) -> Value {
        match verb {
            "GetCapabilities" => json!({"RequiresMACAddress": true, "RequiresRequestReplay": true}),
            "GetDefaultAddressSpaces" => {
                json!({"LocalDefaultAddressSpace": "probe-local", "GlobalDefaultAddressSpace": "probe-global"})
            }
            "RequestPool" => {
                let pool = Some(word(body, "Pool"))
                    .filter(|pool| !pool.is_empty())
                    .unwrap_or("10.88.0.0/16");
                json!({"PoolID": format!("{}/{pool}", word(body, "AddressSpace")), "Pool": pool, "Data": {}})
            }
            "RequestAddress" => {
                let wished = word(body, "Address");
                let pool = word(body, "PoolID");
                let net = if pool.contains("10.88.") { "10.88" } else { "10.77" };
                let host = self.next_host.fetch_add(1, Ordering::Relaxed);
                let address = if wished.is_empty() {
                    format!("{net}.1.{host}")
                } else {
                    wished.to_owned()
                };
                json!({"Address": format!("{address}/16"), "Data": {}})
            }
            _ => json!({}),
        }
    }

    fn graph(&self, verb: &str, request: &Request, body: &Value) -> Result<Value> {
        let dir = self.home.join(word(body, "ID"));
        Ok(match verb {
            "Capabilities" => json!({"Capabilities": {"ReproducesExactDiffs": false}}),
            "Status" => json!({"Status": [["Recorder", "yes"]]}),
            "Create" | "CreateReadWrite" => {
                std::fs::create_dir_all(&dir)?;
                let parent = word(body, "Parent");
                if !parent.is_empty() {
                    let from = self.home.join(parent).join(".");
                    run::read(run::program("cp").arg("-a").arg(from).arg(&dir))?;
                }
                json!({})
            }
            "Get" => json!({"Dir": dir}),
            "Exists" => json!({"Exists": dir.is_dir()}),
            "Remove" => {
                if dir.is_dir() {
                    std::fs::remove_dir_all(&dir)?;
                }
                json!({})
            }
            "GetMetadata" => json!({"Metadata": {"Dir": dir}}),
            "Changes" => json!({"Changes": [{"Path": "/hello", "Kind": 1}]}),
            "DiffSize" => json!({"Size": 5}),
            "ApplyDiff" => json!({"Size": self.tar_in(request)?}),
            _ => json!({}),
        })
    }

    fn tar_in(&self, request: &Request) -> Result<usize> {
        let dir = self.home.join(request.query("id").unwrap_or_default());
        let mut tar = run::program("tar")
            .arg("-xC")
            .arg(dir)
            .stdin(Stdio::piped())
            .spawn()
            .context("start tar")?;
        tar.stdin
            .take()
            .context("tar has no stdin")?
            .write_all(&request.body)?;
        anyhow::ensure!(tar.wait()?.success(), "tar refused a layer");
        Ok(request.body.len())
    }

    fn tar_out(&self, id: &str) -> Result<Vec<u8>> {
        let output = run::program("tar")
            .arg("-cC")
            .arg(self.home.join(id))
            .arg(".")
            .output()
            .context("start tar")?;
        anyhow::ensure!(output.status.success(), "tar refused to read a layer");
        Ok(output.stdout)
    }
}

fn network(verb: &str, body: &Value) -> Value {
    match verb {
        "GetCapabilities" => json!({"Scope": "local", "ConnectivityScope": "local"}),
        // Only what was empty may be answered.
        "CreateEndpoint" if body["Interface"]["MacAddress"] == "" => {
            json!({"Interface": {"MacAddress": "02:00:00:00:00:01"}})
        }
        "EndpointOperInfo" => json!({"Value": {}}),
        "Join" => json!({"DisableGatewayService": true}),
        _ => json!({}),
    }
}

fn word<'a>(body: &'a Value, key: &str) -> &'a str {
    body[key].as_str().unwrap_or_default()
}
