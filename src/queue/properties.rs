//! The queue under random sequences of events.
//!
//! - Against a [`Reference`], which says in the plainest way which requests complete by an event, and how.
//! - Against a [`Kernel`], which answers the OS calls as it likes and complains of every call that
//!   is out of turn; and a ledger of wakers, in which each comes back exactly once.
//! - Against tokio's `RwLock`, which knows nothing of either: see [`oracle`].
//!
//! The lock file stays where it is; `tests` has what happens when it does not.

mod oracle;

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

type Id = usize;

const ERROR: &str = "no locks available";

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Shared), Just(Mode::Exclusive)]
}

// ---- which requests complete, and how ----

struct Reference {
    max_handovers: u32,
    line: VecDeque<Request>,
    holders: BTreeMap<Id, Mode>,
    tenure: Option<Tenure>,
    counts: Counts,
    /// What the event completed, in order.
    completed: Vec<(Id, Outcome<&'static str>)>,
}

struct Request {
    id: Id,
    mode: Mode,
    patience: Patience,
}

struct Tenure {
    /// The mode of the OS lock.
    mode: Mode,
    /// Groups of holders that entered together.
    groups: u64,
    over: Option<End>,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Granted,
    Queued,
    Refused,
}

impl Reference {
    fn new(max_handovers: u32) -> Self {
        Self {
            max_handovers,
            line: VecDeque::new(),
            holders: BTreeMap::new(),
            tenure: None,
            counts: Counts::default(),
            completed: Vec::new(),
        }
    }

    fn wanted(&self) -> Option<Mode> {
        self.line.front().map(|front| front.mode)
    }

    /// Lines up like all others, and leaves again if it does not want to stay there. `idle`: no
    /// call is under way.
    fn request(&mut self, request: Request, idle: bool) -> Expected {
        let (id, patience) = (request.id, request.patience);
        let may_ask_the_os = idle && self.tenure.is_none() && self.line.is_empty();
        self.line.push_back(request);
        self.admit();
        if self.completed.pop().is_some() {
            assert!(self.holders.contains_key(&id), "it was the last in line");
            Expected::Granted
        } else if patience == Patience::Try && !may_ask_the_os {
            self.line.pop_back();
            Expected::Refused
        } else {
            Expected::Queued
        }
    }

    fn leave(&mut self, id: Id) {
        self.line.retain(|request| request.id != id);
        self.holders.remove(&id);
        self.admit();
    }

    fn downgrade(&mut self, id: Id, os: Mode) {
        self.holders.insert(id, Mode::Shared);
        self.tenure.as_mut().expect("a request holds").mode = os;
        self.admit();
    }

    fn acquired(&mut self, mode: Mode) {
        self.counts.tenures += 1;
        self.tenure = Some(Tenure { mode, groups: 0, over: None });
        self.admit();
    }

    fn busy(&mut self) {
        while self.line.front().is_some_and(|front| front.patience == Patience::Try) {
            let id = self.line.pop_front().expect("looked at above").id;
            self.completed.push((id, Outcome::Busy));
        }
    }

    fn failed(&mut self) {
        if let Some(request) = self.line.pop_front() {
            self.completed.push((request.id, Outcome::Failed(ERROR)));
        }
    }

    /// Lets in what requests it can, in order; ends a tenure in which none is left.
    fn admit(&mut self) {
        let Some(tenure) = &mut self.tenure else { return };
        let mut entering = false;
        while let Some(front) = self.line.front() {
            let compatible = self.holders.is_empty()
                || front.mode == Mode::Shared
                    && self.holders.values().all(|mode| *mode == Mode::Shared);
            let joins = !self.holders.is_empty();
            let open = if joins {
                entering || tenure.over != Some(End::Seen)
            } else {
                tenure.groups == 0
                    || tenure.over.is_none() && tenure.groups <= u64::from(self.max_handovers)
            };
            if !compatible || tenure.mode < front.mode || !open {
                break;
            }
            if !joins {
                entering = true;
                tenure.groups += 1;
                self.counts.handovers += u64::from(tenure.groups > 1);
            }
            self.counts.granted += 1;
            self.holders.insert(front.id, front.mode);
            self.completed.push((front.id, Outcome::Granted(())));
            self.line.pop_front();
        }
        if self.holders.is_empty() {
            self.tenure = None;
        }
    }
}

// ---- what the queue may ask of the OS ----

#[derive(Debug, Default)]
struct Kernel {
    held: Option<Mode>,
    /// The one call that has no answer yet.
    call: Option<(Call, Attempt)>,
    interrupted: bool,
}

/// How the last call was answered, as far as it matters for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Busy(Mode),
    Interrupted,
    BackedOff,
    Other,
}

