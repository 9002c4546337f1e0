//! The main job, step by step, each step checked.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::host::Host;
use super::signal::Interrupt;
use super::{Stage, Wishes, image};

const PORT: u16 = 8080;
const COMMITTED: &str = "voyage:2";

type Step<'a> = &'a dyn Fn(&Host) -> Result<()>;

/// Tells the story on the first host.
pub(super) fn tell(stage: &mut Stage, home: &Path, wishes: &Wishes<'_>, interrupt: &Interrupt) -> Result<()> {
    let archive = match wishes.image {
        Some(file) => image::given(file)?,
        None => image::make(home)?,
    };
    stage.clock.mark("an image of two layers, as an archive");
    let file = archive.file.to_string_lossy().into_owned();
    stage.image.clone_from(&archive.reference);
    let image = archive.reference.as_str();
    let own = wishes.image.is_none();
    let steps: [(&str, Step<'_>); 9] = [
        ("image imported, layer by layer", &|host| {
            import(host, &file, image)
        }),
        ("network front and volume cargo created", &objects),
        (
            "container web runs, with a volume and a published port",
            &|host| web(host, image),
        ),
        ("container mate runs on the same network", &|host| {
            mate(host, image)
        }),
        ("mate reaches web by its name", &|host| by_name(host, own)),
        ("the published port answers from outside", &|host| {
            from_outside(host, own)
        }),
        ("what web wrote to the volume, mate reads", &through_volume),
        ("mate's changes told, and committed as an image", &commit),
        ("a container of the committed image has them", &again),
    ];
    for (what, step) in steps {
        interrupt.check()?;
        let host = stage.hosts.first().context("there is no host")?;
        step(host)?;
        stage.clock.mark(what);
    }
    Ok(())
}

fn import(host: &Host, file: &str, image: &str) -> Result<()> {
    host.engine(&["image", "load", file])?;
    let history = host.engine(&["image", "history", image])?;
    ensure!(!history.trim().is_empty(), "image {image} has no history");
    Ok(())
}

fn objects(host: &Host) -> Result<()> {
    let network = [
        "network",
        "create",
        "--driver",
        "net",
        "--ipam-driver",
        "net",
        "--subnet",
        "10.99.0.0/24",
        "front",
    ];
    host.engine(&network)?;
    host.engine(&["volume", "create", "--driver", "vol", "cargo"])?;
    Ok(())
}

fn web(host: &Host, image: &str) -> Result<()> {
    let serve = [image, "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];
    let words = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "front",
        "-p",
        "8080:80",
        "-v",
        "cargo:/data",
    ];
    host.engine(&[&words[..], &serve].concat()).map(drop)
}

fn mate(host: &Host, image: &str) -> Result<()> {
    let words = [
        "run",
        "-d",
        "--name",
        "mate",
        "--network",
        "front",
        "-v",
        "cargo:/data",
    ];
    host.engine(&[&words[..], &[image, "/bin/busybox", "sleep", "1000"]].concat())
        .map(drop)
}

fn by_name(host: &Host, own: bool) -> Result<()> {
    host.engine(&[
        "exec",
        "mate",
        "/bin/busybox",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "web",
    ])?;
    if own {
        let page = host.engine(&["exec", "mate", "/bin/busybox", "wget", "-qO-", "http://web/"])?;
        ensure!(page == image::PAGE, "web answered mate with {page:?}");
    }
    Ok(())
}

/// We are outside: in the sea, not on the host.
fn from_outside(host: &Host, own: bool) -> Result<()> {
    let answer = fetch(&host.address())?;
    ensure!(
        answer.starts_with("HTTP/1."),
        "the published port answered {answer:?}"
    );
    ensure!(
        !own || answer.ends_with(image::PAGE),
        "the published port answered {answer:?}"
    );
    Ok(())
}

fn fetch(address: &str) -> Result<String> {
    let limit = Instant::now() + Duration::from_secs(5);
    let mut stream = loop {
        match TcpStream::connect((address, PORT)) {
            Ok(stream) => break stream,
            // The web server may still be starting.
            Err(_) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).with_context(|| format!("connect to {address}:{PORT}")),
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .context("ask for the page")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the page")?;
    Ok(answer)
}

fn through_volume(host: &Host) -> Result<()> {
    host.engine(&["exec", "web", "/bin/busybox", "cp", "/etc/hostname", "/data/note"])?;
    let wrote = host.engine(&["exec", "web", "/bin/busybox", "cat", "/data/note"])?;
    let read = host.engine(&["exec", "mate", "/bin/busybox", "cat", "/data/note"])?;
    ensure!(
        !read.trim().is_empty() && read == wrote,
        "web wrote {wrote:?}, mate reads {read:?}"
    );
    Ok(())
}

fn commit(host: &Host) -> Result<()> {
    host.engine(&["exec", "mate", "/bin/busybox", "touch", "/hello"])?;
    let diff = host.engine(&["diff", "mate"])?;
    ensure!(
        diff.lines().any(|line| line == "A /hello"),
        "the diff of mate is {diff:?}"
    );
    host.engine(&["commit", "mate", COMMITTED])?;
    Ok(())
}

fn again(host: &Host) -> Result<()> {
    let words = [
        "run",
        "-d",
        "--name",
        "heir",
        COMMITTED,
        "/bin/busybox",
        "sleep",
        "1000",
    ];
    host.engine(&words)?;
    host.engine(&["exec", "heir", "/bin/busybox", "cat", "/hello"])?;
    host.engine(&["logs", "web"]).map(drop)
}

/// Removes every object of the story that is there, and answers what could not be removed.
pub(super) fn undo(host: &Host, image: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut remove =
        |words: &[&str]| wrong.extend(host.engine(words).err().map(|error| format!("{error:#}")));
    match host.engine(&["ps", "-a", "-q"]) {
        Ok(containers) => containers
            .split_whitespace()
            .for_each(|id| remove(&["rm", "-f", id])),
        Err(_) => remove(&["ps", "-a", "-q"]),
    }
    // An interrupted story has not made everything.
    let objects = [("network", "inspect", "front"), ("volume", "inspect", "cargo")];
    let images = [("image", "history", COMMITTED), ("image", "history", image)];
    for (kind, ask, name) in objects.into_iter().chain(images) {
        if host.engine(&[kind, ask, name]).is_ok() {
            remove(&[kind, "rm", name]);
        }
    }
    wrong
}
