//! nf_tables: tables, chains, rules, sets and maps, changed in batches that are all or nothing.
//!
//! ```no_run
//! use kernel::netlink::{Socket, nft::{Batch, Table}};
//! let table = Table("example");
//! let batch = Batch::new().table(table);
//! Socket::netfilter()?.commit(batch)?;
//! # Ok::<(), kernel::Error>(())
//! ```

pub mod expr;
pub mod set;
#[cfg(test)]
mod tests;

use super::{Attributes, Message, Request, Socket};
use crate::error::Result;
pub use expr::{Expr, Verdict};
pub use set::{Element, Field, Fields, Set, Value, Values};

/// Length of `struct nfgenmsg`.
const FIXED: usize = 4;
/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u8 = 10;
/// `NFPROTO_INET`: IPv4 and IPv6 together.
const INET: u8 = 1;
/// `NFPROTO_BRIDGE`.
const BRIDGE: u8 = 7;
/// `NFPROTO_IPV4`.
const IP: u8 = 2;
/// `NFPROTO_IPV6`.
const IP6: u8 = 10;

const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const GET_CHAIN: u8 = 4;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const DELETE_RULE: u8 = 8;
const NEW_SET: u8 = 9;
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DELETE_ELEMENTS: u8 = 14;

/// Most elements of one message: its list must stay below 64 KiB.
const MOST_ELEMENTS: usize = 200;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// IPv4 and IPv6.
    #[default]
    Inet,
    /// Frames that pass bridges.
    Bridge,
    /// IPv4 alone.
    Ip,
    /// IPv6 alone.
    Ip6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => INET,
            Self::Bridge => BRIDGE,
            Self::Ip => IP,
            Self::Ip6 => IP6,
        }
    }
}

/// A table, by name; of the batch's or the question's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table(pub &'static str);

/// Where a chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// Routed through this host.
    Forward,
    /// Made by this host.
    Output,
    /// About to leave.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// A chain; without a base it is reached by jumps only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// `nat` or `filter`, the hook, and the priority among chains of that hook.
    pub base: Option<(&'static str, Hook, i32)>,
}

/// A rule as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its chain.
    pub chain: String,
    /// Its number in the table.
    pub handle: u64,
    /// The note on it; empty without one.
    pub note: String,
    /// Whether all it does, beside counting, is to return to the caller.
    pub is_plain_return: bool,
}

impl Rule {
    fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let handle = attributes.get(3)?.try_into().ok()?;
        let note = attributes.get(7).and_then(|notes| notes.get(2..));
        let mut acts = attributes.nest(4).iter().filter_map(|(_, expression)| {
            let expression = Attributes::new(expression);
            let name = expression.text(1)?;
            let verdict = expression.nest(2).nest(2).nest(2).get(1);
            (name != "counter").then(|| (name, verdict.map(<[u8]>::to_vec)))
        });
        let returns = ("immediate".to_owned(), Some((-5i32).to_be_bytes().to_vec()));
        Some(Self {
            chain: attributes.text(2)?,
            handle: u64::from_be_bytes(handle),
            note: String::from_utf8_lossy(note.unwrap_or_default())
                .trim_end_matches('\0')
                .to_owned(),
            is_plain_return: acts.next() == Some(returns) && acts.next().is_none(),
        })
    }
}

/// Changes that the kernel makes together or not at all.
#[derive(Debug, Clone)]
pub struct Batch(Vec<Request>, Family);

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

fn message(family: Family, kind: u8, flags: i32) -> Message {
    Message::new(
        u16::from_be_bytes([SUBSYSTEM, kind]),
        flags,
        &[family.number(), 0, 0, 0],
    )
}

impl Batch {
    /// No change yet.
    pub fn new() -> Self {
        let begin = Message::new(0x10, 0, &[0, 0, 0, SUBSYSTEM]);
        let begin = Request::new("begin batch for", "nf_tables", begin);
        Self(vec![begin], Family::default())
    }

