//! What other systems have and Windows has not, or does not need.

/// Nothing tells of a mount whom its locks exclude.
pub(in crate::os) mod mount {
    use std::fs::File;

    use crate::os::Protocol;

    #[derive(Debug)]
    pub(in crate::os) struct Reach;

    impl Reach {
        pub(in crate::os) fn of(_file: &File) -> Self {
            Self
        }

        /// It may.
        pub(in crate::os) fn keeps_locks_given_up(&self) -> bool {
            true
        }

        pub(in crate::os) fn excludes_this_machine_only(
            &self,
            _protocol: Protocol,
        ) -> Option<&'static str> {
            None
        }
    }
}

/// Removing lock files is not tried, and so not offered.
pub(in crate::os) mod remove {
    use std::ffi::OsStr;
    use std::io;
    use std::path::Path;
    use std::time::Duration;

    use crate::os::{Descriptor, Kept, Location, Protocol};

    pub(in crate::os) fn remove(
        _location: &Location,
        _file: &Descriptor,
        _protocol: Protocol,
    ) -> io::Result<Option<Kept>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn remove_unused(
        _directory: &Path,
        _is_chosen: impl Fn(&OsStr) -> bool,
        _unchanged_for: Duration,
        _tell: impl FnMut(&OsStr, Option<Kept>),
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The numbers of a file are proof which one it is, so nothing has to be asked.
pub(in crate::os) mod same {
    use std::fs::File;

    use crate::os::names::Recognized;

    pub(in crate::os) const CAN_ASK: bool = false;

    pub(in crate::os) fn ask(_new: &File, _known: &[&File]) -> Recognized {
        Recognized::Doubt
    }
}
