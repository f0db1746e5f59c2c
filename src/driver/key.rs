//! The name of one of several locks at one path.

use crate::holder::Shown;

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
