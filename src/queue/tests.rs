//! The queue as tables. A line is an event, and the answer and effects that it must have.
//!
//! Requests are known by name, and so are their wakers: `Lock("a")` lines up and registers the
//! waker "a". An OS answer belongs to the attempt that was asked for last. `Release` polls the
//! request first, if that has not been done, and insists on a grant.

use std::collections::HashMap;

use super::Mode::{Exclusive, Shared};
use super::*;
use Event::*;

type Name = &'static str;

#[derive(Debug, Clone, Copy)]
enum Event {
    Lock(Name),
    LockShared(Name),
    /// As `Lock` and `LockShared`, of one that comes from another line with this rank.
    Again(Name, u32),
    SharedAgain(Name, u32),
    TryLock(Name),
    TryLockShared(Name),
    Poll(Name),
    /// Registers another waker for a request.
    Register(Name, Name),
    Cancel(Name),
    Release(Name),
    /// The mode is the one that the OS lock has afterwards.
    Downgrade(Name, Mode),
    EndTenure(End),
    /// The process is killed: a simulated one.
    Kill,
    Acquired,
    Busy,
    Failed(Name),
    Interrupted,
    NotBackedOff,
    Gone,
    Released,
}

type Line = (Event, &'static str);

const UNBOUNDED: u32 = u32::MAX;

/// Ranks in the order in which they are asked for.
fn new_rank() -> Rank {
    use std::sync::atomic::{AtomicU32, Ordering};

    static NEXT: AtomicU32 = AtomicU32::new(1);
    Rank(NEXT.fetch_add(1, Ordering::Relaxed).try_into().expect("not zero"))
}

/// Plays a table on a new queue, and returns the queue as it is at the end.
#[track_caller]
fn play(max_handovers: u32, table: &[Line]) -> Queue<Name, Name> {
    let mut player =
        Player { queue: Queue::new(new_rank), requests: HashMap::new(), attempt: None };
    player.queue.limit_handovers(max_handovers);
    for (number, (event, expected)) in (1..).zip(table) {
        let found = player.play(*event).join(", ");
        assert_eq!(found, *expected, "line {number}: {event:?}");
    }
    player.queue
}

struct Player {
    queue: Queue<Name, Name>,
    /// The ticket, or `None` once the request is granted or polled to its end.
    requests: HashMap<Name, Option<Ticket>>,
    /// The call that is under way.
    attempt: Option<Attempt>,
}

impl Player {
    fn play(&mut self, event: Event) -> Vec<String> {
        let mut effects = Effects::default();
        match event {
            Lock(name) => return self.request(name, Exclusive, Patience::Wait),
            LockShared(name) => return self.request(name, Shared, Patience::Wait),
            Again(name, rank) => return self.request_again(name, Exclusive, rank),
            SharedAgain(name, rank) => return self.request_again(name, Shared, rank),
            TryLock(name) => return self.request(name, Exclusive, Patience::Try),
            TryLockShared(name) => return self.request(name, Shared, Patience::Try),
            Poll(name) => return vec![self.poll(name)],
            Register(name, waker) => {
                let ticket = self.requests[name].as_ref().expect("not polled to its end");
                effects.discard = self.queue.register(ticket, waker);
            }
            Cancel(name) => {
                let ticket = self.requests.remove(name).flatten();
                self.queue.cancel(ticket.expect("not polled to its end"), &mut effects);
            }
            Release(name) => {
                if self.requests[name].is_some() {
                    assert_eq!(self.poll(name), "granted", "{name}");
                }
                self.requests.remove(name);
                self.queue.release(&mut effects);
            }
            Downgrade(name, os) => {
                assert_eq!(self.requests[name], None, "{name} is polled to its end");
                self.queue.downgrade(os, &mut effects);
            }
            EndTenure(end) => self.queue.end_tenure(end),
            Kill => self.queue.end(),
            Acquired => self.answer(Answer::Acquired, &mut effects),
            Busy => self.answer(Answer::Busy, &mut effects),
            Failed(error) => self.answer(Answer::Failed(error), &mut effects),
            Interrupted => self.answer(Answer::Interrupted, &mut effects),
            NotBackedOff => self.answer(Answer::NotBackedOff, &mut effects),
            Gone => self.answer(Answer::Gone, &mut effects),
            Released => self.answer(Answer::Released(Ok(())), &mut effects),
        }
        self.describe(effects)
    }

    fn answer(&mut self, answer: Answer<Name>, effects: &mut Effects<Name>) {
        let attempt = self.attempt.take().expect("a call is under way");
        self.queue.answer(attempt, answer, effects);
    }

    fn request(&mut self, name: Name, mode: Mode, patience: Patience) -> Vec<String> {
        let mut effects = Effects::default();
        let answer = self.queue.request(mode, patience, None, &mut effects);
        self.requested(name, answer, effects)
    }

    fn request_again(&mut self, name: Name, mode: Mode, rank: u32) -> Vec<String> {
        let mut effects = Effects::default();
        let rank = Rank(rank.try_into().expect("not zero"));
        let answer = self.queue.request(mode, Patience::Wait, Some(rank), &mut effects);
        self.requested(name, answer, effects)
    }

    fn requested(
        &mut self,
        name: Name,
        answer: Requested<Name>,
        effects: Effects<Name>,
    ) -> Vec<String> {
        let mut described = vec![match answer {
            Requested::Now(outcome) => {
                if let Outcome::Granted(()) = outcome {
                    self.requests.insert(name, None);
                }
                describe(outcome)
            }
            Requested::Queued(ticket) => {
                assert_eq!(self.queue.register(&ticket, name), None);
                assert_eq!(self.queue.waker(&ticket), Some(&name));
                self.requests.insert(name, Some(ticket));
                "queued".into()
            }
        }];
        described.extend(self.describe(effects));
        described
    }

    fn poll(&mut self, name: Name) -> String {
        let ticket = self.requests.get_mut(name).expect("requested before");
        self.queue.poll(ticket).map_or("waits".into(), describe)
    }

    fn describe(&mut self, effects: Effects<Name>) -> Vec<String> {
        let call = effects.ask.map(|ask| match ask {
            Ask::Interrupt(of) => {
                let attempt = self.attempt.as_ref().map(Attempt::id);
                assert_eq!(attempt, Some(of), "an interrupt means the present wait");
                "interrupt".into()
            }
            Ask::Call(call, attempt) => {
                let before = self.attempt.replace(attempt);
                assert_eq!(before, None, "{call:?} while another call is under way");
                match call {
                    Call::Try(mode) => format!("try {}", lower(mode)),
                    Call::Wait(mode) => format!("wait {}", lower(mode)),
                    Call::BackOff(mode) => format!("back off, wait {}", lower(mode)),
                    Call::Unlock => "unlock".into(),
                }
            }
        });
        let woken = effects.wake.into_iter().chain(effects.wake_more);
        let woken = woken.map(|waker| format!("wake {waker}"));
        let discarded = effects.discard.map(|waker| format!("drop {waker}"));
        call.into_iter().chain(woken).chain(discarded).collect()
    }
}

fn describe(outcome: Outcome<Name>) -> String {
    match outcome {
        Outcome::Granted(()) => "granted".into(),
        Outcome::Refused => "refused".into(),
        Outcome::Busy => "busy".into(),
        Outcome::Moved(_) => "moved".into(),
        Outcome::Failed(error) => format!("failed: {error}"),
    }
}

fn lower(mode: Mode) -> &'static str {
    match mode {
        Shared => "shared",
        Exclusive => "exclusive",
    }
}