impl Kernel {
    fn accept(&mut self, ask: Ask, wanted: Option<Mode>, before: Before) {
        let (call, attempt) = match ask {
            Ask::Call(call, attempt) => (call, attempt),
            Ask::Interrupt(of) => {
                let Some((Call::Wait(mode), waiting)) = &self.call else {
                    panic!("an interrupt without a wait");
                };
                assert_eq!(of, waiting.id());
                assert!(!mem::replace(&mut self.interrupted, true), "interrupted twice");
                assert_ne!(wanted, Some(*mode), "the wait is still wanted");
                return;
            }
        };
        assert_eq!(self.call, None, "{call:?} while another call is under way");
        self.interrupted = false;
        match call {
            Call::Try(mode) => {
                assert_eq!(self.held, None, "a lock call over our own lock");
                assert_eq!(wanted, Some(mode));
            }
            Call::Wait(mode) => {
                assert_eq!(self.held, None, "a lock call over our own lock");
                assert_eq!(wanted, Some(mode));
                match before {
                    Before::Busy(tried) => assert_eq!(tried, mode),
                    Before::Interrupted | Before::BackedOff => {}
                    Before::Other => panic!("a wait that no try came before"),
                }
            }
            Call::Unlock => assert!(self.held.take().is_some(), "nothing to unlock"),
            Call::BackOff(_) => unreachable!("handled before"),
        }
        self.call = Some((call, attempt));
    }
}

// ---- both, and the queue between them ----

#[derive(Debug, Clone)]
enum Event {
    Request(Mode, Patience),
    Register(Index),
    Poll(Index),
    Cancel(Index),
    Release(Index),
    Downgrade(Index, Mode),
    EndTenure(End),
    Os(OsAnswer),
}

#[derive(Debug, Clone, Copy)]
enum OsAnswer {
    Positive,
    /// A try is busy; a wait comes back if it was interrupted, and goes on if it was not.
    Negative,
    Failed,
}

fn event() -> impl Strategy<Value = Event> {
    let patience = prop_oneof![4 => Just(Patience::Wait), 1 => Just(Patience::Try)];
    let os_answer = prop_oneof![
        4 => Just(OsAnswer::Positive),
        3 => Just(OsAnswer::Negative),
        1 => Just(OsAnswer::Failed),
    ];
    prop_oneof![
        5 => (mode(), patience).prop_map(|(mode, patience)| Event::Request(mode, patience)),
        2 => any::<Index>().prop_map(Event::Register),
        2 => any::<Index>().prop_map(Event::Poll),
        2 => any::<Index>().prop_map(Event::Cancel),
        4 => any::<Index>().prop_map(Event::Release),
        1 => (any::<Index>(), mode()).prop_map(|(holder, os)| Event::Downgrade(holder, os)),
        1 => prop_oneof![Just(End::Seen), Just(End::Unseen)].prop_map(Event::EndTenure),
        6 => os_answer.prop_map(Event::Os),
    ]
}

struct World {
    /// Wakers are numbers, each used once.
    queue: Queue<usize, &'static str>,
    reference: Reference,
    kernel: Kernel,
    requests: usize,
    tickets: Vec<(Id, Ticket)>,
    /// What a poll will say.
    completed: BTreeMap<Id, Outcome<&'static str>>,
    wakers: usize,
    /// The wakers in the queue, by request.
    registered: BTreeMap<Id, usize>,
    /// How the tenure was ended from outside, first.
    end: Option<End>,
}

impl World {
    fn new(max_handovers: u32) -> Self {
        let mut queue = Queue::new(|| panic!("the file is where it was"));
        queue.limit_handovers(max_handovers);
        Self {
            queue,
            reference: Reference::new(max_handovers),
            kernel: Kernel::default(),
            requests: 0,
            tickets: Vec::new(),
            completed: BTreeMap::new(),
            wakers: 0,
            registered: BTreeMap::new(),
            end: None,
        }
    }

