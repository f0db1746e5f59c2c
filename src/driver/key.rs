//! One of several locks at one path: its name, and how a handle gets to it.
//!
//! A key locks a region of its own in what a handle has open. It has no path to open: when what is there is replaced, it
//! goes where that handle goes, so the path is opened anew once, however many keys follow. It registers when it is used
//! first: many a key is made to be asked for nothing.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use super::Registration;
use super::handle::{Handle, Origin, Permit};
use crate::engine::{Kept, Protocol, Region, Sameness};
use crate::error::{Error, Operation};
use crate::holder::{Label, Shown};
use crate::shim::Arc;

/// A longer name is cut in messages, after so many characters.
const LONGEST_NAME: usize = 80;

#[derive(Debug, Clone)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    pub(crate) fn new(name: &[u8]) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.0
    }

    /// The name for people.
    pub(crate) fn text(&self) -> String {
        let name = String::from_utf8_lossy(&self.0);
        let mut characters = name.chars();
        let mut text: String = characters.by_ref().take(LONGEST_NAME).collect();
        if characters.next().is_some() {
            text.push('…');
        }
        Shown(text.as_bytes()).to_string()
    }
}

/// How a handle of a key gets to its lock.
#[derive(Debug)]
pub(super) struct KeyOrigin {
    pub(super) key: Key,
    pub(super) region: Region,
    /// In place of that of the other handle.
    pub(super) label: Option<Label>,
    /// The handle of what the key is in.
    pub(super) of: Arc<Handle>,
}

impl Origin for KeyOrigin {
    fn path(&self) -> &Path {
        self.of.origin().path()
    }

    fn shared_path(&self) -> std::sync::Arc<Path> {
        self.of.origin().shared_path()
    }

    fn protocol(&self) -> Protocol {
        self.of.origin().protocol()
    }

    fn key(&self) -> Option<&Key> {
        Some(&self.key)
    }

    fn always_confirms(&self) -> bool {
        self.of.origin().always_confirms()
    }

    fn has_to_confirm(&self, held: &Registration) -> bool {
        self.of.origin().has_to_confirm(held)
    }

    fn confirm(&self, held: &Registration) -> Result<bool, Error> {
        self.of.origin().confirm(held)
    }

    fn register(&self) -> Arc<Registration> {
        self.join_region(&self.of.registration(), self.region, self.label.as_ref())
    }

    fn find_again(
        &self,
        from: &Registration,
        operation: Operation,
        patient: bool,
    ) -> Result<Arc<Registration>, Error> {
        let current = self.of.registration();
        if self.is_same_file(&current, from) {
            self.of.move_on(&current, operation, patient)?;
        }
        Ok(self.register())
    }

    fn join_region(
        &self,
        at: &Registration,
        region: Region,
        label: Option<&Label>,
    ) -> Arc<Registration> {
        self.of.origin().join_region(at, region, label)
    }

    fn is_same_file(&self, one: &Registration, other: &Registration) -> bool {
        self.of.origin().is_same_file(one, other)
    }

    fn permit<'a>(
        &'a self,
        of: &'a Registration,
        is_needed: &'a (dyn Fn() -> bool + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Option<Permit>> + Send + Sync + 'a>> {
        self.of.origin().permit(of, is_needed)
    }

    fn is_same_lock(&self, one: &Registration, other: &Registration) -> Sameness {
        self.of.origin().is_same_lock(one, other)
    }

    fn labelled(&self, label: Label) -> Box<dyn Origin> {
        Box::new(Self {
            key: self.key.clone(),
            region: self.region,
            label: Some(label),
            of: self.of.clone(),
        })
    }

    fn remove(&self, held: &Registration) -> Result<Option<Kept>, Error> {
        self.of.origin().remove(held)
    }
}
