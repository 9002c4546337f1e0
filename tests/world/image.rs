//! An image without a registry.

use std::fs;
use std::os::unix::fs::symlink;

use super::World;
use super::command::Out;

const APPLETS: [&str; 22] = [
    "sh", "ls", "cat", "ping", "wget", "httpd", "nc", "sleep", "echo", "ip", "touch", "mkdir", "rm",
    "nslookup", "mv", "ln", "stat", "chmod", "dd", "test", "true", "grep",
];

/// Writes `busybox.tar` into the world, a root folder with one static program and links to it.
pub(crate) fn busybox(world: &World) -> String {
    let dir = world.path("image");
    for sub in ["bin", "etc", "tmp", "data"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("busybox"));
    let busybox = found.find(|path| path.is_file()).unwrap();
    fs::copy(busybox, dir.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    fs::write(dir.join("etc/motd"), "from the image\n").unwrap();
    let file = world.text("busybox.tar");
    Out::of(&["tar", "-cf", &file, "-C", dir.to_str().unwrap(), "."], &[]).ok();
    file
}
