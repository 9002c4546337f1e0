//! Which layer lies upon which, in memory: who may be removed, how deep chains are.

use std::collections::{BTreeMap, HashMap};

use plugin_api::Fault;
use plugin_api::graph::Usage;

use super::rows::{Number, Row};

/// The kernel stacks no more lower folders than this.
const DEEPEST: usize = 500;

/// What is being done to a layer, so that nothing else may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Filling,
    Leaving,
}

#[derive(Debug)]
struct Entry {
    row: Row,
    /// Layers upon it, those among them that are still being made.
    children: usize,
    task: Option<Task>,
}

/// Every layer. What takes long is announced here first and done without the lock.
#[derive(Debug)]
pub(super) struct Index {
    layers: HashMap<Number, Entry>,
}

/// Whether that many lower folders can be stacked.
pub(super) fn check_depth(lowers: usize) -> Result<(), Fault> {
    if lowers <= DEEPEST {
        return Ok(());
    }
    let message = format!("stack {lowers} layers: the kernel stacks {DEEPEST}; flatten the image");
    Err(Fault::unsupported(message))
}

fn missing(number: Number) -> Fault {
    Fault::not_found(format!("there is no layer {number} in the store"))
}

impl Index {
    pub(super) fn new(rows: BTreeMap<Number, Row>) -> Self {
        let mut children: HashMap<Number, usize> = HashMap::new();
        for row in rows.values() {
            if let Some(parent) = row.parent {
                *children.entry(parent).or_default() += 1;
            }
        }
        let entry = |(number, row)| {
            let children = children.get(&number).copied().unwrap_or_default();
            let task = None;
            (number, Entry { row, children, task })
        };
        Self {
            layers: rows.into_iter().map(entry).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Every layer, parents before their children.
    pub(super) fn numbers(&self) -> Vec<Number> {
        let depth = |number: &Number| self.below(Some(*number)).map_or(0, |below| below.len());
        let mut all: Vec<(usize, Number)> = self.layers.keys().map(|key| (depth(key), *key)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, number)| number).collect()
    }

    pub(super) fn row(&self, number: Number) -> Option<&Row> {
        self.layers.get(&number).map(|entry| &entry.row)
    }

    pub(super) fn find(&self, number: Number) -> Result<&Row, Fault> {
        self.row(number).ok_or_else(|| missing(number))
    }

    /// The layer `top` and those below it, top first.
    pub(super) fn below(&self, top: Option<Number>) -> Result<Vec<Number>, Fault> {
        let mut chain = Vec::new();
        let mut next = top;
        while let Some(number) = next {
            chain.push(number);
            if chain.len() > self.layers.len() {
                return Err(Fault::internal(format!("layer {number} lies upon itself")));
            }
            next = self.find(number)?.parent;
        }
        Ok(chain)
    }

    pub(super) fn child(&self, number: Number) -> Option<Number> {
        let mut all = self.layers.iter();
        all.find(|(_, entry)| entry.row.parent == Some(number))
            .map(|(child, _)| *child)
    }

    /// A layer is about to lie upon `parent`, which stays from now on.
    pub(super) fn lean_on(&mut self, parent: Option<Number>) -> Result<(), Fault> {
        let Some(parent) = parent else { return Ok(()) };
        let entry = self.layers.get_mut(&parent).ok_or_else(|| missing(parent))?;
        if entry.task.is_some() {
            return Err(Fault::in_use(format!(
                "stack a layer upon layer {parent}: it is being filled or removed"
            )));
        }
        entry.children += 1;
        Ok(())
    }

    /// A layer lies upon `parent` no more.
    pub(super) fn let_go(&mut self, parent: Option<Number>) {
        if let Some(entry) = parent.and_then(|parent| self.layers.get_mut(&parent)) {
            entry.children -= 1;
        }
    }

    /// Keeps a layer for one task; `InUse` while others lie upon it or another task has it.
    pub(super) fn begin(&mut self, number: Number, task: Task) -> Result<(), Fault> {
        let entry = self.layers.get_mut(&number).ok_or_else(|| missing(number))?;
        if entry.task.is_some() {
            return Err(Fault::in_use(format!(
                "layer {number} is being filled or removed"
            )));
        }
        if entry.children > 0 {
            return Err(Fault::in_use(format!("another layer lies upon layer {number}")));
        }
        entry.task = Some(task);
        Ok(())
    }

    pub(super) fn end(&mut self, number: Number) {
        if let Some(entry) = self.layers.get_mut(&number) {
            entry.task = None;
        }
    }

    /// Enters a layer whose parent knows of it already.
    pub(super) fn insert(&mut self, number: Number, row: Row) {
        let entry = Entry {
            row,
            children: 0,
            task: None,
        };
        self.layers.insert(number, entry);
    }

    pub(super) fn replace(&mut self, number: Number, row: Row) {
        if let Some(entry) = self.layers.get_mut(&number) {
            entry.row = row;
        }
    }

    pub(super) fn remember(&mut self, number: Number, usage: Usage) {
        if let Some(entry) = self.layers.get_mut(&number) {
            entry.row.usage = Some(usage);
        }
    }

    pub(super) fn remove(&mut self, number: Number) {
        if let Some(entry) = self.layers.remove(&number) {
            self.let_go(entry.row.parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::State;
    use super::*;
    use plugin_api::FaultKind;

    fn row(parent: Option<u64>) -> Row {
        Row {
            parent: parent.map(Number),
            writable: false,
            label: None,
            limit: None,
            state: State::Open,
            usage: None,
        }
    }

    fn index(rows: &[(u64, Option<u64>)]) -> Index {
        Index::new(
            rows.iter()
                .map(|(n, parent)| (Number(*n), row(*parent)))
                .collect(),
        )
    }

    #[test]
    fn a_layer_stays_while_another_lies_upon_it_or_is_being_made_there() {
        let mut all = index(&[(1, None), (2, Some(1))]);
        let refused = all.begin(Number(1), Task::Leaving).unwrap_err();
        assert_eq!(refused.kind, FaultKind::InUse);
        all.begin(Number(2), Task::Leaving).unwrap();
        let refused = all.lean_on(Some(Number(2))).unwrap_err();
        assert_eq!(refused.kind, FaultKind::InUse);
        all.remove(Number(2));
        all.lean_on(Some(Number(1))).unwrap();
        let refused = all.begin(Number(1), Task::Leaving).unwrap_err();
        assert_eq!(refused.kind, FaultKind::InUse);
        all.let_go(Some(Number(1)));
        all.begin(Number(1), Task::Leaving).unwrap();
        assert!(all.begin(Number(1), Task::Filling).is_err());
        all.end(Number(1));
        all.begin(Number(1), Task::Filling).unwrap();
        let refused = all.begin(Number(9), Task::Leaving).unwrap_err();
        assert_eq!(refused.kind, FaultKind::NotFound);
    }

    #[test]
    fn chains_are_read_top_first_and_a_ring_is_told() {
        let all = index(&[(1, None), (2, Some(1)), (7, Some(2)), (3, Some(7))]);
        assert_eq!(all.below(Some(Number(3))).unwrap(), [3, 7, 2, 1].map(Number));
        assert_eq!(all.below(None).unwrap(), []);
        assert_eq!(all.numbers(), [1, 2, 7, 3].map(Number));
        assert_eq!(all.child(Number(2)), Some(Number(7)));
        assert!(
            index(&[(1, Some(2)), (2, Some(1))])
                .below(Some(Number(1)))
                .is_err()
        );
        assert!(index(&[(1, Some(2))]).below(Some(Number(1))).is_err());
        check_depth(500).unwrap();
        assert_eq!(check_depth(501).unwrap_err().kind, FaultKind::Unsupported);
    }
}
