//! A private containerd in a world, with longshore as its only snapshotter of note.

use std::fs;
use std::path::Path;

use super::World;
use super::command::{Out, Process, eventually, program};

/// A running containerd with its own folders and socket, and `ctr` to it.
pub(crate) struct Containerd<'w> {
    world: &'w World,
    process: Option<Process>,
    daemon: String,
    ctr: String,
}

/// Which containerd, and what more its configuration says.
pub(crate) struct Which {
    /// Where `containerd` and `ctr` are, or nothing: those that are installed.
    pub(crate) folder: Option<String>,
    /// More of its configuration.
    pub(crate) more: String,
}

impl<'w> Containerd<'w> {
    /// Starts it with the snapshotter `longshore` behind `socket`; returns when it answers.
    pub(crate) fn start(world: &'w World, socket: &Path) -> Self {
        let installed = Which {
            folder: None,
            more: String::new(),
        };
        Self::start_one(world, socket, &installed)
    }

    /// As [`Self::start`], a certain one.
    pub(crate) fn start_one(world: &'w World, socket: &Path, which: &Which) -> Self {
        let program = |name: &str| match &which.folder {
            Some(folder) => format!("{folder}/{name}"),
            None => name.to_owned(),
        };
        let [root, state, address] =
            ["containerd", "containerd-state", "containerd.sock"].map(|name| world.text(name));
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {address:?}\n\
             [ttrpc]\naddress = \"{address}.ttrpc\"\n\
             [proxy_plugins.longshore]\ntype = \"snapshot\"\naddress = \"{}\"\n\
             [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
             platform = \"linux/{}\"\nsnapshotter = \"longshore\"\n{}",
            socket.display(),
            architecture(),
            which.more
        );
        fs::write(world.path("containerd.toml"), text).unwrap();
        let mut containerd = Self {
            world,
            process: None,
            daemon: program("containerd"),
            ctr: program("ctr"),
        };
        containerd.again();
        containerd
    }

    /// Starts it again with the same folders, after it was stopped or killed.
    #[track_caller]
    pub(crate) fn again(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let config = self.world.text("containerd.toml");
        let words = [self.daemon.as_str(), "--config", &config];
        self.process = Some(self.world.start(&words, &[], "containerd.log"));
        eventually("containerd answers", || {
            let process = self.process.as_mut().expect("it was just started");
            let ended = process.ended();
            assert!(ended.is_none(), "{ended:?}\n{}", process.log());
            self.ctr(&["version"]).succeeded().then_some(())
        });
    }

    /// The path of its socket.
    pub(crate) fn address(&self) -> String {
        self.world.text("containerd.sock")
    }

    /// `ctr`, as it is started.
    pub(crate) fn program(&self) -> &str {
        &self.ctr
    }

    /// Runs `ctr …` against it.
    pub(crate) fn ctr(&self, words: &[&str]) -> Out {
        let address = self.address();
        let mut all = vec![self.ctr.as_str(), "--address", &address];
        all.extend(words);
        self.world.run(&all)
    }

    /// Runs `ctr …`, which must succeed, and gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.ctr(words).ok()
    }

    /// Keys of `ctr snapshots ls`, sorted.
    #[track_caller]
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let table = self.ok(&["snapshots", "--snapshotter", "longshore", "ls"]);
        let rows = table.lines().skip(1);
        rows.filter_map(|row| row.split_whitespace().next().map(str::to_owned))
            .collect()
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Stops it with SIGTERM.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let process = self.process.take().expect("it runs");
        let status = process.stop();
        assert!(status.success(), "containerd ended with {status}");
    }
}

/// Writes `box.tar` into the world, an archive as `docker save` makes it, of two layers: the root folder of
/// [`busybox`](super::busybox), and one that removes `etc/motd` by a whiteout and says something else.
pub(crate) fn saved_busybox(world: &World) -> String {
    super::busybox(world);
    let folder = world.path("saved");
    let top = world.path("top");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::write(top.join("etc/.wh.motd"), "").unwrap();
    fs::write(top.join("etc/greeting"), "ahoy from the second layer\n").unwrap();
    fs::rename(world.path("busybox.tar"), folder.join("one.tar")).unwrap();
    let tar = |file: &str, from: &str| {
        Out::of(&["tar", "-cf", file, "-C", from, "."], &[]).ok();
    };
    let two = folder.join("two.tar");
    tar(two.to_str().unwrap(), top.to_str().unwrap());
    let digests: Vec<String> = ["one.tar", "two.tar"]
        .map(|name| digest(&folder.join(name)))
        .into();
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": ["example.org/box:1"], "Layers": ["one.tar", "two.tar"],
    }]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let file = world.text("box.tar");
    tar(&file, folder.to_str().unwrap());
    file
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

fn digest(path: &Path) -> String {
    let output = program("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("sha256:{}", text.split_whitespace().next().unwrap())
}
