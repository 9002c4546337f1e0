//! Podman, which names every holder alike and hears only the status of a reply.

use crate::requires;
use crate::world::{Longshore, Podman, Suite, World};

#[test]
fn volumes_of_podman_are_written_copied_and_pruned() {
    volumes_are_written_copied_and_pruned(Suite::Own);
}

#[test]
fn volumes_of_podman_5_4_are_written_copied_and_pruned() {
    volumes_are_written_copied_and_pruned(Suite::Trixie);
}

#[test]
fn volumes_of_podman_5_8_are_written_copied_and_pruned() {
    volumes_are_written_copied_and_pruned(Suite::Forky);
}

fn volumes_are_written_copied_and_pruned(suite: Suite) {
    requires!(of suite; "podman", "busybox");
    let world = World::of(suite, "podman");
    let mut longshore = Longshore::start(&world, &["volume"]);
    let podman = Podman::new(&world);
    podman.import();
    world.remember();

    podman.ok(&["volume", "create", "--driver", "longshore", "hold"]);
    podman.run(&["--rm", "-v", "hold:/d", "box:1", "sh", "-c", "echo one > /d/file"]);
    assert_eq!(
        podman.run(&["--rm", "-v", "hold:/d", "box:1", "cat", "/d/file"]),
        "one"
    );

    // Two containers hold it by the same id, and Podman mounts once for both.
    for name in ["aa", "bb"] {
        podman.run(&["-d", "--name", name, "-v", "hold:/d", "box:1", "sleep", "100000"]);
    }
    let show = "{{.Driver}} {{.Mountpoint}}";
    let shown = podman.ok(&["volume", "inspect", "-f", show, "hold"]);
    assert!(
        shown.starts_with(&format!("longshore {}", world.text("state"))),
        "{shown}"
    );
    podman.run(&[
        "-d",
        "--name",
        "cc",
        "--volumes-from",
        "bb",
        "box:1",
        "sleep",
        "100000",
    ]);
    assert_eq!(podman.ok(&["exec", "cc", "cat", "/d/file"]), "one");
    podman.ok(&["rm", "-f", "-t", "0", "cc"]);
    let letter = world.text("letter");
    std::fs::write(&letter, "dear all\n").unwrap();
    podman.ok(&["cp", &letter, "aa:/d/letter"]);
    assert_eq!(podman.ok(&["exec", "bb", "cat", "/d/letter"]), "dear all");
    podman.ok(&["rm", "-f", "-t", "0", "aa"]);
    assert_eq!(podman.ok(&["exec", "bb", "cat", "/d/file"]), "one");

    longshore.kill();
    longshore.again();
    assert_eq!(podman.ok(&["exec", "bb", "cat", "/d/file"]), "one");
    podman.podman(&["volume", "rm", "hold"]).refused();
    podman.ok(&["rm", "-f", "-t", "0", "bb"]);
    podman.ok(&["volume", "rm", "hold"]);

    podman.ok(&["volume", "create", "--driver", "longshore", "ballast"]);
    podman.ok(&["volume", "prune", "-f"]);
    assert_eq!(podman.ok(&["volume", "ls", "-q"]), "");
    world.assert_nothing_left();
    longshore.stop();
}

#[test]
fn a_wrong_option_reaches_the_user_of_podman_as_a_sentence() {
    requires!("podman", "busybox");
    let world = World::new("podman-option");
    let mut longshore = Longshore::start(&world, &["volume"]);
    let podman = Podman::new(&world);
    let words = [
        "volume",
        "create",
        "--driver",
        "longshore",
        "-o",
        "colour=red",
        "hold",
    ];
    let sentence = podman.podman(&words).refused();
    assert!(sentence.contains("colour"), "{sentence}");
    assert_eq!(podman.ok(&["volume", "ls", "-q"]), "");
    longshore.stop();
}
