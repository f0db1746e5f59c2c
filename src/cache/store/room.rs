//! Room that this handle has in the books already, for values that it is going to insert.
//!
//! To write the books takes the directory alone. So who does it puts down more than its value, and its next
//! inserts take from that: they hold the directory shared, as those do who have no limit. The books count
//! too much by that, never too little.
//!
//! Whoever counts all values knows nothing of such room. So each count has a number of its own, and room is good
//! for as long as the books are those of that count. A count takes the directory alone: it cannot come
//! between a look at the books and the insert.
//!
//! The first insert of a handle puts down its value and nothing more, and the next ones more and more: what
//! a process that ends leaves behind is no more than it has inserted.

use std::io;

use super::Store;
use super::books::Books;

/// Of the size of all values, at most.
const SHARE: u64 = 128;

#[derive(Debug, Default)]
pub(super) struct Room {
    /// The number of the count.
    count: u64,
    bytes: u64,
    values: u64,
    /// Bytes that this handle has inserted since then.
    inserted: u64,
    /// With fewer values than this, one insert takes the directory alone and puts down more.
    low: u64,
    /// One is about to.
    is_low_for_one: bool,
}

impl Store {
    /// Whether a value of this length may be inserted while others insert. Who has no limit always may.
    pub(in crate::cache) fn may_have_room(&self, length: u64) -> bool {
        let Some(most) = self.settings.max_size else { return true };
        let mut room = self.room.lock();
        // What large values left behind that were replaced is given back.
        if room.bytes < length || room.values == 0 || room.bytes > 2 * (most / SHARE) {
            return false;
        }
        // Otherwise all find at the same time that there is none left, and each wants the directory alone.
        let is_first_to_see = room.values < room.low && !room.is_low_for_one;
        room.is_low_for_one |= is_first_to_see;
        !is_first_to_see
    }

    /// Takes room for one value. The directory is held, and so no count comes in between until it is used.
    pub(super) fn take_room(&self, length: u64) -> io::Result<bool> {
        let Some(books) = self.books_as_they_are()? else { return Ok(false) };
        let mut room = self.room.lock();
        if room.count != books.count || room.bytes < length || room.values == 0 {
            return Ok(false);
        }
        room.bytes -= length;
        room.values -= 1;
        room.inserted = room.inserted.saturating_add(length);
        Ok(true)
    }

    /// What was taken and not used, or what values had that are gone.
    pub(super) fn give_room(&self, values: u64, bytes: u64) {
        let mut room = self.room.lock();
        room.bytes = room.bytes.saturating_add(bytes);
        room.values += values;
    }

    /// Takes the room of this handle out of the books, so that they say what there is, with the directory
    /// alone.
    pub(super) fn merge_room(&self, books: &mut Books) {
        let mut room = self.room.lock();
        if room.count == books.count {
            books.take_off(room.values, room.bytes);
            if !books.are_out_of_date() {
                books.stored = books.stored.saturating_sub(room.values);
            }
        } else {
            *room = Room { count: books.count, ..Room::default() };
        }
        (room.bytes, room.values) = (0, 0);
        room.is_low_for_one = false;
    }

    /// Puts down room for values that come after one of this length, with the directory alone. What is put
    /// down is good from when the books are written.
    pub(super) fn make_room(&self, books: &mut Books, length: u64, most: u64) {
        let mut room = self.room.lock();
        if room.count != books.count {
            *room = Room { count: books.count, ..Room::default() };
        }
        let free = most.saturating_sub(books.bytes);
        let wanted = room.inserted.saturating_mul(4).min(most / SHARE);
        let values = wanted.min(free) / length.max(1);
        room.inserted = room.inserted.saturating_add(length);
        (room.bytes, room.values, room.low) = (values * length, values, values / 2);
        books.count_more(values, room.bytes);
    }

    /// What the books say, less what of it is room of this handle.
    pub(super) fn without_room(&self, mut books: Books) -> Books {
        let room = self.room.lock();
        if room.count == books.count {
            books.take_off(room.values, room.bytes);
        }
        books
    }
}