// ---- the end of a process ----

/// Holders let go and waiters give up, and nothing comes of it.
#[test]
fn nothing_is_granted_or_asked_for_after_a_kill() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Poll("a"), "granted"),
            (Lock("b"), "queued"),
            (Lock("c"), "queued"),
            (Kill, ""),
            (TryLock("d"), "refused"),
            (Lock("e"), "queued"),
            (Lock("f"), "queued"),
            (Cancel("b"), "drop b"),
            (Release("a"), ""),
            (Poll("c"), "waits"),
            (Cancel("e"), "drop e"),
            (Poll("f"), "waits"),
            (Cancel("c"), "drop c"),
            (Cancel("f"), "drop f"),
        ],
    );
}

#[test]
fn a_grant_that_was_not_seen_is_taken_back_by_a_kill() {
    play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (LockShared("b"), "queued"),
            (Acquired, "wake a, wake b"),
            (Poll("a"), "granted"),
            (Kill, ""),
            (Poll("b"), "waits"),
            (LockShared("c"), "queued"),
            (TryLockShared("d"), "refused"),
            (Register("b", "again"), ""),
            (Cancel("b"), "drop again"),
            (Poll("c"), "waits"),
        ],
    );
}

/// The call may be answered when the process is dead already.
#[test]
fn an_answer_after_a_kill_does_not_count() {
    for answer in [Acquired, Busy, Failed("x"), Gone] {
        play(
            UNBOUNDED,
            &[
                (Lock("a"), "queued, try exclusive"),
                (Kill, ""),
                (answer, ""),
                (Poll("a"), "waits"),
                (Lock("b"), "queued"),
                (Cancel("a"), "drop a"),
            ],
        );
    }
}

