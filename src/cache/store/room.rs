//! Room that this handle has in the books already, for values that it is going to insert.
//!
//! To write the books takes their lock. So a task that does it, that fetches room, puts down more than its own value: for
//! all tasks of the handle that wait for room, or for some times what the handle has inserted. The other tasks take
//! from that: they hold the directory shared, as tasks without a limit do, and need no lock of the books. The books
//! count too much by that, never too little.
//!
//! A count of all values knows nothing of such room. So each count has a number of its own, and room is good
//! for as long as the books are those of that count. A count takes the directory alone: it cannot come
//! between a look at the books and the insert.
//!
//! The first insert of a handle puts down its value and what other tasks wait with, and the next ones more and
//! more: what a process that ends leaves behind is no more than some times what it has inserted, or what it was
//! about to insert.

use std::sync::Arc;

use super::books::Books;
use crate::shim::Mutex;

/// Room for values that wait is this part of the size of all values at most.
const SHARE_WANTED: u64 = 16;

/// Room for values that may come: a process that ends leaves it behind.
const SHARE_AHEAD: u64 = 128;

/// Of what the handle has inserted.
const TIMES: u64 = 4;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cache) struct Amount {
    pub(in crate::cache) values: u64,
    pub(in crate::cache) bytes: u64,
}

impl Amount {
    pub(in crate::cache) fn one(bytes: u64) -> Self {
        Self { values: 1, bytes }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.values = self.values.saturating_add(other.values);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// `None`, and nothing is changed, if there is less.
    fn take(&mut self, other: Self) -> Option<()> {
        let values = self.values.checked_sub(other.values)?;
        let bytes = self.bytes.checked_sub(other.bytes)?;
        *self = Self { values, bytes };
        Some(())
    }

    fn times(self, factor: u64) -> Self {
        Self {
            values: self.values.saturating_mul(factor),
            bytes: self.bytes.saturating_mul(factor),
        }
    }

    /// The part of it that has no more bytes than this.
    fn at_most(self, bytes: u64) -> Self {
        if self.bytes <= bytes {
            return self;
        }
        let values = u128::from(self.values) * u128::from(bytes) / u128::from(self.bytes);
        match values as u64 {
            // Not enough for one.
            0 => Self::default(),
            values => Self { values, bytes },
        }
    }
}

/// The room of a handle and its clones.
#[derive(Debug, Default)]
pub(in crate::cache) struct Room(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The number of the count.
    count: u64,
    left: Amount,
    /// What this handle has inserted since then.
    inserted: Amount,
    /// What tasks wait with until room is fetched.
    wanted: Amount,
    /// So many bytes the books say more than the limit, for a value that is replaced: as many are left.
    over: u64,
}

impl Room {
    /// Room for one value, if there is more than other tasks wait for.
    pub(in crate::cache) fn take(self: &Arc<Self>, length: u64, most: u64) -> Option<Taken> {
        let mut state = self.0.lock();
        let mut with_others = state.wanted;
        with_others.add(Amount::one(length));
        let mut left = state.left;
        left.take(with_others)?;
        state.take(length, most)?;
        Some(Taken { room: self.clone(), count: state.count, length, is_used: false })
    }

    /// Makes known that a value of this length waits for room, until the answer is dropped.
    pub(in crate::cache) fn want(self: &Arc<Self>, length: u64) -> InLine {
        self.0.lock().wanted.add(Amount::one(length));
        InLine { room: self.clone(), length }
    }

    /// What tasks wait with, and room is put down for at one time.
    pub(super) fn wanted(&self, most: u64) -> Amount {
        self.0.lock().wanted.at_most(most / SHARE_WANTED)
    }

    /// What is left is good only if it is in these books; if there are none it is in no books. What they said above the
    /// limit is remembered: a value that was put down by then may still take its place, and leave what it replaces.
    pub(super) fn forget_unless_in(&self, books: Option<&Books>) {
        let mut state = self.0.lock();
        match books {
            Some(books) => state.is_of(books),
            None => (state.left, state.inserted) = Default::default(),
        }
    }

