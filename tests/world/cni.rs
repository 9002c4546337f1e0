//! A small CNI runtime: it runs the plugins of a list, one after the other, as `libcni` does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::World;

/// Where Debian puts the plugins of others.
const DEBIAN: &str = "/usr/lib/cni";

/// A folder of plugins and the calls made to them.
pub(crate) struct Cni<'w> {
    world: &'w World,
    calls: AtomicU32,
}

/// A container as runtimes name it to plugins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'a> {
    /// `CNI_CONTAINERID`, and the name of its namespace.
    pub(crate) id: &'a str,
    /// `CNI_IFNAME`.
    pub(crate) link: &'a str,
}

impl Container<'_> {
    fn netns(&self) -> String {
        format!("/run/netns/{}", self.id)
    }
}

impl<'w> Cni<'w> {
    /// Makes a folder with `longshore-cni` and the plugins named of Debian's.
    pub(crate) fn new(world: &'w World, others: &[&str]) -> Self {
        let folder = world.path("cni-bin");
        fs::create_dir_all(&folder).unwrap();
        symlink(env!("CARGO_BIN_EXE_longshore"), folder.join("longshore-cni")).unwrap();
        for name in others {
            symlink(Path::new(DEBIAN).join(name), folder.join(name)).unwrap();
        }
        Self {
            world,
            calls: AtomicU32::new(0),
        }
    }

    /// One call of one plugin: the answer, or the error object. `netns` may be empty.
    pub(crate) fn call(
        &self,
        command: &str,
        container: &Container<'_>,
        netns: &str,
        definition: &Value,
    ) -> Result<Value, Value> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let file = self.world.text(&format!("cni-call-{number}.json"));
        fs::write(&file, definition.to_string()).unwrap();
        let folder = self.world.text("cni-bin");
        let plugin = format!("{folder}/{}", definition["type"].as_str().unwrap());
        let envs = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container.id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", container.link),
            ("CNI_PATH", &folder),
        ];
        let out = self
            .world
            .run_with(&["sh", "-c", "exec \"$0\" < \"$1\"", &plugin, &file], &envs);
        let text = out.stdout.clone();
        let answer = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {out}"))
        };
        if out.succeeded() {
            return Ok(answer);
        }
        assert!(
            answer["code"].is_u64() && answer["msg"].is_string(),
            "an error without its object: {out}"
        );
        Err(answer)
    }

    /// The definition of one plugin of a list, as the runtime hands it out.
    fn definition(list: &Value, nth: usize, previous: Option<&Value>) -> Value {
        let mut definition = list["plugins"][nth].clone();
        definition["cniVersion"] = list["cniVersion"].clone();
        definition["name"] = list["name"].clone();
        if let Some(previous) = previous {
            definition["prevResult"] = previous.clone();
        }
        definition
    }

    /// ADD of a whole list; what failed is taken back, as runtimes do.
    pub(crate) fn add(&self, list: &Value, container: &Container<'_>) -> Result<Value, Value> {
        let mut result = None;
        for nth in 0..list["plugins"].as_array().unwrap().len() {
            let definition = Self::definition(list, nth, result.as_ref());
            match self.call("ADD", container, &container.netns(), &definition) {
                Ok(answer) => result = Some(answer),
                Err(error) => {
                    self.delete(list, container, None);
                    return Err(error);
                }
            }
        }
        Ok(result.unwrap())
    }

    /// CHECK of a whole list.
    pub(crate) fn check(&self, list: &Value, container: &Container<'_>, result: &Value) -> Result<(), Value> {
        for nth in 0..list["plugins"].as_array().unwrap().len() {
            let definition = Self::definition(list, nth, Some(result));
            self.call("CHECK", container, &container.netns(), &definition)?;
        }
        Ok(())
    }

    /// DEL of a whole list, last plugin first; it must succeed.
    #[track_caller]
    pub(crate) fn delete(&self, list: &Value, container: &Container<'_>, result: Option<&Value>) {
        for nth in (0..list["plugins"].as_array().unwrap().len()).rev() {
            let definition = Self::definition(list, nth, result);
            let outcome = self.call("DEL", container, &container.netns(), &definition);
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }
}

/// A list of one plugin, ours, with more keys.
pub(crate) fn list(version: &str, name: &str, keys: &Value) -> Value {
    let mut own = json!({"type": "longshore-cni"});
    for (key, value) in keys.as_object().unwrap() {
        own[key] = value.clone();
    }
    json!({"cniVersion": version, "name": name, "plugins": [own]})
}