    /// No change yet, of tables of a family.
    pub fn of(family: Family) -> Self {
        Self(Self::new().0, family)
    }

    fn message(&self, kind: u8, flags: i32) -> Message {
        message(self.1, kind, flags)
    }

    /// Whether there is no change in it.
    pub fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// These changes and behind them those of another batch, perhaps of another family's tables.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0.into_iter().skip(1));
        self
    }

    fn push(mut self, operation: &'static str, subject: impl Into<String>, message: Message) -> Self {
        self.0.push(Request::new(operation, subject, message));
        self
    }

    /// Makes a table; one that is there stays as it is.
    #[must_use]
    pub fn table(self, table: Table) -> Self {
        let message = self.message(NEW_TABLE, 0).text(1, table.0).number_be(2, 0);
        self.push("create table", table.0, message)
    }

    /// Removes a table with all that is in it; ENOENT if there is none.
    #[must_use]
    pub fn delete_table(self, table: Table) -> Self {
        let message = self.message(DELETE_TABLE, 0).text(1, table.0);
        self.push("delete table", table.0, message)
    }

    /// Makes a chain; base chains accept what no rule decides.
    #[must_use]
    pub fn chain(self, table: Table, chain: Chain) -> Self {
        let mut message = self
            .message(NEW_CHAIN, libc::NLM_F_CREATE)
            .text(1, table.0)
            .text(3, chain.name);
        if let Some((kind, hook, priority)) = chain.base {
            const ACCEPT: u32 = 1;
            message = message.text(7, kind).number_be(5, ACCEPT).nest(4, |m| {
                m.number_be(1, hook.number()).bytes(2, &priority.to_be_bytes())
            });
        }
        self.push("create chain", format!("{} {}", table.0, chain.name), message)
    }

    /// Adds a rule at the end of a chain.
    #[must_use]
    pub fn rule(self, table: Table, chain: Chain, expressions: &[Expr]) -> Self {
        let message = self
            .message(NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND)
            .text(1, table.0)
            .text(2, chain.name)
            .nest(4, |m| expressions.iter().fold(m, |m, expr| expr.write(m)));
        self.push("add rule to", format!("{} {}", table.0, chain.name), message)
    }

    /// Adds a rule before another, or at the end of its chain; a note stays with it.
    #[must_use]
    pub fn rule_before(
        self,
        table: Table,
        (chain, before): (Chain, Option<u64>),
        expressions: &[Expr],
        note: &str,
    ) -> Self {
        let flags = match before {
            Some(_) => libc::NLM_F_CREATE,
            None => libc::NLM_F_CREATE | libc::NLM_F_APPEND,
        };
        let message = self.message(NEW_RULE, flags).text(1, table.0).text(2, chain.name);
        let message = match before {
            Some(handle) => message.bytes(6, &handle.to_be_bytes()),
            None => message,
        };
        let message = message.nest(4, |m| expressions.iter().fold(m, |m, expr| expr.write(m)));
        let message = message.bytes(7, &set::comment(note));
        self.push("add rule to", format!("{} {}", table.0, chain.name), message)
    }

    /// Removes a rule; ENOENT if there is none.
    #[must_use]
    pub fn delete_rule(self, table: Table, rule: &Rule) -> Self {
        let message = self.message(DELETE_RULE, 0).text(1, table.0);
        let message = message.text(2, &rule.chain).bytes(3, &rule.handle.to_be_bytes());
        self.push("delete rule from", format!("{} {}", table.0, rule.chain), message)
    }

    /// Makes a set or map; one of the same shape that is there stays as it is.
    #[must_use]
    pub fn set(self, table: Table, set: &Set) -> Self {
        let message = set.write(self.message(NEW_SET, libc::NLM_F_CREATE).text(1, table.0));
        self.push("create set", format!("{} {}", table.0, set.name), message)
    }

    fn elements(
        mut self,
        operation: &'static str,
        (kind, flags): (u8, i32),
        (table, set): (Table, &Set),
        elements: &[Element],
    ) -> Self {
        for some in elements.chunks(MOST_ELEMENTS) {
            let message = set.write_elements(self.message(kind, flags).text(1, table.0), some);
            self = self.push(operation, format!("{} {}", table.0, set.name), message);
        }
        self
    }

    /// Adds elements. The same element again is no error; a key that has another value is
    /// EEXIST or, to older kernels, EBUSY.
    #[must_use]
    pub fn add(self, table: Table, set: &Set, elements: &[Element]) -> Self {
        let kind = (NEW_ELEMENTS, libc::NLM_F_CREATE);
        self.elements("add elements to", kind, (table, set), elements)
    }

    /// Removes elements by their keys; ENOENT if one is missing.
    #[must_use]
    pub fn remove(self, table: Table, set: &Set, elements: &[Element]) -> Self {
        let kind = (DELETE_ELEMENTS, 0);
        self.elements("remove elements from", kind, (table, set), elements)
    }

    fn end(self) -> Vec<Request> {
        let end = Message::new(0x11, 0, &[0, 0, 0, SUBSYSTEM]);
        self.push("end batch for", "nf_tables", end).0
    }
}

