#![no_main]

libfuzzer_sys::fuzz_target!(init: norn_fuzz::init(), |bytes: &[u8]| norn_fuzz::gateway_json::body(bytes));