// ---- tenures and their order ----

#[test]
fn an_uncontended_lock_is_one_try_and_one_unlock() {
    for (lock, asked) in
        [(Lock("a"), "queued, try exclusive"), (LockShared("a"), "queued, try shared")]
    {
        let queue = play(
            UNBOUNDED,
            &[
                (lock, asked),
                (Poll("a"), "waits"),
                (Acquired, "wake a"),
                (Poll("a"), "granted"),
                (Release("a"), "unlock"),
                (Released, ""),
                // And once more.
                (lock, asked),
                (Acquired, "wake a"),
                (Release("a"), "unlock"),
                (Released, ""),
            ],
        );
        assert_eq!(queue.counts(), Counts { granted: 2, tenures: 2, handovers: 0 });
        assert!(!queue.is_contended());
    }
}

#[test]
fn first_in_first_out() {
    let queue = play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Lock("b"), "queued"),
            (Acquired, "wake a"),
            (Lock("c"), "queued"),
            (LockShared("d"), "queued"),
            (Release("a"), "wake b"),
            (Lock("e"), "queued"),
            (Poll("c"), "waits"),
            (Release("b"), "wake c"),
            (Release("c"), "wake d"),
            (Poll("e"), "waits"),
            (Release("d"), "wake e"),
            (Release("e"), "unlock"),
        ],
    );
    assert_eq!(queue.counts(), Counts { granted: 5, tenures: 1, handovers: 4 });
}

#[test]
fn adjacent_shared_requests_enter_together_as_one_handover() {
    let queue = play(
        1,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (LockShared("b"), "queued"),
            (LockShared("c"), "queued"),
            (Lock("d"), "queued"),
            (LockShared("e"), "queued"),
            (Release("a"), "wake b, wake c"),
            (Release("c"), ""),
            (Release("b"), "unlock"),
            (Released, "try exclusive"),
            (Acquired, "wake d"),
            (Release("d"), "wake e"),
        ],
    );
    assert_eq!(queue.counts(), Counts { granted: 5, tenures: 2, handovers: 2 });
}

#[test]
fn shared_requests_enter_together_when_the_os_lock_arrives() {
    let queue = play(
        0,
        &[
            (LockShared("a"), "queued, try shared"),
            (LockShared("b"), "queued"),
            (Lock("c"), "queued"),
            (Acquired, "wake a, wake b"),
            (Poll("c"), "waits"),
        ],
    );
    assert_eq!(queue.counts(), Counts { granted: 2, tenures: 1, handovers: 0 });
}

#[test]
fn a_shared_request_joins_shared_holders() {
    let queue = play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (Acquired, "wake a"),
            (LockShared("b"), "granted"),
            (Release("a"), ""),
            (LockShared("c"), "granted"),
            (Release("b"), ""),
            (Release("c"), "unlock"),
        ],
    );
    assert_eq!(queue.counts(), Counts { granted: 3, tenures: 1, handovers: 0 });
}

#[test]
fn a_shared_request_does_not_overtake_a_waiting_exclusive_one() {
    let queue = play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (LockShared("c"), "queued"),
            (TryLockShared("d"), "refused"),
            (Release("a"), "unlock"),
            (Released, "try exclusive"),
            (Acquired, "wake b"),
            (Release("b"), "wake c"),
        ],
    );
    assert!(!queue.is_contended());
}

#[test]
fn a_request_is_not_granted_between_the_unlock_and_its_answer() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Release("a"), "unlock"),
            (Lock("b"), "queued"),
            (Cancel("b"), "drop b"),
            (LockShared("c"), "queued"),
            (Released, "try shared"),
        ],
    );
}

// ---- the bound of a tenure ----

#[test]
fn a_tenure_ends_after_its_handovers_and_the_next_in_line_asks_anew() {
    let queue = play(
        2,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (Lock("c"), "queued"),
            (Lock("d"), "queued"),
            (Release("a"), "wake b"),
            (Release("b"), "wake c"),
            (Release("c"), "unlock"),
            (Poll("d"), "waits"),
            (Released, "try exclusive"),
            (Acquired, "wake d"),
            // The new tenure has handovers of its own.
            (Lock("e"), "queued"),
            (Release("d"), "wake e"),
        ],
    );
    assert_eq!(queue.counts(), Counts { granted: 5, tenures: 2, handovers: 3 });
}

#[test]
fn without_handovers_every_holder_has_a_tenure_of_its_own() {
    play(
        0,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Lock("b"), "queued"),
            (Acquired, "wake a"),
            (Release("a"), "unlock"),
            (Released, "try exclusive"),
            (Acquired, "wake b"),
            (Release("b"), "unlock"),
        ],
    );
}