    /// Lets an event happen if it can, and looks at everything that can be seen of the queue.
    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Request(mode, patience) => self.request(mode, patience),
            Event::Register(at) => self.register(at),
            Event::Poll(at) => {
                if !self.tickets.is_empty() {
                    self.poll(at.index(self.tickets.len()));
                }
            }
            Event::Cancel(at) => self.cancel(at),
            Event::Release(at) => {
                let holders = self.polled_holders();
                if !holders.is_empty() {
                    self.release(holders[at.index(holders.len())]);
                }
            }
            Event::Downgrade(at, os) => {
                let mut holders = self.polled_holders();
                holders.retain(|id| self.reference.holders[id] == Mode::Exclusive);
                if !holders.is_empty() {
                    let id = holders[at.index(holders.len())];
                    self.kernel.held = Some(os);
                    self.reference.downgrade(id, os);
                    let mut effects = Effects::default();
                    self.queue.downgrade(os, &mut effects);
                    self.carry_out(effects, Before::Other);
                }
            }
            Event::EndTenure(end) => {
                if let Some(tenure) = &mut self.reference.tenure {
                    if tenure.over != Some(End::Seen) {
                        tenure.over = Some(end);
                    }
                    self.end = tenure.over;
                }
                self.queue.end_tenure(end);
            }
            Event::Os(answer) => self.answer(answer),
        }
        self.look();
    }

    fn request(&mut self, mode: Mode, patience: Patience) {
        self.requests += 1;
        let id = self.requests;
        let idle = self.kernel.call.is_none();
        let expected = self.reference.request(Request { id, mode, patience }, idle);
        let mut effects = Effects::default();
        let answer = self.queue.request(mode, patience, None, &mut effects);
        let answer = match answer {
            Requested::Now(Outcome::Granted(())) => Expected::Granted,
            Requested::Now(Outcome::Refused) => Expected::Refused,
            Requested::Now(other) => panic!("{other:?}"),
            Requested::Queued(ticket) => {
                self.tickets.push((id, ticket));
                Expected::Queued
            }
        };
        assert_eq!(answer, expected);
        self.carry_out(effects, Before::Other);
    }

    fn register(&mut self, at: Index) {
        if self.tickets.is_empty() {
            return;
        }
        let (id, ticket) = &self.tickets[at.index(self.tickets.len())];
        self.wakers += 1;
        let discarded = self.queue.register(ticket, self.wakers);
        if self.completed.contains_key(id) {
            assert_eq!(discarded, Some(self.wakers), "it will never be called");
        } else {
            assert_eq!(discarded, self.registered.insert(*id, self.wakers));
        }
    }

    fn poll(&mut self, at: usize) {
        let (id, ticket) = self.tickets.swap_remove(at);
        let mut ticket = Some(ticket);
        let found = self.queue.poll(&mut ticket);
        assert_eq!(found, self.completed.remove(&id), "poll of request {id}");
        if let Some(ticket) = ticket {
            assert_eq!(found, None, "a ticket that is void");
            self.tickets.push((id, ticket));
        } else {
            assert_ne!(found, None, "a ticket taken, and no outcome given");
        }
    }

    fn cancel(&mut self, at: Index) {
        if self.tickets.is_empty() {
            return;
        }
        let (id, ticket) = self.tickets.swap_remove(at.index(self.tickets.len()));
        self.completed.remove(&id);
        self.reference.leave(id);
        let mut effects = Effects::default();
        self.queue.cancel(ticket, &mut effects);
        assert_eq!(effects.discard, self.registered.remove(&id));
        self.carry_out(Effects { discard: None, ..effects }, Before::Other);
    }

    fn polled_holders(&self) -> Vec<Id> {
        let holders = self.reference.holders.keys().copied();
        holders.filter(|id| !self.completed.contains_key(id)).collect()
    }

    fn release(&mut self, id: Id) {
        self.reference.leave(id);
        let mut effects = Effects::default();
        self.queue.release(&mut effects);
        self.carry_out(effects, Before::Other);
    }

    fn answer(&mut self, answer: OsAnswer) {
        let waits = matches!(self.kernel.call, Some((Call::Wait(_), _)));
        if waits && matches!(answer, OsAnswer::Negative) && !self.kernel.interrupted {
            return;
        }
        let Some((call, attempt)) = self.kernel.call.take() else { return };
        let (answer, before) = match (call, answer) {
            (Call::Unlock, _) => return self.released(attempt),
            (Call::Wait(_), OsAnswer::Negative) => (Answer::Interrupted, Before::Interrupted),
            (Call::Try(mode), OsAnswer::Negative) => {
                self.reference.busy();
                (Answer::Busy, Before::Busy(mode))
            }
            (Call::Try(_) | Call::Wait(_), OsAnswer::Failed) => {
                self.reference.failed();
                (Answer::Failed(ERROR), Before::Other)
            }
            (Call::Try(mode) | Call::Wait(mode), OsAnswer::Positive) => {
                self.kernel.held = Some(mode);
                self.reference.acquired(mode);
                (Answer::Acquired, Before::Other)
            }
            (Call::BackOff(_), _) => unreachable!("not a call of the kernel"),
        };
        let mut effects = Effects::default();
        self.queue.answer(attempt, answer, &mut effects);
        self.carry_out(effects, before);
    }

    /// The process backs off after a tenure that ended for processes that cannot be seen. To the
    /// kernel that is a wait.
    fn released(&mut self, attempt: Attempt) {
        let backs_off = self.end.take() == Some(End::Unseen) && !self.reference.line.is_empty();
        let mut effects = Effects::default();
        self.queue.answer(attempt, Answer::Released(Ok(())), &mut effects);
        effects.ask = effects.ask.map(|ask| match ask {
            Ask::Call(Call::BackOff(mode), attempt) => {
                assert!(backs_off);
                Ask::Call(Call::Wait(mode), attempt)
            }
            other => {
                assert!(!backs_off, "{other:?}");
                other
            }
        });
        self.carry_out(effects, if backs_off { Before::BackedOff } else { Before::Other });
    }

    fn carry_out(&mut self, effects: Effects<usize>, before: Before) {
        let Effects { ask, wake, wake_more, discard } = effects;
        assert_eq!(discard, None);
        if let Some(ask) = ask {
            self.kernel.accept(ask, self.reference.wanted(), before);
        }
        let woken: Vec<usize> = wake.into_iter().chain(wake_more).collect();
        let completed = mem::take(&mut self.reference.completed);
        let expected: Vec<usize> =
            completed.iter().filter_map(|(id, _)| self.registered.remove(id)).collect();
        assert_eq!(woken, expected, "the wakers of the completed requests, in their order");
        self.completed.extend(completed);
    }

    fn look(&self) {
        for (id, ticket) in &self.tickets {
            let outcome = self.queue.waiters.outcome(ticket);
            assert_eq!(outcome.ok(), self.completed.get(id), "request {id}");
            assert_eq!(self.queue.waker(ticket), self.registered.get(id), "request {id}");
        }
        assert_eq!(self.queue.counts(), self.reference.counts);
        assert_eq!(self.queue.is_contended(), !self.reference.line.is_empty());

        let holders: Vec<Mode> = self.reference.holders.values().copied().collect();
        assert!(holders.len() <= 1 || !holders.contains(&Mode::Exclusive), "{holders:?}");
        let held = self.kernel.held;
        assert!(holders.iter().all(|mode| held >= Some(*mode)), "{holders:?} over {held:?}");
        assert_eq!(held.is_some(), !holders.is_empty(), "a lock without a holder");

        let call = &self.kernel.call;
        assert!(held.is_none() || call.is_none(), "{call:?} in a tenure");
        if !self.reference.line.is_empty() {
            assert!(held.is_some() || call.is_some(), "nothing will ever look at the line");
        }
        if let Some((Call::Wait(mode), _)) = call {
            let wanted = self.reference.wanted() == Some(*mode);
            assert!(wanted || self.kernel.interrupted, "a wait that no request wants goes on");
        }
    }

    /// From now on the OS grants everything and holders release: every request that is still in line
    /// must be granted, and nothing may be left behind.
    fn wind_up(mut self) {
        let waiting: Vec<Id> = self.reference.line.iter().map(|request| request.id).collect();
        let granted = self.queue.counts().granted;
        // One step a grant, poll, release, attempt and unlock, and some to spare.
        for _ in 0..8 * (self.tickets.len() + self.reference.holders.len() + 1) {
            if self.kernel.call.is_some() {
                self.answer(OsAnswer::Positive);
            } else if let Some(at) =
                self.tickets.iter().position(|(id, _)| self.completed.contains_key(id))
            {
                self.poll(at);
            } else if let Some(id) = self.polled_holders().first() {
                self.release(*id);
            }
            self.look();
        }
        assert_eq!(self.queue.counts().granted, granted + waiting.len() as u64);
        assert!(self.tickets.is_empty(), "left in line: {:?}", self.tickets);
        assert!(self.registered.is_empty(), "never woken: {:?}", self.registered);
        assert_eq!((self.kernel.held, &self.kernel.call), (None, &None));
    }
}

proptest! {
    #[test]
    fn the_queue_does_what_the_reference_does(
        max_handovers in prop_oneof![0..4_u32, Just(u32::MAX)],
        events in vec(event(), 0..80),
    ) {
        let mut world = World::new(max_handovers);
        for event in &events {
            world.happen(event);
        }
        world.wind_up();
    }
}
