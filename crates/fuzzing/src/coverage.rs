//! Which places of the code were reached: counters that LLVM puts there when `cargo xtask fuzz` builds
//! (SanitizerCoverage, "inline 8bit-counters"). In every other build there are none, and nothing is ever new.

use std::cell::RefCell;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

static START: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);

/// LLVM's code calls this before `main`, once for each module and always with the bounds of all counters.
///
/// # Safety
/// They MUST be the bounds of counters that last.
// SAFETY: nobody else has a function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    START.store(start as usize, Ordering::Relaxed);
    LEN.store(end as usize - start as usize, Ordering::Relaxed);
}

thread_local! {
    /// Of each counter, the ranges of numbers that were seen, a bit each.
    static SEEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whether places were reached, or as often, as never before. The counters begin anew.
pub(super) fn is_new() -> bool {
    let len = LEN.load(Ordering::Relaxed);
    if len == 0 {
        return false;
    }
    // SAFETY: these are LLVM's counters, which last as long as the process. The instrumented code changes them without
    // synchronization, on other threads too; a count that is lost does no harm.
    let counters = unsafe { slice::from_raw_parts_mut(START.load(Ordering::Relaxed) as *mut u8, len) };
    SEEN.with_borrow_mut(|seen| {
        seen.resize(len, 0);
        let mut new = false;
        for (counter, seen) in counters.iter_mut().zip(seen) {
            if *counter != 0 {
                // 1, 2 to 3, 4 to 7, and so on.
                let range = 1 << counter.ilog2();
                new |= *seen & range == 0;
                *seen |= range;
                *counter = 0;
            }
        }
        new
    })
}

/// How many places were reached.
pub(super) fn covered() -> usize {
    SEEN.with_borrow(|seen| seen.iter().filter(|seen| **seen != 0).count())
}
