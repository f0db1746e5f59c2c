//! A program of the machine that knows nothing of this crate: it makes lock calls and takes no turns.

use std::io;
use std::path::Path;

use tokio::sync::oneshot;

use super::machine::{Machine, Target, Woken};
use crate::mode::Mode;
use crate::os::kernel::{Description, Slot};
use crate::os::{Protocol, Region, Tried};
use crate::shim::Arc;

/// An open lock file of such a program.
#[derive(Debug)]
pub(crate) struct Foreign {
    machine: Arc<Machine>,
    description: Description,
    slot: Slot,
}

impl Foreign {
    pub(crate) fn open(
        machine: &Arc<Machine>,
        name: &str,
        protocol: Protocol,
        path: &Path,
    ) -> Self {
        let inode = machine.find_or_create(path);
        let description = machine.open(inode, machine.start_program(name));
        let slot = Slot::of(protocol, Region::ONLY);
        Self { machine: machine.clone(), description, slot }
    }

    fn target(&self, mode: Mode) -> Target {
        Target { description: self.description, slot: self.slot, mode }
    }

    pub(crate) fn try_lock(&self, mode: Mode) -> io::Result<bool> {
        self.machine.step();
        let tried = self.machine.try_lock(self.target(mode));
        Machine::run(&self.machine);
        Ok(tried? == Tried::Acquired)
    }

    /// Begins to wait; `then` is called with what came of it.
    pub(super) fn park(&self, mode: Mode, then: impl FnOnce(Woken) + Send + 'static) -> u64 {
        let number = self.machine.new_number();
        self.machine.wait(number, self.target(mode), None, Box::new(then));
        Machine::run(&self.machine);
        number
    }

    pub(crate) async fn lock(&self, mode: Mode) -> io::Result<()> {
        self.machine.step();
        let (answer, answered) = oneshot::channel();
        let number = self.park(mode, move |woken| drop(answer.send(woken)));
        let mut waiting = Waiting { foreign: self, number, answered: Some(answered) };
        let answered = waiting.answered.as_mut().expect("taken when it is dropped");
        let woken = answered.await;
        waiting.answered = None;
        match woken {
            Ok(Woken::Acquired) => Ok(()),
            Ok(Woken::Failed(error)) => Err(error),
            Ok(Woken::Interrupted | Woken::TimedOut) | Err(_) => {
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    }

    pub(crate) fn unlock(&self) {
        self.machine.step();
        self.machine.unlock(self.target(Mode::Shared));
        Machine::run(&self.machine);
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.machine.step();
        Machine::close(&self.machine, self.description);
    }
}

/// A wait whose future may be dropped.
struct Waiting<'a> {
    foreign: &'a Foreign,
    number: u64,
    answered: Option<oneshot::Receiver<Woken>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mut answered) = self.answered.take() else { return };
        self.foreign.machine.step();
        answered.close();
        // It has the lock as soon as it does not sleep any more, also if that is still to be told.
        let is_over = !self.foreign.machine.interrupt(self.number);
        if is_over && matches!(answered.try_recv(), Ok(Woken::Acquired) | Err(_)) {
            self.foreign.machine.unlock(self.foreign.target(Mode::Shared));
        }
        Machine::run(&self.foreign.machine);
    }
}
