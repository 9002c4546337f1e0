//! Our bytes against those of `nft`, and our batches against the kernel.

use super::expr::{self, Base, Meta, REG_1, REG_2, reg32};
use super::*;
use crate::netns::run_in_new;

const TABLE: Table = Table("longshore");
const ANY4: Set = Set {
    name: "any4",
    id: 1,
    key: &[Field::Protocol, Field::Port],
    values: Values::Fields(&[Field::Ipv4, Field::Port]),
    ranges: false,
};
const ICC: Set = Set {
    name: "icc",
    id: 2,
    key: &[Field::LinkName, Field::LinkName],
    values: Values::None,
    ranges: false,
};
const PUBLISH: Chain = Chain {
    name: "publish",
    base: None,
};
const PREROUTING: Chain = Chain {
    name: "prerouting",
    base: Some(("nat", Hook::Prerouting, -100)),
};

fn web(port: u16, to: u8) -> Element {
    let key = Fields::new().protocol(6).port(port);
    let value = Fields::new().address([10, 0, 0, to].into()).port(80);
    Element {
        comment: "ep1".to_owned(),
        ..Element::pair(key, value)
    }
}

fn publishing() -> Batch {
    let publish = [
        Expr::Meta(Meta::Family, REG_1),
        Expr::Equal(REG_1, vec![2]),
        Expr::Meta(Meta::Protocol, REG_1),
        Expr::Payload(Base::Transport, 2, 2, reg32(1)),
        Expr::Find(REG_1, ANY4, REG_1),
        Expr::Dnat(2, REG_1, reg32(1)),
    ];
    let local = [
        Expr::DestinationType(REG_1),
        Expr::Equal(REG_1, 2u32.to_ne_bytes().to_vec()),
        Expr::Verdict(Verdict::Jump("publish".to_owned())),
    ];
    let same = Element::key(Fields::new().link("br0").link("br0"));
    Batch::new()
        .table(TABLE)
        .chain(TABLE, PUBLISH)
        .chain(TABLE, PREROUTING)
        .set(TABLE, &ANY4)
        .add(TABLE, &ANY4, &[web(8080, 2)])
        .set(TABLE, &ICC)
        .add(TABLE, &ICC, &[same])
        .rule(TABLE, PUBLISH, &publish)
        .rule(TABLE, PREROUTING, &local)
}

