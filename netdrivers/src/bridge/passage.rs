//! Passage through the firewall of an engine beside us.
//!
//! An engine that writes iptables rules sets the policy of `FORWARD` to drop, and what one base chain accepts
//! another may still drop. That engine keeps a chain for rules of others, `DOCKER-USER`, which it never
//! empties. There we keep one rule in each family: accept what carries our mark, which our own chain gives to
//! packets that it let pass ([`super::firewall`]). It says nothing of any other packet, and nothing of what an
//! administrator forbids in that chain: it stands behind all of that, before the chain's last `RETURN`.
//!
//! The rule comes with the first network or with the chain, whichever is later, and goes with the last network.
//! Tables of `iptables-legacy` are not reached by nf_tables; there the administrator adds the same rule.

use kernel::netlink::Socket;
use kernel::netlink::nft::expr::{Meta, REG_1};
use kernel::netlink::nft::{Batch, Chain, Expr, Family, Rule, Table, Verdict};

use super::driver::{Core, lock};
use super::firewall::PASSED;
use super::records::NetworkPhase;
use super::tables::missing_is_fine;

/// The table of iptables that filters, in both families.
pub(super) const TABLE: Table = Table("filter");
const CHAIN: Chain = Chain {
    name: "DOCKER-USER",
    base: None,
};
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];
/// How we know the rule again.
const NOTE: &str = "longshore";

fn rule() -> Vec<Expr> {
    let bits = PASSED.to_ne_bytes();
    vec![
        Expr::Meta(Meta::Mark, REG_1),
        Expr::Mask(REG_1, bits),
        Expr::Equal(REG_1, bits.to_vec()),
        Expr::Counter,
        Expr::Verdict(Verdict::Accept),
    ]
}

/// What to change in a chain: `there` are its rules in their order.
fn plan(family: Family, there: &[Rule], is_wanted: bool) -> Option<Batch> {
    let mut ours = there.iter().filter(|rule| rule.note == NOTE);
    if !is_wanted {
        let batch = ours.fold(Batch::of(family), |batch, rule| batch.delete_rule(TABLE, rule));
        return (!batch.is_empty()).then_some(batch);
    }
    let last_return = there.iter().rfind(|rule| rule.is_plain_return);
    let is_reached = |rule: &Rule| last_return.is_none_or(|last| is_before(there, rule, last));
    if ours.any(is_reached) {
        return None;
    }
    let before = last_return.map(|rule| rule.handle);
    Some(Batch::of(family).rule_before(TABLE, (CHAIN, before), &rule(), NOTE))
}

fn is_before(there: &[Rule], one: &Rule, other: &Rule) -> bool {
    let place = |wanted: &Rule| there.iter().position(|rule| rule.handle == wanted.handle);
    place(one) < place(other)
}

fn settle(nft: &Socket, family: Family, is_wanted: bool) -> kernel::Result<()> {
    if !nft.has_chain(family, TABLE, CHAIN)? {
        return Ok(());
    }
    let there = nft.rules_of(family, TABLE, CHAIN)?;
    match plan(family, &there, is_wanted) {
        // Whoever changed the chain meanwhile is heard of, and it is looked at again.
        Some(batch) => missing_is_fine(nft.commit(batch)),
        None => Ok(()),
    }
}

impl Core {
    /// Keeps our rule in the engine's chain while there is a network, and takes it away behind the last.
    pub(super) fn settle_passage(&self) -> kernel::Result<()> {
        let _one = lock(&self.fenced);
        let mut networks = self.state().networks.clone().into_values();
        let is_wanted = networks.any(|network| network.phase != NetworkPhase::Removing);
        for family in FAMILIES {
            settle(&self.nft, family, is_wanted)?;
        }
        Ok(())
    }
}
