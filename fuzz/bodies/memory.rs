//! An allocator that counts, so that a body can say how much an input may cost. The one file of the repository with `unsafe`.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(change: isize) {
    // A thread that ends frees after its counters are gone: nobody measures it any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing (`const` thread locals).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What `work` returns, and the most bytes this thread held at once above what it held before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let result = work();
    let peak = PEAK.with(Cell::get);
    (result, usize::try_from(peak - before).unwrap_or(0))
}

/// As [`peak_of`]: fails above `fixed + times * input` bytes.
pub fn bounded<T>(input: usize, times: usize, fixed: usize, work: impl FnOnce() -> T) -> T {
    let (result, peak) = peak_of(work);
    let most = fixed + times * input;
    assert!(peak <= most, "{peak} bytes held for {input} bytes of input, {most} would do");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_moment_counts() {
        let ((), peak) = peak_of(|| {
            drop(std::hint::black_box(vec![0u8; 5000]));
            drop(std::hint::black_box(vec![0u8; 3000]));
        });
        assert_eq!(peak, 5000);
    }

    #[test]
    #[should_panic(expected = "bytes held for 10 bytes of input")]
    fn a_greedy_decoder_is_caught() {
        bounded(10, 4, 1000, || drop(std::hint::black_box(vec![0u8; 2000])));
    }
}