/// What nft 1.0.6 sent for the same table, recorded with strace.
fn golden() -> Vec<u8> {
    let text: String = include_str!("nft-1.0.6.hex").split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn a_batch_has_the_bytes_that_nft_sends() {
    let requests = publishing().end();
    let mut ours = Vec::new();
    for (sequence, request) in (0u32..).zip(&requests) {
        ours.extend(request.message.clone().finish(libc::NLM_F_REQUEST, sequence));
    }
    let golden = golden();
    let theirs = crate::netlink::message::split(&golden);
    let mine = crate::netlink::message::split(&ours);
    for ((request, mine), theirs) in requests.iter().zip(&mine).zip(&theirs) {
        let what = format!("{} {}", request.operation, request.subject);
        assert_eq!(mine.body, theirs.body, "{what}");
        assert_eq!((mine.kind, mine.flags), (theirs.kind, theirs.flags), "{what}");
    }
    assert_eq!(ours, golden);
}

#[test]
fn the_kernel_takes_a_batch_and_tells_its_elements() {
    run_in_new(|| {
        let socket = Socket::netfilter().unwrap();
        assert_eq!(socket.tables().unwrap(), Vec::<String>::new());
        socket.commit(publishing()).unwrap();
        assert_eq!(socket.tables().unwrap(), ["longshore"]);
        assert_eq!(socket.elements(TABLE, &ANY4).unwrap(), [web(8080, 2)]);
        let chains = |rules: Vec<Rule>| rules.into_iter().map(|rule| rule.chain).collect::<Vec<_>>();
        let rules = socket.rules(Family::Inet, TABLE).unwrap();
        assert_eq!(chains(rules), ["publish", "prerouting"]);
        let rules = socket.rules_of(Family::Inet, TABLE, PREROUTING).unwrap();
        assert_eq!(chains(rules), ["prerouting"]);
        // The same again is no error, another target for the same port is.
        socket
            .commit(Batch::new().add(TABLE, &ANY4, &[web(8080, 2)]))
            .unwrap();
        let taken = socket.commit(Batch::new().add(TABLE, &ANY4, &[web(8081, 2), web(8080, 3)]));
        let taken = taken.unwrap_err();
        assert!(taken.is_busy() || taken.is_exists(), "{taken:?}");
        assert_eq!(taken.to_string(), "add elements to longshore any4");
        assert_eq!(
            socket.elements(TABLE, &ANY4).unwrap().len(),
            1,
            "half a batch was kept"
        );
        socket
            .commit(Batch::new().remove(TABLE, &ANY4, &[web(8080, 2)]))
            .unwrap();
        let gone = socket.commit(Batch::new().remove(TABLE, &ANY4, &[web(8080, 2)]));
        assert!(gone.unwrap_err().is_missing());
        socket.commit(Batch::new().delete_table(TABLE)).unwrap();
        assert_eq!(socket.tables().unwrap(), Vec::<String>::new());
    })
    .unwrap();
}

#[test]
fn a_batch_replaces_a_whole_table_at_once() {
    run_in_new(|| {
        let socket = Socket::netfilter().unwrap();
        socket.commit(publishing()).unwrap();
        let mut fresh = Batch::new().table(TABLE).delete_table(TABLE);
        fresh.0.extend(publishing().0.into_iter().skip(1));
        socket.commit(fresh.add(TABLE, &ANY4, &[web(9090, 4)])).unwrap();
        assert_eq!(socket.elements(TABLE, &ANY4).unwrap().len(), 2);
    })
    .unwrap();
}

#[test]
fn thousands_of_elements_in_one_batch() {
    run_in_new(|| {
        let socket = Socket::netfilter().unwrap();
        socket.commit(publishing()).unwrap();
        let many: Vec<_> = (10_000..15_000).map(|port| web(port, 2)).collect();
        socket.commit(Batch::new().add(TABLE, &ANY4, &many)).unwrap();
        assert_eq!(socket.elements(TABLE, &ANY4).unwrap().len(), 5_001);
        socket.commit(Batch::new().remove(TABLE, &ANY4, &many)).unwrap();
        assert_eq!(socket.elements(TABLE, &ANY4).unwrap().len(), 1);
    })
    .unwrap();
}

const SUBNETS: Set = Set {
    name: "subnets",
    id: 1,
    key: &[Field::Ipv4],
    values: Values::None,
    ranges: true,
};
const RANGES: Set = Set {
    name: "ranges",
    id: 2,
    key: &[Field::Protocol, Field::Port],
    values: Values::Fields(&[Field::Ipv4]),
    ranges: true,
};
const LINKS: Set = Set {
    name: "links",
    id: 3,
    key: &[Field::LinkName],
    values: Values::Verdicts,
    ranges: false,
};
const POST: Chain = Chain {
    name: "post",
    base: Some(("nat", Hook::Postrouting, 100)),
};
const FORWARD: Chain = Chain {
    name: "forward",
    base: Some(("filter", Hook::Forward, 0)),
};

#[test]
fn ranges_verdicts_and_every_expression_are_taken() {
    let nets =
        ["10.0.0.0/24", "10.0.1.0/24", "255.255.255.0/24"].map(|net| Element::subnet(net.parse().unwrap()));
    let range = Element {
        end: Some(Fields::new().protocol(6).port(8085).bytes()),
        ..Element::pair(
            Fields::new().protocol(6).port(8080),
            Fields::new().address([10, 0, 0, 2].into()),
        )
    };
    let verdict = Element {
        value: Some(Value::Verdict(Verdict::Drop)),
        ..Element::key(Fields::new().link("br0"))
    };
    let out = [
        Expr::Meta(Meta::Family, REG_1),
        Expr::Equal(REG_1, vec![2]),
        Expr::Payload(Base::Network, 12, 4, REG_1),
        Expr::In(REG_1, SUBNETS),
        Expr::NotIn(REG_1, SUBNETS),
        Expr::Masquerade,
    ];
    let decide = [Expr::Meta(Meta::InName, REG_1), Expr::Decide(REG_1, LINKS)];
    let track = [
        Expr::Ct(expr::Ct::State, REG_1),
        Expr::Mask(REG_1, (expr::ESTABLISHED | expr::RELATED).to_ne_bytes()),
        Expr::Differ(REG_1, vec![0; 4]),
        Expr::Meta(Meta::OutName, REG_2),
        Expr::Verdict(Verdict::Accept),
    ];
    run_in_new(|| {
        let socket = Socket::netfilter().unwrap();
        let batch = Batch::new()
            .table(TABLE)
            .set(TABLE, &SUBNETS)
            .set(TABLE, &RANGES)
            .set(TABLE, &LINKS)
            .chain(TABLE, POST)
            .chain(TABLE, FORWARD)
            .add(TABLE, &SUBNETS, &nets)
            .add(TABLE, &RANGES, std::slice::from_ref(&range))
            .add(TABLE, &LINKS, &[verdict])
            .rule(TABLE, POST, &out)
            .rule(TABLE, FORWARD, &decide)
            .rule(TABLE, FORWARD, &track);
        socket.commit(batch).unwrap();
        assert_eq!(socket.elements(TABLE, &SUBNETS).unwrap().len(), 3);
        assert_eq!(socket.elements(TABLE, &RANGES).unwrap(), [range]);
        socket
            .commit(Batch::new().remove(TABLE, &SUBNETS, &nets[..1]))
            .unwrap();
        assert_eq!(socket.elements(TABLE, &SUBNETS).unwrap().len(), 2);
    })
    .unwrap();
}
