//! What the requests and holders of an entry say that they do.
//!
//! A table beside the queue: most requests say nothing, and pay for nothing of it.

use std::collections::HashMap;

use crate::holder::Label;
use crate::queue::Place;

#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Of requests with a place in the queue: in line, or granted and not polled since.
    placed: HashMap<Place, Label>,
    /// Of holders; as often as there are holders that say so.
    holding: Vec<Label>,
}

impl Labels {
    /// A request has got this place.
    pub(super) fn place(&mut self, at: Place, label: Label) {
        self.placed.insert(at, label);
    }

    /// A request has given its place up, or has been told what became of it.
    pub(super) fn leave(&mut self, at: Place) {
        self.placed.remove(&at);
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

    /// What the request at this place says.
    pub(super) fn at(&self, place: Place) -> Option<&Label> {
        self.placed.get(&place)
    }

    /// What those say that hold the lock, among the placed those who do.
    pub(super) fn of_holders(&self, holds: impl Fn(Place) -> bool) -> Vec<Label> {
        let placed = self.placed.iter().filter(|&(&place, _)| holds(place)).map(|(_, label)| label);
        self.holding.iter().chain(placed).cloned().collect()
    }
}