#[test]
fn shared_requests_join_for_as_long_as_nobody_is_seen_to_wait() {
    let queue = play(
        0,
        &[
            (LockShared("a"), "queued, try shared"),
            (Acquired, "wake a"),
            // The tenure has no handovers left, and its time is up: that keeps no reader out.
            (LockShared("b"), "granted"),
            (EndTenure(End::Unseen), ""),
            (TryLockShared("c"), "granted"),
            // Another process is seen.
            (EndTenure(End::Seen), ""),
            (LockShared("d"), "queued"),
            (TryLockShared("e"), "refused"),
            (Release("a"), ""),
            (Release("b"), ""),
            (Release("c"), "unlock"),
            (Released, "try shared"),
            (Acquired, "wake d"),
        ],
    );
    assert_eq!(queue.counts(), Counts { granted: 4, tenures: 2, handovers: 0 });
}

#[test]
fn an_ended_tenure_lasts_as_long_as_its_holders() {
    play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (Acquired, "wake a"),
            (LockShared("b"), "granted"),
            (EndTenure(End::Seen), ""),
            (LockShared("c"), "queued"),
            (Release("a"), ""),
            (Release("b"), "unlock"),
            (Released, "try shared"),
            (Acquired, "wake c"),
            // The end was that tenure's, not this one's.
            (LockShared("d"), "granted"),
        ],
    );
}

#[test]
fn there_is_nothing_to_end_outside_a_tenure() {
    play(
        UNBOUNDED,
        &[
            (EndTenure(End::Seen), ""),
            (Lock("a"), "queued, try exclusive"),
            (EndTenure(End::Seen), ""),
            (Busy, "wait exclusive"),
            (EndTenure(End::Seen), ""),
            (Lock("b"), "queued"),
            (Acquired, "wake a"),
            (Release("a"), "wake b"),
            (Release("b"), "unlock"),
            (EndTenure(End::Seen), ""),
            (Lock("c"), "queued"),
            (Lock("d"), "queued"),
            (Released, "try exclusive"),
            (Acquired, "wake c"),
            (Release("c"), "wake d"),
        ],
    );
}

// ---- the OS is busy ----

#[test]
fn a_busy_try_becomes_one_wait() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Busy, "wait exclusive"),
            (Lock("b"), "queued"),
            (LockShared("c"), "queued"),
            (Acquired, "wake a"),
            (Release("a"), "wake b"),
        ],
    );
}

#[test]
fn a_try_that_is_busy_for_one_who_left_is_made_for_the_next() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (LockShared("b"), "queued"),
            (Cancel("a"), "drop a"),
            (Busy, "try shared"),
            (Busy, "wait shared"),
            (Acquired, "wake b"),
        ],
    );
    // An answer in the mode of the next one is good enough.
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Lock("b"), "queued"),
            (Cancel("a"), "drop a"),
            (Busy, "wait exclusive"),
        ],
    );
}

#[test]
fn a_busy_try_that_nobody_wants_is_forgotten() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Cancel("a"), "drop a"),
            (Busy, ""),
            (Lock("b"), "queued, try exclusive"),
        ],
    );
}

// ---- requests that do not wait ----

#[test]
fn a_try_is_granted_where_nothing_is_in_its_way() {
    play(
        UNBOUNDED,
        &[
            (TryLock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Release("a"), "unlock"),
            (Released, ""),
            (TryLockShared("b"), "queued, try shared"),
            (Acquired, "wake b"),
            (TryLockShared("c"), "granted"),
        ],
    );
}

#[test]
fn a_try_is_refused_when_the_os_is_busy() {
    play(
        UNBOUNDED,
        &[
            (TryLock("a"), "queued, try exclusive"),
            (Busy, "wake a"),
            (Poll("a"), "busy"),
            (TryLockShared("b"), "queued, try shared"),
            (Busy, "wake b"),
            (Poll("b"), "busy"),
            // No wait was left behind.
            (Lock("c"), "queued, try exclusive"),
        ],
    );
}

#[test]
fn a_refused_try_leaves_the_attempt_to_those_behind_it() {
    play(
        UNBOUNDED,
        &[
            (TryLock("a"), "queued, try exclusive"),
            (Lock("b"), "queued"),
            (Busy, "wait exclusive, wake a"),
            (Poll("a"), "busy"),
            (Poll("b"), "waits"),
            (Acquired, "wake b"),
        ],
    );
    play(
        UNBOUNDED,
        &[
            (TryLock("a"), "queued, try exclusive"),
            (LockShared("b"), "queued"),
            (Busy, "try shared, wake a"),
            (Poll("a"), "busy"),
            (Acquired, "wake b"),
        ],
    );
}