    /// Takes the room of this handle out of the books, so that they say what there is and what was taken, under
    /// the lock of the books.
    pub(super) fn merge(&self, books: &mut Books) {
        let mut state = self.0.lock();
        state.is_of(books);
        let left = std::mem::take(&mut state.left);
        books.take_off(left.values, left.bytes);
        if !books.are_out_of_date() {
            books.stored = books.stored.saturating_sub(left.values);
        }
    }

    /// Puts down a value and room for others that come after it, under the lock of the books. It is good from when
    /// the books are written.
    pub(in crate::cache) fn put_down(
        self: &Arc<Self>,
        books: &mut Books,
        length: u64,
        most: u64,
    ) -> PutDown {
        let mut state = self.0.lock();
        state.is_of(books);
        books.add(length);
        let free = most.saturating_sub(books.bytes);
        let wanted = state.wanted.at_most(free.min(most / SHARE_WANTED));
        let ahead = state.inserted.times(TIMES).at_most(free.min(most / SHARE_AHEAD));
        let more = if wanted.bytes > ahead.bytes { wanted } else { ahead };
        books.count_more(more.values, more.bytes);
        state.over = books.bytes.saturating_sub(most);
        PutDown { room: self.clone(), count: books.count, length, more }
    }

    /// What the books say, less what of it is room of this handle.
    pub(super) fn taken_out_of(&self, mut books: Books) -> Books {
        let state = self.0.lock();
        if state.count == books.count {
            books.take_off(state.left.values, state.left.bytes);
        }
        books
    }
}

impl State {
    /// Room of another count is lost.
    fn is_of(&mut self, books: &Books) {
        if self.count != books.count {
            self.count = books.count;
            (self.left, self.inserted, self.over) = Default::default();
        }
    }

    fn take(&mut self, length: u64, most: u64) -> Option<()> {
        // What large values left behind that were replaced is given back.
        if self.left.bytes > 2 * (most / SHARE_WANTED) {
            return None;
        }
        let rest = self.left.bytes.checked_sub(length)?;
        if rest < self.over {
            return None;
        }
        self.left.take(Amount::one(length))
    }
}

/// Room that is in books that are not written yet.
#[derive(Debug)]
pub(in crate::cache) struct PutDown {
    room: Arc<Room>,
    count: u64,
    length: u64,
    more: Amount,
}

impl PutDown {
    /// The books are written; room for the value.
    pub(in crate::cache) fn written(self) -> Taken {
        let Self { room, count, length, more } = self;
        {
            let mut state = room.0.lock();
            if state.count == count {
                state.left.add(more);
            }
        }
        Taken { room, count, length, is_used: false }
    }
}

/// A value that waits for room.
#[derive(Debug)]
pub(in crate::cache) struct InLine {
    room: Arc<Room>,
    length: u64,
}

impl InLine {
    /// Room for it, if that was fetched meanwhile. The task that waits longest asks first.
    pub(in crate::cache) fn take(&self, most: u64) -> Option<Taken> {
        let mut state = self.room.0.lock();
        state.take(self.length, most)?;
        let room = self.room.clone();
        Some(Taken { room, count: state.count, length: self.length, is_used: false })
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        // It is in there.
        let _ = self.room.0.lock().wanted.take(Amount::one(self.length));
    }
}

/// Room for one value. What is not used is given back.
#[derive(Debug)]
pub(in crate::cache) struct Taken {
    room: Arc<Room>,
    count: u64,
    length: u64,
    is_used: bool,
}

impl Taken {
    /// Whether it was put down in books of this count, and so is in them still.
    pub(in crate::cache) fn is_of(&self, books: &Books) -> bool {
        self.count == books.count
    }

