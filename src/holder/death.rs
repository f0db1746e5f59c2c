//! What proves that a recorded holder is dead.
//!
//! A pid alone proves nothing: pids are used again, mean something else in each pid namespace, and
//! start anew at each boot. The proof needs the same host, the same boot and the same pid namespace, and
//! then a pid that no process has, or that one has which started at another time by the same clock.
//! Whatever is missing or does not fit counts as alive: the answer words messages, it never takes a
//! lock away.
//!
//! The number of a namespace is used again, but not before all of its processes are gone: a process that is
//! taken for one of the new namespace is dead.

use super::{Process, Record};

/// What became of a recorded holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Dead,
    /// Or not known to be dead.
    Alive,
}

/// What can be seen from here of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Circumstances {
    /// No process has this pid.
    Gone,
    /// Some process has it, and started then, by the clock of the process that looks.
    Started(u64),
    /// It can not be told.
    Unknown,
}

/// The fate of the process that wrote the record, seen from the process `here`, which looks up a pid.
pub(crate) fn fate(
    record: &Record,
    here: &Process,
    look_up: impl FnOnce(u32) -> Circumstances,
) -> Fate {
    let there = &record.process;
    let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
    // The kernel tells the start of a process in the time of the process that asks.
    let same_clock = there.time_namespace.is_some() && there.time_namespace == here.time_namespace;
    let is_visible = same(&there.host, &here.host)
        && same(&there.boot, &here.boot)
        && there.pid_namespace.is_some()
        && there.pid_namespace == here.pid_namespace;
    if !is_visible {
        return Fate::Alive;
    }
    match (look_up(there.pid), there.start) {
        (Circumstances::Gone, _) => Fate::Dead,
        (Circumstances::Started(now), Some(then)) if now != then && same_clock => Fate::Dead,
        _ => Fate::Alive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Circumstances::{Gone, Started, Unknown};

    fn process(pid: u32) -> Process {
        Process {
            pid,
            host: Some("here".to_owned()),
            boot: Some("first".to_owned()),
            pid_namespace: Some(1),
            time_namespace: Some(3),
            start: Some(77),
            program: None,
        }
    }

    #[test]
    fn only_a_proof_makes_dead() {
        type Change = fn(&mut Process);
        let same: Change = |_| {};
        let table: [(Change, Circumstances, Fate); 15] = [
            (same, Gone, Fate::Dead),
            (same, Started(78), Fate::Dead),
            (same, Started(77), Fate::Alive),
            (same, Unknown, Fate::Alive),
            (|there| there.start = None, Started(78), Fate::Alive),
            (|there| there.start = None, Gone, Fate::Dead),
            (|there| there.time_namespace = Some(4), Started(78), Fate::Alive),
            (|there| there.time_namespace = None, Started(78), Fate::Alive),
            (|there| there.time_namespace = None, Gone, Fate::Dead),
            (|there| there.host = Some("elsewhere".to_owned()), Gone, Fate::Alive),
            (|there| there.host = None, Gone, Fate::Alive),
            (|there| there.boot = Some("second".to_owned()), Gone, Fate::Alive),
            (|there| there.boot = None, Gone, Fate::Alive),
            (|there| there.pid_namespace = Some(2), Gone, Fate::Alive),
            (|there| there.pid_namespace = None, Gone, Fate::Alive),
        ];
        for (change, seen, expected) in table {
            let mut there = process(5);
            change(&mut there);
            let record = Record::held(there.clone(), 1, None, None);
            let found = fate(&record, &process(6), |pid| {
                assert_eq!(pid, 5);
                seen
            });
            assert_eq!(found, expected, "{there:?}, {seen:?}");
        }
    }

    #[test]
    fn a_process_that_knows_nothing_of_itself_proves_nothing() {
        let unknown = Process { time_namespace: None, ..process(6) };
        let record = Record::held(Process { time_namespace: None, ..process(5) }, 1, None, None);
        assert_eq!(fate(&record, &unknown, |_| Started(78)), Fate::Alive);
        let unknown = Process { host: None, boot: None, pid_namespace: None, ..process(6) };
        let there = Process { host: None, boot: None, pid_namespace: None, ..process(5) };
        let record = Record::held(there, 1, None, None);
        assert_eq!(fate(&record, &unknown, |_| Gone), Fate::Alive);
    }
}