#[test]
fn a_try_is_refused_in_every_phase_but_free() {
    let free: &[Line] = &[];
    let trying: &[Line] = &[(Lock("a"), "queued, try exclusive")];
    let trying_in_vain: &[Line] = &[(Cancel("a"), "drop a")];
    let waiting: &[Line] = &[(Busy, "wait exclusive")];
    let waiting_in_vain: &[Line] = &[(Cancel("a"), "interrupt, drop a")];
    let held: &[Line] = &[(Acquired, "wake a")];
    let releasing: &[Line] = &[(Release("a"), "unlock")];
    let released: &[Line] = &[(Released, "")];
    for (phase, lines) in [
        ("trying", &[trying][..]),
        ("trying in vain", &[trying, trying_in_vain]),
        ("waiting", &[trying, waiting]),
        ("waiting in vain", &[trying, waiting, waiting_in_vain]),
        ("held", &[trying, held]),
        ("releasing", &[trying, held, releasing]),
    ] {
        println!("{phase}");
        let refusals: &[Line] = &[(TryLock("t"), "refused"), (TryLockShared("t"), "refused")];
        play(UNBOUNDED, &[&lines.concat(), refusals].concat());
    }
    let accepted: &[Line] = &[(TryLock("t"), "queued, try exclusive")];
    for lines in [&[free][..], &[trying, held, releasing, released]] {
        play(UNBOUNDED, &[&lines.concat(), accepted].concat());
    }
}

// ---- cancelling ----

#[test]
fn one_who_cancels_in_line_loses_only_its_own_place() {
    for cancelled in ["b", "c", "d"] {
        let mut table = vec![
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (Lock("c"), "queued"),
            (Lock("d"), "queued"),
        ];
        table.push(match cancelled {
            "b" => (Cancel("b"), "drop b"),
            "c" => (Cancel("c"), "drop c"),
            _ => (Cancel("d"), "drop d"),
        });
        table.extend(match cancelled {
            "b" => [(Release("a"), "wake c"), (Release("c"), "wake d"), (Release("d"), "unlock")],
            "c" => [(Release("a"), "wake b"), (Release("b"), "wake d"), (Release("d"), "unlock")],
            _ => [(Release("a"), "wake b"), (Release("b"), "wake c"), (Release("c"), "unlock")],
        });
        play(UNBOUNDED, &table);
    }
}

#[test]
fn an_exclusive_head_that_cancels_lets_the_shared_ones_behind_it_join() {
    play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (LockShared("c"), "queued"),
            (LockShared("d"), "queued"),
            (Lock("e"), "queued"),
            (Cancel("b"), "wake c, wake d, drop b"),
            (Poll("e"), "waits"),
        ],
    );
}

#[test]
fn a_grant_that_is_cancelled_before_its_poll_goes_on() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Lock("b"), "queued"),
            (Acquired, "wake a"),
            (Cancel("a"), "wake b"),
            (Cancel("b"), "unlock"),
            (Released, ""),
        ],
    );
}

#[test]
fn one_of_several_shared_grants_that_is_cancelled_takes_nothing_from_the_others() {
    play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (LockShared("b"), "queued"),
            (Acquired, "wake a, wake b"),
            (Cancel("a"), ""),
            (Release("b"), "unlock"),
        ],
    );
}

#[test]
fn a_completed_request_that_is_not_a_grant_is_cancelled_without_effect() {
    play(
        UNBOUNDED,
        &[
            (TryLock("a"), "queued, try exclusive"),
            (Busy, "wake a"),
            (Cancel("a"), ""),
            (Lock("b"), "queued, try exclusive"),
            (Failed("broken"), "wake b"),
            (Cancel("b"), ""),
            (Lock("c"), "queued, try exclusive"),
            (Gone, "wake c"),
            (Cancel("c"), ""),
        ],
    );
}

// ---- interrupts and adoption ----

#[test]
fn the_last_waiter_that_cancels_interrupts_the_wait_once() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Busy, "wait exclusive"),
            (Lock("b"), "queued"),
            (Cancel("a"), "drop a"),
            (Cancel("b"), "interrupt, drop b"),
            (Lock("c"), "queued"),
            (Cancel("c"), "drop c"),
            (Interrupted, ""),
            (Lock("d"), "queued, try exclusive"),
        ],
    );
}