    /// The value is in its place, and what was there before is gone. The directory is held since the look at
    /// the books, and so no count has come in between.
    pub(in crate::cache) fn used(mut self, replaced: Amount) {
        self.is_used = true;
        let mut state = self.room.0.lock();
        if state.count == self.count {
            state.inserted.add(Amount::one(self.length));
            state.left.add(replaced);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.room.0.lock();
        if !self.is_used && state.count == self.count {
            state.left.add(Amount::one(self.length));
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    const MOST: u64 = 128_000;

    fn books(count: u64) -> Books {
        Books { count, ..Books::default() }
    }

    #[test]
    fn room_is_fetched_for_all_who_wait_and_then_for_more_and_more() {
        let (room, mut books) = (Arc::new(Room::default()), books(1));
        assert!(room.take(10, MOST).is_none());
        let waiting = [10, 20, 30].map(|length| room.want(length));
        let put_down = room.put_down(&mut books, 10, MOST);
        assert_eq!((books.values, books.bytes, books.stored), (4, 70, 4));
        assert!(waiting[0].take(MOST).is_none(), "the books are not written yet");
        let first = put_down.written();
        assert!(room.take(1, MOST).is_none(), "others wait for that");
        let taken = waiting.map(|wanted| wanted.take(MOST).expect("fetched for it"));
        first.used(Amount::default());
        taken.into_iter().for_each(|taken| taken.used(Amount::default()));
        room.merge(&mut books);
        assert_eq!((books.values, books.bytes, books.stored), (4, 70, 4), "all of it was used");
        drop(room.put_down(&mut books, 10, MOST).written());
        // Four times what was inserted, and the value that was not.
        assert_eq!((books.values, books.bytes), (4 + 1 + 16, 70 + 10 + 280));
        room.merge(&mut books);
        assert_eq!((books.values, books.bytes, books.stored), (4, 70, 4));
    }

    #[test]
    fn room_is_a_share_of_the_limit_and_what_is_free_at_most() {
        let (room, mut books) = (Arc::new(Room::default()), books(1));
        let waiting = [5000; 3].map(|length| room.want(length));
        let taken = room.put_down(&mut books, 5000, MOST).written();
        assert_eq!((books.values, books.bytes), (1 + 1, 5000 + MOST / SHARE_WANTED));
        taken.used(Amount::default());
        room.merge(&mut books);
        assert_eq!((books.values, books.bytes), (1, 5000));
        drop(waiting);
        for _ in 0..9 {
            room.put_down(&mut books, 100, MOST).written().used(Amount::default());
        }
        room.merge(&mut books);
        let _taken = room.put_down(&mut books, 10, MOST);
        assert_eq!(books.bytes, 5900 + 10 + MOST / SHARE_AHEAD);
        let _waiting = room.want(600);
        books.see(MOST - books.bytes - 700);
        let _taken = room.put_down(&mut books, 100, MOST);
        assert_eq!(books.bytes, MOST);
    }

    #[test]
    fn room_is_lost_with_its_count() {
        let room = Arc::new(Room::default());
        let (mut before, mut after) = (books(1), books(2));
        let waiting = room.want(10);
        let taken = room.put_down(&mut before, 10, MOST).written();
        assert!(taken.is_of(&before) && !taken.is_of(&after));
        room.merge(&mut after);
        assert_eq!((after.values, after.bytes), (0, 0));
        // Nor is any given to the new ones.
        drop(taken);
        assert!(waiting.take(MOST).is_none());
        assert_eq!(room.taken_out_of(after), after);
    }

    #[test]
    fn what_large_values_leave_is_given_back() {
        let (room, mut books) = (Arc::new(Room::default()), books(1));
        let taken = room.put_down(&mut books, 10, MOST).written();
        taken.used(Amount::one(2 * (MOST / SHARE_WANTED)));
        drop(room.take(10, MOST).expect("not too much"));
        room.put_down(&mut books, 10, MOST).written().used(Amount::one(10));
        assert!(room.take(10, MOST).is_none(), "too much for one handle");
        assert!(room.want(10).take(MOST).is_none(), "nor when it was waited for");
    }

    /// The books say more than the limit until the value that is replaced is gone: that much was never there.
    #[test]
    fn room_above_the_limit_is_not_taken_after_the_books_are_gone() {
        let (room, mut books) = (Arc::new(Room::default()), books(1));
        books.see(MOST);
        let length = MOST / SHARE_WANTED;
        let taken = room.put_down(&mut books, length, MOST).written();
        assert_eq!(books.bytes, MOST + length);
        room.forget_unless_in(None);
        taken.used(Amount::one(length));
        assert!(room.take(length, MOST).is_none());
        assert!(room.want(length).take(MOST).is_none());
    }
}
