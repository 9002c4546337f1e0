//! The store of one machine keeps the contract, across clients.

use std::sync::Arc;

use cluster::contract::{Subject, check};
use cluster::embedded::Embedded;

#[test]
fn the_embedded_store_keeps_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Embedded::open(folder.path()).map(|store| Arc::new(store) as _);
    let subject = Subject::new(open).on_compact(|| Embedded::open(folder.path())?.compact());
    assert!(check(&subject) > 30);
}
