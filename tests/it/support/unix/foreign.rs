//! Programs that know nothing of this crate and take the same locks: flock(1), Python's `fcntl`.

use std::path::Path;
use std::process::Command;

use tokio_filelock::Protocol;

use crate::support::Mode;
use crate::support::process::Process;

/// A foreign way to lock a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// flock(1) of util-linux.
    Flock1,
    /// `fcntl.flock` of Python.
    PythonFlock,
    /// `fcntl.lockf` of Python: a POSIX record lock.
    PythonLockf,
}

pub(crate) const PROGRAMS: [Program; 3] =
    [Program::Flock1, Program::PythonFlock, Program::PythonLockf];

/// Takes the function, the path and the flags; holds until the end of its stdin.
const PYTHON: &str = "
import fcntl, sys
lock, path, flags = getattr(fcntl, sys.argv[1]), sys.argv[2], int(sys.argv[3])
file = open(path, 'r+')
try:
    lock(file, flags | fcntl.LOCK_NB)
except (BlockingIOError, PermissionError): # CIFS says EACCES
    if sys.argv[4] == 'try':
        print('event: would block', flush=True)
        sys.exit()
    print('event: waiting', flush=True)
    lock(file, flags)
print('event: held', flush=True)
sys.stdin.read()
";

/// Takes the flag of the mode, the path, and whether to wait.
const SHELL: &str = r#"
hold='echo "event: held"; exec cat'
exec 3>&1
said=$(LC_ALL=C flock --nonblock --conflict-exit-code 75 $1 "$2" sh -c "$hold" 2>&1 >&3)
status=$?
case "$said" in *"Permission denied"*) status=75; esac # CIFS says EACCES
[ $status = 75 ] || { echo "$said" >&2; exit $status; }
[ "$3" = try ] && { echo "event: would block"; exit; }
echo "event: waiting"
exec flock $1 "$2" sh -c "$hold"
"#;

impl Program {
    /// The protocol that this program speaks.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Program::Flock1 | Program::PythonFlock => Protocol::Flock,
            Program::PythonLockf => Protocol::Fcntl,
        }
    }

    /// Holds the lock until the process finishes.
    #[track_caller]
    pub(crate) fn hold(self, path: &Path, mode: Mode) -> Process {
        let process = self.run(path, mode, "try");
        process.expect("held");
        process
    }

    /// Waits in the kernel for a lock that is held; says `held` in the end.
    #[track_caller]
    pub(crate) fn start_to_wait(self, path: &Path, mode: Mode) -> Process {
        let process = self.run(path, mode, "wait");
        process.expect("waiting");
        process
    }

    /// Whether the program gets the lock without waiting.
    #[track_caller]
    pub(crate) fn gets(self, path: &Path, mode: Mode) -> bool {
        let process = self.run(path, mode, "try");
        let event = process.event();
        process.finish();
        match event.as_str() {
            "held" => true,
            "would block" => false,
            _ => panic!("{self:?}: {event}"),
        }
    }

    fn run(self, path: &Path, mode: Mode, patience: &str) -> Process {
        let mut command;
        match self {
            Program::Flock1 => {
                command = Command::new("sh");
                command.args(["-c", SHELL, "sh", &format!("--{mode}")]).arg(path).arg(patience);
            }
            Program::PythonFlock | Program::PythonLockf => {
                let function = if self == Program::PythonFlock { "flock" } else { "lockf" };
                let flags = match mode {
                    Mode::Exclusive => "2", // LOCK_EX
                    Mode::Shared => "1",    // LOCK_SH
                };
                command = Command::new("python3");
                command.args(["-c", PYTHON, function]).arg(path).args([flags, patience]);
            }
        }
        Process::start(&format!("{self:?}"), command)
    }
}