#[test]
fn an_interrupted_wait_is_adopted_by_one_who_came_in_between() {
    for (lock, wait) in [(Lock("b"), "wait exclusive"), (LockShared("b"), "wait shared")] {
        play(
            UNBOUNDED,
            &[
                (Lock("a"), "queued, try exclusive"),
                (Busy, "wait exclusive"),
                (Cancel("a"), "interrupt, drop a"),
                (lock, "queued"),
                (Interrupted, wait),
                // It is a wait of its own: it can be interrupted again, once.
                (Cancel("b"), "interrupt, drop b"),
                (Interrupted, ""),
            ],
        );
    }
}

#[test]
fn a_lock_that_arrives_despite_the_interrupt_is_adopted_too() {
    for lock in [Lock("b"), LockShared("b")] {
        play(
            UNBOUNDED,
            &[
                (Lock("a"), "queued, try exclusive"),
                (Busy, "wait exclusive"),
                (Cancel("a"), "interrupt, drop a"),
                (lock, "queued"),
                (Acquired, "wake b"),
                (Release("b"), "unlock"),
            ],
        );
    }
}

#[test]
fn a_wait_in_the_wrong_mode_is_interrupted_for_the_new_head() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Busy, "wait exclusive"),
            (LockShared("b"), "queued"),
            (Cancel("a"), "interrupt, drop a"),
            (LockShared("c"), "queued"),
            (Interrupted, "wait shared"),
            (Acquired, "wake b, wake c"),
        ],
    );
    play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (Busy, "wait shared"),
            (Lock("b"), "queued"),
            (Cancel("a"), "interrupt, drop a"),
            (Interrupted, "wait exclusive"),
        ],
    );
}

#[test]
fn a_lock_that_nobody_wants_any_more_goes_back_at_once() {
    for waits in [false, true] {
        let mut table = vec![(Lock("a"), "queued, try exclusive")];
        if waits {
            table.extend([(Busy, "wait exclusive"), (Cancel("a"), "interrupt, drop a")]);
        } else {
            table.push((Cancel("a"), "drop a"));
        }
        table.extend([(Acquired, "unlock"), (Lock("b"), "queued"), (Released, "try exclusive")]);
        let queue = play(UNBOUNDED, &table);
        assert_eq!(queue.counts(), Counts { granted: 0, tenures: 1, handovers: 0 });
    }
}

// ---- the mode of the lock that arrives ----

#[test]
fn a_lock_too_weak_for_the_head_is_given_back_before_the_stronger_one_is_asked_for() {
    play(
        UNBOUNDED,
        &[
            (LockShared("a"), "queued, try shared"),
            (Lock("b"), "queued"),
            (LockShared("c"), "queued"),
            (Cancel("a"), "drop a"),
            (Acquired, "unlock"),
            (Released, "try exclusive"),
            (Acquired, "wake b"),
        ],
    );
}

#[test]
fn a_lock_stronger_than_the_head_needs_is_used_as_it_is() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (LockShared("b"), "queued"),
            (LockShared("c"), "queued"),
            (Lock("d"), "queued"),
            (Cancel("a"), "drop a"),
            (Acquired, "wake b, wake c"),
            (Release("b"), ""),
            (Release("c"), "wake d"),
        ],
    );
}

// ---- the OS refuses ----

#[test]
fn a_failure_goes_to_the_head_alone() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (LockShared("b"), "queued"),
            (LockShared("c"), "queued"),
            (Failed("no locks"), "try shared, wake a"),
            (Poll("a"), "failed: no locks"),
            (Poll("b"), "waits"),
            (Busy, "wait shared"),
            (Failed("server gone"), "try shared, wake b"),
            (Poll("b"), "failed: server gone"),
            (Acquired, "wake c"),
            (Poll("c"), "granted"),
        ],
    );
}

#[test]
fn a_failure_that_nobody_waits_for_is_forgotten() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Cancel("a"), "drop a"),
            (Failed("no locks"), ""),
            (Lock("b"), "queued, try exclusive"),
        ],
    );
}

#[test]
fn a_stale_lock_file_moves_everybody_now_and_later() {
    let attempts: [&[Line]; 2] = [&[], &[(Busy, "wait exclusive")]];
    for attempt in attempts {
        let before: &[Line] = &[
            (Lock("a"), "queued, try exclusive"),
            (LockShared("b"), "queued"),
            (Lock("c"), "queued"),
        ];
        let after: &[Line] = &[
            (Gone, "wake a, wake b, wake c"),
            (Poll("c"), "moved"),
            (Poll("a"), "moved"),
            (Poll("b"), "moved"),
            (Lock("d"), "moved"),
            (TryLockShared("e"), "moved"),
        ];
        let queue = play(UNBOUNDED, &[before, attempt, after].concat());
        assert_eq!(queue.counts(), Counts::default());
    }
}

