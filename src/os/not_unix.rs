//! What only Unix has, on other systems.

/// Without `fork` nothing is ever a parent's.
pub(crate) mod fork {
    /// There is one generation of processes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Generation;

    impl Generation {
        pub(crate) fn current() -> Self {
            Self
        }

        pub(crate) fn is_inherited(self) -> bool {
            false
        }

        pub(crate) fn number(self) -> usize {
            0
        }
    }

    pub(crate) fn listen() {}
}

/// The current directory always has a path, so none is held open.
pub(super) mod directory {
    use std::io;

    pub(in crate::os) enum Directory {}

    impl Directory {
        pub(in crate::os) fn current() -> io::Result<Option<Self>> {
            Ok(None)
        }
    }
}
