//! Where there is no `fork`, nothing is ever a parent's.

use std::fs::File;

/// There is one generation of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation;

impl Generation {
    pub(crate) fn current() -> Self {
        Self
    }

    pub(crate) fn is_past(self) -> bool {
        false
    }

    pub(crate) fn number(self) -> usize {
        0
    }
}

pub(crate) fn listen() {}

#[derive(Debug)]
pub(crate) struct Disowned;

pub(in crate::os) fn disown_in_children(_file: &File) -> Disowned {
    Disowned
}
