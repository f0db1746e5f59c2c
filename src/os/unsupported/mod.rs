//! Systems without file locks, or whose locks nobody here knows (wasm): opening a lock file says so, and
//! so nothing else is ever called.

#[path = "../no_foreign.rs"]
pub(in crate::os) mod descriptor;
#[path = "../no_directory.rs"]
pub(in crate::os) mod directory;
#[path = "../no_fork.rs"]
pub(crate) mod fork;
#[path = "../no_mount.rs"]
pub(in crate::os) mod mount;
#[path = "../no_same.rs"]
pub(in crate::os) mod same;

/// What tells files apart.
pub(in crate::os) type FileId = u64;

#[path = "../no_remove.rs"]
pub(in crate::os) mod remove;

pub(in crate::os) mod open {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use crate::error::{Error, ErrorKind, Operation};
    use crate::os::file_system::Keyed;
    use crate::os::names::{Names, Proof};
    use crate::os::{Access, Identity, Location, Opened};

    pub(in crate::os) fn open(path: &Location, _access: Access) -> Result<Opened, Error> {
        Err(unsupported(path))
    }

    pub(in crate::os) fn look(path: &Location) -> Result<Option<Names>, Error> {
        Err(unsupported(path))
    }

    pub(in crate::os) fn look_at_server(path: &Location) -> Result<Option<Names>, Error> {
        Err(unsupported(path))
    }

    pub(in crate::os) fn names(_file: &File, identity: Identity, _keyed: Keyed) -> Names {
        Names { identity, proof: Proof::Number }
    }

    pub(in crate::os) fn number_of(_file: &File) -> io::Result<Identity> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn is_linked(_file: &File) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in crate::os) fn open_error(path: &Path, _error: io::Error) -> Error {
        unsupported(path)
    }

    fn unsupported(path: &Path) -> Error {
        let detail = "there are no file locks on this operating system";
        Error::found(ErrorKind::Unsupported, Operation::Open, path, detail)
    }
}

pub(crate) mod shared_directory {
    use std::convert::Infallible;
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io;
    use std::iter;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::time::SystemTime;

    /// There is none.
    #[derive(Debug)]
    pub(crate) struct Directory(Infallible);

    /// Nothing is ever made.
    #[derive(Debug)]
    pub(crate) struct MadeFile(Infallible);

    impl MadeFile {
        pub(crate) fn keep(_file: &File) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn checked(&self) -> io::Result<&File> {
            match self.0 {}
        }
    }

    #[allow(dead_code)] // nothing is ever found
    pub(crate) enum Found {
        File(File, Status),
        Nothing,
        NotAFile,
    }

    #[derive(Debug, Clone, Copy)]
    pub(crate) enum Purpose {
        Read,
        Write,
    }

    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Status {
        pub(crate) is_file: bool,
        pub(crate) is_directory: bool,
        pub(crate) identity: (),
        pub(crate) links: u64,
        pub(crate) length: u64,
        pub(crate) modified: SystemTime,
        pub(crate) accessed: SystemTime,
    }

    impl Directory {
        pub(crate) fn open(_path: &Path) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn is_at(&self, _path: &Path) -> io::Result<bool> {
            match self.0 {}
        }

        pub(crate) fn is_led_to_by(&self, _path: &Path) -> io::Result<bool> {
            match self.0 {}
        }

        pub(crate) fn refresh(&self) {
            match self.0 {}
        }

        pub(crate) fn is_seen_late(&self) -> bool {
            match self.0 {}
        }

        pub(crate) fn mount(&self) -> Option<u64> {
            match self.0 {}
        }

        pub(crate) fn subdirectory(&self, _name: &str) -> io::Result<Self> {
            match self.0 {}
        }

        pub(crate) fn make_subdirectory(
            &self,
            _name: impl AsRef<OsStr>,
            _mode: Option<u32>,
            _other_name: &str,
        ) -> io::Result<()> {
            match self.0 {}
        }

        pub(crate) fn open_file(&self, _name: &str, _purpose: Purpose) -> io::Result<Found> {
            match self.0 {}
        }

        pub(crate) fn open_file_in(&self, _subdirectory: &str, _name: &str) -> io::Result<Found> {
            match self.0 {}
        }

        pub(crate) fn kept(&self) -> io::Result<Self> {
            match self.0 {}
        }

        pub(crate) fn check(&self) -> io::Result<()> {
            match self.0 {}
        }

        pub(crate) fn create_file(&self, _name: &str, _mode: Option<u32>) -> io::Result<File> {
            match self.0 {}
        }

        pub(crate) fn status(&self, _name: impl AsRef<OsStr>) -> io::Result<Option<Status>> {
            match self.0 {}
        }

        pub(crate) fn rename(
            &self,
            _name: &str,
            _to: &Self,
            _new_name: impl AsRef<OsStr>,
        ) -> io::Result<()> {
            match self.0 {}
        }

        pub(crate) fn remove_file(&self, _name: &str) -> io::Result<()> {
            match self.0 {}
        }

        pub(crate) fn remove_directory(&self, _name: &str) -> io::Result<()> {
            match self.0 {}
        }

        pub(crate) fn create_directory(
            &self,
            _name: &str,
            _for_us_alone: bool,
        ) -> io::Result<Self> {
            match self.0 {}
        }

        pub(crate) fn may_others_write(&self) -> bool {
            match self.0 {}
        }

        pub(crate) fn path_by_handle(&self) -> Option<PathBuf> {
            match self.0 {}
        }

