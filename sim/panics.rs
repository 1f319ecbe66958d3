//! Panics of a node are findings, not the end: their message is kept instead of printed.

use std::cell::{Cell, RefCell};
use std::sync::Once;

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs what may panic inside a `catch_unwind`.
pub fn watched<T>(run: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_WATCHED.get() {
                LAST.set(info.to_string());
                IS_WATCHED.set(false);
            } else {
                default(info);
            }
        }));
    });
    IS_WATCHED.set(true);
    let result = run();
    IS_WATCHED.set(false);
    result
}

/// The last message.
pub fn take() -> String {
    LAST.take()
}
