//! What the requests and holders of a lock say that they do.
//!
//! A table beside the queue: most requests say nothing, and pay for nothing of it.

use std::collections::HashMap;

use crate::holder::Label;
use crate::queue::Index;

#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Of requests with a slot in the queue: in line, or granted and not polled since.
    waiting: HashMap<Index, Label>,
    /// Of holders; as often as there are holders that say so.
    holding: Vec<Label>,
}

impl Labels {
    /// A request has got this slot.
    pub(super) fn insert(&mut self, at: Index, label: Label) {
        self.waiting.insert(at, label);
    }

    /// A request has given its slot up, or has been told what became of it.
    pub(super) fn leave(&mut self, at: Index) {
        self.waiting.remove(&at);
    }

    /// A request has become a holder.
    pub(super) fn hold(&mut self, label: Label) {
        self.holding.push(label);
    }

    /// A holder is about to let go.
    pub(super) fn release(&mut self, label: &Label) {
        if let Some(at) = self.holding.iter().position(|held| held == label) {
            self.holding.swap_remove(at);
        }
    }

    /// What the request in this slot says.
    pub(super) fn at(&self, slot: Index) -> Option<&Label> {
        self.waiting.get(&slot)
    }

    /// The labels of the holders. Of the requests with a slot, `holds` tells which hold the lock.
    pub(super) fn of_holders(&self, holds: impl Fn(Index) -> bool) -> Vec<Label> {
        let granted = self.waiting.iter().filter(|&(&slot, _)| holds(slot)).map(|(_, label)| label);
        self.holding.iter().chain(granted).cloned().collect()
    }
}