impl Socket {
    /// Makes all changes of a batch, or none; the first failure is the answer.
    pub fn commit(&self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.transaction(&batch.end())
    }

    /// Names of the `inet` tables.
    pub fn tables(&self) -> Result<Vec<String>> {
        let request = Request::new("list", "tables", message(Family::Inet, GET_TABLE, 0));
        self.dump(&request, |_, body| Attributes::new(body.get(FIXED..)?).text(1))
    }

    /// The rules of a table, in their order within each chain; none where there is no table.
    pub fn rules(&self, family: Family, table: Table) -> Result<Vec<Rule>> {
        self.rules_in(family, table, None)
    }

    /// The rules of a chain, in their order; none where there is no such chain.
    pub fn rules_of(&self, family: Family, table: Table, chain: Chain) -> Result<Vec<Rule>> {
        self.rules_in(family, table, Some(chain))
    }

    fn rules_in(&self, family: Family, table: Table, chain: Option<Chain>) -> Result<Vec<Rule>> {
        let message = message(family, GET_RULE, 0).text(1, table.0);
        let message = match chain {
            Some(chain) => message.text(2, chain.name),
            None => message,
        };
        let rules = self.dump(&Request::new("list rules of", table.0, message), |_, body| {
            let attributes = Attributes::new(body.get(FIXED..)?);
            (attributes.text(1)? == table.0).then(|| Rule::parse(attributes))?
        })?;
        // Older kernels tell of every chain.
        let is_asked = |rule: &Rule| chain.is_none_or(|chain| rule.chain == chain.name);
        Ok(rules.into_iter().filter(is_asked).collect())
    }

    /// Whether a table has a chain.
    pub fn has_chain(&self, family: Family, table: Table, chain: Chain) -> Result<bool> {
        let message = message(family, GET_CHAIN, 0).text(1, table.0).text(3, chain.name);
        let request = Request::new("look up chain", format!("{} {}", table.0, chain.name), message);
        match self.ask(&request, |_| Some(())) {
            Err(error) if error.is_missing() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// The elements of a set; ENOENT if there is no such set.
    pub fn elements(&self, table: Table, set: &Set) -> Result<Vec<Element>> {
        self.elements_of(Family::Inet, table, set)
    }

    /// The elements of a set of a family's table; ENOENT if there is no such set.
    pub fn elements_of(&self, family: Family, table: Table, set: &Set) -> Result<Vec<Element>> {
        let message = message(family, GET_ELEMENTS, 0)
            .text(1, table.0)
            .text(2, set.name);
        let request = Request::new("list elements of", format!("{} {}", table.0, set.name), message);
        let found = self.dump(&request, |_, body| {
            Some(set::parse_elements(Attributes::new(body.get(FIXED..)?)))
        })?;
        Ok(found.into_iter().flatten().collect())
    }
}