        pub(crate) fn finish_tree(&self, _mode: Option<u32>, _sync: bool) -> io::Result<u64> {
            match self.0 {}
        }

        pub(crate) fn remove_tree(&self, _name: &str) -> io::Result<()> {
            match self.0 {}
        }

        pub(crate) fn names(&self) -> io::Result<iter::Empty<io::Result<String>>> {
            match self.0 {}
        }

        pub(crate) fn sync(&self) -> io::Result<()> {
            match self.0 {}
        }
    }

    impl Status {
        pub(crate) fn number(&self) -> u64 {
            0
        }

        pub(crate) fn of_file(_file: &File) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    pub(crate) fn sync_file(_file: &File) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn read_exact_at_start(_file: &File, _to: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn copy(
        _from: &File,
        _length: u64,
        _to: &MadeFile,
        _is_cancelled: &AtomicBool,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn copies_to_note(_file: &File) -> bool {
        false
    }
}

pub(in crate::os) mod content {
    use std::fs::File;
    use std::io;

    pub(in crate::os) fn read_at(_file: &File, _buffer: &mut [u8], _at: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in crate::os) fn write_all_at(_file: &File, _content: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in crate::os) fn has_other_names(_file: &File) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(in crate::os) mod holders {
    use std::fs::File;

    use crate::holder::{Circumstances, Holder, Process};
    use crate::os::{Effort, Identity, Protocol, Question};

    #[derive(Debug)]
    pub(in crate::os) struct Inode;

    impl Inode {
        pub(in crate::os) fn of(_file: &File, _identity: Identity) -> Self {
            Self
        }
    }

    pub(in crate::os) fn of(_: &Question<'_>, _inode: &Inode, _effort: Effort) -> Vec<Holder> {
        Vec::new()
    }

    pub(in crate::os) fn is_lock_waited_for(_: &Question<'_>, _inode: &Inode) -> bool {
        false
    }

    pub(in crate::os) fn blocker(_: &Question<'_>) -> Option<Holder> {
        None
    }

    pub(crate) fn describe_this_process(_holder: &mut Holder, _effort: Effort) {}

    pub(crate) fn tells_holders(_protocol: Protocol) -> bool {
        false
    }

    pub(crate) fn this_process() -> Process {
        Process {
            pid: 0,
            host: None,
            boot: None,
            pid_namespace: None,
            time_namespace: None,
            start: None,
            program: None,
        }
    }

    pub(crate) fn look_up(_pid: u32) -> Circumstances {
        Circumstances::Unknown
    }
}

pub(in crate::os) mod errors {
    use std::io;

    use crate::error::ErrorKind;
    use crate::os::file_system::FileSystem;

    pub(in crate::os) fn is_contention(_error: &io::Error, _file_system: FileSystem) -> bool {
        false
    }

    pub(in crate::os) fn is_busy_and_did_not_wait(_error: &io::Error) -> bool {
        false
    }

    pub(crate) fn is_gone(_error: &io::Error) -> bool {
        false
    }

    pub(crate) fn lock_error_kind(_error: &io::Error) -> ErrorKind {
        ErrorKind::Unsupported
    }
}

pub(in crate::os) mod file_system {
    use std::fs::File;
    use std::io;

    use crate::os::file_system::Kind;

    pub(in crate::os) fn of(_file: &File) -> io::Result<Kind> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(crate) mod interrupt {
    use std::time::Duration;

    use crate::os::Waited;

    #[derive(Debug, Default)]
    pub(crate) struct Interrupt(());

    impl Interrupt {
        pub(crate) fn request(&self) {}

        pub(crate) fn pause(&self, _time: Duration) -> Option<Waited> {
            None
        }
    }
}

pub(in crate::os) mod lock {
    use std::fs::File;
    use std::io;
    use std::time::Duration;

    use super::interrupt::Interrupt;
    use crate::mode::Mode;
    use crate::os::turnstile::Turnstile;
    use crate::os::{Protocol, Region, Waited};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::os) struct Lock;

    impl Lock {
        pub(in crate::os) fn of(_protocol: Protocol, _region: Region, _pid: u32) -> Self {
            Self
        }

        pub(in crate::os) fn mark_in_use(_file: &File) {}

        pub(in crate::os) fn closing_releases(_protocol: Protocol) -> bool {
            false
        }

        pub(in crate::os) fn turnstile(
            _protocol: Protocol,
            _region: Region,
            _number: u32,
        ) -> Option<Self> {
            None
        }

        pub(in crate::os) fn try_lock(self, _file: &File, _mode: Mode) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::os) fn wait(
            self,
            _file: &File,
            _mode: Mode,
            _end: &Interrupt,
        ) -> io::Result<Waited> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::os) fn wait_for(
            self,
            _file: &File,
            _mode: Mode,
            _end: &Interrupt,
            _limit: Duration,
        ) -> io::Result<Option<Waited>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::os) fn unlock(self, _file: &File) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::os) fn downgrade(self, _file: &File) -> bool {
            false
        }

        pub(in crate::os) fn look(self, _file: &File) -> Turnstile {
            Turnstile::Free
        }

        pub(in crate::os) fn is_free(self, _file: &File) -> io::Result<bool> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::os) fn look_with(
            self,
            _lock: Self,
            _file: &File,
            _mode: Mode,
        ) -> Option<Turnstile> {
            Some(Turnstile::Free)
        }

        pub(in crate::os) fn renumber(
            self,
            _to: Self,
            _file: &File,
            _mode: Mode,
        ) -> io::Result<()> {
            Ok(())
        }
    }
}
