//! Memory of connections: rings in which bytes wait for who does not take them yet, and a budget for all of them.
//!
//! A ring's memory is mapped and costs nothing until it is written to. What was written to is counted by the page, for all
//! rings together, until it is given back to the kernel. A ring may hold a quarter of what the budget has left (dynamic
//! thresholds: Choudhury and Hahne, 1998): as long as others hold little that is all of it, and many that fill up keep each
//! other small, yet never take everything from one that comes later. None has to give up bytes that it holds. A ring that
//! is full beyond its share takes no more; one that is empty may always take a page or two, so that every connection goes
//! on whatever the others do.

use std::io;

use crate::sys::{self, Pages};

/// Bytes of a ring, most of which most rings never use.
pub(super) const RING_BYTES: usize = 512 << 10;

/// A ring may hold what is left of the budget divided by this.
const PART: usize = 4;

/// How much memory the rings of all connections have.
pub(super) struct Budget {
    most: usize,
    used: usize,
    page: usize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        // No more pages than a ring has bits for.
        let page = sys::page_size().max(RING_BYTES / Held::BITS);
        Budget { most, used: 0, page }
    }

    /// Pages that one ring may hold now.
    fn share(&self, floor: usize) -> usize {
        let left = self.most.saturating_sub(self.used);
        (left / PART / self.page).clamp(floor, RING_BYTES / self.page)
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

/// Bytes in a ring: where they begin, and how many. They may go on at the ring's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Span {
    /// The pages that it touches, a bit each.
    fn pages(self, page: usize) -> u128 {
        if self.len == 0 {
            return 0;
        }
        let all = RING_BYTES / page;
        let (first, last) = (self.at / page, (self.at + self.len - 1) / page);
        let count = (last - first + 1).min(all);
        let ones = u128::MAX >> (Held::BITS - count);
        // Those behind the end are at the start.
        let wrapped = if first == 0 { 0 } else { ones >> (all - first) };
        (ones << first | wrapped) & (u128::MAX >> (Held::BITS - all))
    }
}

/// Which pages of a ring were written to since they were last given back, a bit each.
#[derive(Debug)]
pub(super) struct Held {
    pages: u128,
    /// How many the ring may hold however little the budget has left.
    floor: usize,
}

impl Held {
    const BITS: usize = 128;

    /// Of a ring that begins at its start again whenever it is empty.
    pub(super) fn of_fresh_start() -> Self {
        Held { pages: 0, floor: 1 }
    }

    /// Of a ring in which bytes may begin anywhere, even at a page's end.
    pub(super) fn of_any_start() -> Self {
        Held { pages: 0, floor: 2 }
    }

    /// Bytes that may follow `live`, which are all that the ring has to keep.
    pub(super) fn room(&self, live: Span, budget: &Budget) -> usize {
        let end = budget.share(self.floor) * budget.page - live.at % budget.page;
        end.min(RING_BYTES).saturating_sub(live.len)
    }

    /// Notes that bytes are written.
    pub(super) fn wrote(&mut self, span: Span, budget: &mut Budget) {
        let before = self.bytes(budget);
        self.pages |= span.pages(budget.page);
        budget.used += self.bytes(budget) - before;
    }

    pub(super) fn bytes(&self, budget: &Budget) -> usize {
        usize::try_from(self.pages.count_ones()).unwrap_or(Self::BITS) * budget.page
    }

    /// Whether it holds more than its share now.
    pub(super) fn exceeds(&self, budget: &Budget) -> bool {
        self.bytes(budget) > budget.share(self.floor) * budget.page
    }

    /// Whether it holds pages that hold nothing of `live`.
    pub(super) fn has_more_than(&self, live: Span, budget: &Budget) -> bool {
        self.pages & !live.pages(budget.page) != 0
    }

    /// Gives all pages back but those of `live`. The ring begins at `start` in `pages`.
    pub(super) fn release(
        &mut self,
        live: Span,
        (pages, start): (&Pages, usize),
        budget: &mut Budget,
    ) -> io::Result<()> {
        let before = self.bytes(budget);
        let mut dead = self.pages & !live.pages(budget.page);
        while dead != 0 {
            let first = dead.trailing_zeros();
            let count = (dead >> first).trailing_ones();
            let run = (u128::MAX >> (u128::BITS - count)) << first;
            let bytes = |pages: u32| usize::try_from(pages).unwrap_or(Self::BITS) * budget.page;
            // SAFETY: nobody reads these pages before they are written to again: `live` is all that the ring keeps.
            unsafe { pages.give_back(start + bytes(first), bytes(count)) }?;
            self.pages &= !run;
            dead &= !run;
        }
        budget.used -= before - self.bytes(budget);
        Ok(())
    }

    /// Notes that the ring's memory is gone.
    pub(super) fn forget(&mut self, budget: &mut Budget) {
        budget.used -= self.bytes(budget);
        self.pages = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_touch_their_pages_and_go_on_at_the_start() {
        let pages = |at, len| Span { at, len }.pages(4096);
        assert_eq!(pages(0, 0), 0);
        assert_eq!(pages(0, 1), 1);
        assert_eq!(pages(4095, 2), 0b11);
        assert_eq!(pages(4096, 4096), 0b10);
        assert_eq!(pages(RING_BYTES - 1, 2), 1 << 127 | 1);
        assert_eq!(pages(5000, RING_BYTES), u128::MAX);
        // Of a kernel with pages of 64 KiB.
        assert_eq!(Span { at: RING_BYTES - 1, len: 2 }.pages(65_536), 0b1000_0001);
        assert_eq!(Span { at: 70_000, len: RING_BYTES }.pages(65_536), 0xff);
    }

    #[test]
    fn a_share_is_a_part_of_what_is_left_and_never_nothing() {
        let mut budget = Budget::new(4 << 20);
        let mut held: Vec<Held> = Vec::new();
        let mut last = usize::MAX;
        for _ in 0..1000 {
            let mut ring = Held::of_any_start();
            let room = ring.room(Span { at: 0, len: 0 }, &budget);
            assert!(room <= last && room >= 2 * budget.page);
            ring.wrote(Span { at: 0, len: room }, &mut budget);
            held.push(ring);
            last = room;
        }
        assert_eq!(held[0].bytes(&budget), RING_BYTES, "the first had all of its ring");
        assert!(budget.used() <= (4 << 20) + 1000 * 2 * budget.page);
        for ring in &mut held {
            ring.forget(&mut budget);
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_given_back_is_what_is_dead() {
        let mut budget = Budget::new(64 << 20);
        let mut pages = Pages::new(RING_BYTES).unwrap();
        // SAFETY: used until the next call only.
        unsafe { pages.bytes() }.fill(7);
        let mut held = Held::of_any_start();
        held.wrote(Span { at: 0, len: RING_BYTES }, &mut budget);
        let live = Span { at: RING_BYTES - 100, len: 200 };
        held.release(live, (&pages, 0), &mut budget).unwrap();
        assert_eq!(budget.used(), 2 * budget.page);
        // SAFETY: as above.
        let bytes = unsafe { pages.bytes() };
        assert!(bytes[..100].iter().chain(&bytes[RING_BYTES - 100..]).all(|byte| *byte == 7));
        assert!(bytes[budget.page..RING_BYTES - budget.page].iter().all(|byte| *byte == 0));
    }
}
