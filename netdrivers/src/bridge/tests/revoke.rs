//! Revocations that fail.

use super::*;

/// Revokes a port while the fault of this process is armed, and compares kernel, record and memory.
fn revoke_under_fault(armed: &std::path::Path) {
    World::run(|mut world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(80, "b");
        world.publish(&b.at, Protocol::Tcp, 8080, 80).unwrap();
        let before = world.driver().core.state().endpoints[&b.at].clone();
        std::fs::write(armed, "").unwrap();
        let outcome = world.driver().revoke(&b.at);
        std::fs::remove_file(armed).unwrap();
        let reachable = reads("10.9.0.1:8080").is_some();
        let memory = world.driver().core.state().endpoints[&b.at].clone();
        match outcome {
            Err(_) => {
                assert!(reachable, "a revocation that failed took the port");
                assert_eq!(memory, before);
                let again = world.publish(&b.at, Protocol::Tcp, 8080, 80);
                assert_eq!(again.unwrap(), Done::AlreadySo);
            }
            Ok(_) => assert!(!reachable && memory.published.is_empty()),
        }
        let failed = outcome.is_err();
        world.restart();
        let record = world.driver().core.state().endpoints[&b.at].clone();
        assert_eq!(record, memory, "record and memory differ");
        let now = world.driver().revoke(&b.at).unwrap();
        assert_eq!(now == Done::Changed, failed);
        assert_eq!(reads("10.9.0.1:8080"), None);
        world.driver().delete_network(&b.at.network).unwrap();
        nothing_is_left();
        println!("{}", if failed { "failed" } else { "succeeded" });
    });
}

#[test]
fn a_revocation_that_fails_at_any_step_leaves_everything_as_it_was() {
    let name = "bridge::tests::revoke::a_revocation_that_fails_at_any_step_leaves_everything_as_it_was";
    if let Ok(armed) = std::env::var("REVOKE_ARMED") {
        return revoke_under_fault(std::path::Path::new(&armed));
    }
    let folder = tempfile::tempdir().unwrap();
    let armed = folder.path().join("armed");
    let mut failures = 0;
    for nth in 1..=8 {
        #[allow(clippy::disallowed_methods)] // The fault is of the process: each try is one of its own.
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("REVOKE_ARMED", &armed)
            .env("LONGSHORE_FAULT", format!("fail:{nth}:5:{}", armed.display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "fault {nth}: {said}");
        failures += usize::from(said.contains("failed\n"));
    }
    // Both records and the three requests of the firewall's batch; not what comes behind a commit.
    assert!((4..=6).contains(&failures), "{failures} steps failed");
}