#[test]
fn those_who_move_stand_before_the_newcomers_in_the_order_that_they_had() {
    play(
        UNBOUNDED,
        &[
            (Lock("x"), "queued, try exclusive"),
            (Acquired, "wake x"),
            (Lock("newcomer"), "queued"),
            (Again("c", 3), "queued"),
            (Again("a", 1), "queued"),
            (SharedAgain("e", 5), "queued"),
            (SharedAgain("d", 4), "queued"),
            (Again("b", 2), "queued"),
            (Again("f", 6), "queued"),
            (Again("g", 7), "queued"),
            (Cancel("f"), "drop f"),
            (Cancel("g"), "drop g"),
            (Again("h", 8), "queued"),
            (Release("x"), "wake a"),
            (Release("a"), "wake b"),
            (Cancel("c"), "drop c"),
            (Release("b"), "wake d, wake e"),
            (Again("late", 1), "queued"),
            (Release("d"), ""),
            (Release("e"), "wake late"),
            (Release("late"), "wake h"),
            (Release("h"), "wake newcomer"),
            (Again("last", 9), "queued"),
            (Release("newcomer"), "wake last"),
        ],
    );
}

#[test]
fn one_that_tries_is_answered_before_those_who_move() {
    let before: &[Line] = &[(TryLock("t"), "queued, try exclusive"), (Again("a", 1), "queued")];
    let granted: &[Line] = &[(Acquired, "wake t"), (Release("t"), "wake a")];
    let refused: &[Line] = &[(Busy, "wait exclusive, wake t"), (Poll("t"), "busy")];
    for after in [granted, refused] {
        play(UNBOUNDED, &[before, after].concat());
    }
}

/// A holder whose path leads elsewhere sends on those in line, and no others: the file may have another path.
#[test]
fn a_holder_can_send_on_those_in_line() {
    let mut queue = Queue::<Name, Name>::new(new_rank);
    let mut effects = Effects::default();
    let first = queue.request(Exclusive, Patience::Wait, None, &mut effects);
    queue.answer(attempt(&mut effects), Answer::Acquired, &mut effects);
    let waiting = queue.request(Shared, Patience::Wait, None, &mut effects);
    let tickets = [first, waiting].map(|requested| match requested {
        Requested::Queued(ticket) => Some(ticket),
        other => panic!("{other:?}"),
    });
    queue.send_on(&mut effects);
    let [first, waiting] = tickets.map(|mut ticket| queue.poll(&mut ticket));
    assert_eq!(first, Some(Outcome::Granted(())));
    assert!(matches!(waiting, Some(Outcome::Moved(_))));
    queue.release(&mut effects);
    queue.answer(attempt(&mut effects), Answer::Released(Ok(())), &mut effects);
    assert_eq!(effects, Effects::default());
    let newcomer = queue.request(Exclusive, Patience::Wait, None, &mut effects);
    assert!(matches!(newcomer, Requested::Queued(_)), "it is asked for as before");
}

/// The call that is asked for.
fn attempt(effects: &mut Effects<Name>) -> Attempt {
    match effects.ask.take() {
        Some(Ask::Call(_, attempt)) => attempt,
        other => panic!("{other:?}"),
    }
}

/// However often they move.
#[test]
fn a_rank_is_kept() {
    let mut queue = Queue::<Name, Name>::new(|| Rank(8.try_into().unwrap()));
    let mut effects = Effects::default();
    let old = Rank(7.try_into().unwrap());
    let newcomer = queue.request(Exclusive, Patience::Wait, None, &mut effects);
    let asked = attempt(&mut effects);
    let moved = queue.request(Exclusive, Patience::Wait, Some(old), &mut effects);
    let [newcomer, moved] = [newcomer, moved].map(|requested| match requested {
        Requested::Queued(ticket) => Some(ticket),
        other => panic!("{other:?}"),
    });
    queue.answer(asked, Answer::Gone, &mut effects);
    let mut outcome = |mut ticket| match queue.poll(&mut ticket) {
        Some(Outcome::Moved(rank)) => rank,
        other => panic!("{other:?}"),
    };
    assert!(outcome(moved) == old && outcome(newcomer) > old);
}

// ---- downgrade ----

#[test]
fn a_downgrade_lets_shared_requests_in() {
    for os in [Shared, Exclusive] {
        let queue = play(
            0,
            &[
                (Lock("a"), "queued, try exclusive"),
                (Acquired, "wake a"),
                (Poll("a"), "granted"),
                (LockShared("b"), "queued"),
                (LockShared("c"), "queued"),
                (Lock("d"), "queued"),
                (LockShared("e"), "queued"),
                (Downgrade("a", os), "wake b, wake c"),
                (Release("b"), ""),
                (Release("a"), ""),
                (Release("c"), "unlock"),
            ],
        );
        assert_eq!(queue.counts(), Counts { granted: 3, tenures: 1, handovers: 0 });
    }
}

#[test]
fn after_a_downgrade_the_os_lock_is_as_strong_as_the_os_left_it() {
    let downgraded = |os| {
        [
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Poll("a"), "granted"),
            (Downgrade("a", os), ""),
            (LockShared("b"), "granted"),
            (Lock("c"), "queued"),
            (Release("b"), ""),
        ]
    };
    let weak: &[Line] =
        &[(Release("a"), "unlock"), (Released, "try exclusive"), (Acquired, "wake c")];
    play(UNBOUNDED, &[&downgraded(Shared), weak].concat());
    let strong: &[Line] = &[(Release("a"), "wake c")];
    play(UNBOUNDED, &[&downgraded(Exclusive), strong].concat());
}

#[test]
fn a_downgrade_in_an_ended_tenure_lets_nobody_in() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Poll("a"), "granted"),
            (LockShared("b"), "queued"),
            (EndTenure(End::Seen), ""),
            (Downgrade("a", Shared), ""),
            (Release("a"), "unlock"),
            (Released, "try shared"),
        ],
    );
}

// ---- wakers ----

#[test]
fn every_waker_comes_back_once() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Register("a", "a2"), "drop a"),
            (Lock("b"), "queued"),
            (Register("b", "b2"), "drop b"),
            (Cancel("b"), "drop b2"),
            (Acquired, "wake a2"),
            // It has been woken: there is nothing left to call it for.
            (Register("a", "a3"), "drop a3"),
            (Cancel("a"), "unlock"),
        ],
    );
}

#[test]
fn contended_means_that_a_request_waits_in_line() {
    let mut queue: Queue<Name, Name> = Queue::new(new_rank);
    assert!(!queue.is_contended());
    let mut effects = Effects::default();
    let Requested::Queued(_) = queue.request(Exclusive, Patience::Wait, None, &mut effects) else {
        panic!("a free queue asks the OS first");
    };
    assert!(queue.is_contended());
    queue.answer(attempt(&mut effects), Answer::Acquired, &mut effects);
    assert_eq!(effects.wake, None, "no waker was registered");
    assert!(!queue.is_contended());
}

// ---- backing off ----

#[test]
fn after_a_tenure_that_ended_for_the_unseen_the_process_backs_off() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (EndTenure(End::Unseen), ""),
            (Release("a"), "unlock"),
            (Released, "back off, wait exclusive"),
            (Acquired, "wake b"),
            (Release("b"), "unlock"),
            (Released, ""),
        ],
    );
}

#[test]
fn it_backs_off_neither_with_an_empty_line_nor_after_a_tenure_that_ended_for_the_seen() {
    for end in [End::Seen, End::Unseen] {
        play(
            UNBOUNDED,
            &[
                (Lock("a"), "queued, try exclusive"),
                (Acquired, "wake a"),
                (EndTenure(end), ""),
                (Release("a"), "unlock"),
                (Released, ""),
                (Lock("b"), "queued, try exclusive"),
            ],
        );
    }
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (EndTenure(End::Seen), ""),
            (EndTenure(End::Unseen), ""),
            (Release("a"), "unlock"),
            (Released, "try exclusive"),
        ],
    );
}

#[test]
fn backing_off_is_interrupted_as_a_wait_is() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (EndTenure(End::Unseen), ""),
            (Release("a"), "unlock"),
            (Released, "back off, wait exclusive"),
            (Cancel("b"), "interrupt, drop b"),
            (Interrupted, ""),
        ],
    );
}

#[test]
fn without_a_thread_to_back_off_on_the_lock_is_asked_for_at_once() {
    play(
        UNBOUNDED,
        &[
            (Lock("a"), "queued, try exclusive"),
            (Acquired, "wake a"),
            (Lock("b"), "queued"),
            (EndTenure(End::Unseen), ""),
            (Release("a"), "unlock"),
            (Released, "back off, wait exclusive"),
            (NotBackedOff, "try exclusive"),
            (Acquired, "wake b"),
            (Lock("c"), "queued"),
            (EndTenure(End::Unseen), ""),
            (Release("b"), "unlock"),
            (Released, "back off, wait exclusive"),
            (Cancel("c"), "interrupt, drop c"),
            (NotBackedOff, ""),
            (Lock("d"), "queued, try exclusive"),
        ],
    );
}
