//! A body that fails on purpose: who does not see it fail would see nothing else either.

/// Fails on inputs that begin with `norn`. Byte by byte, as a fuzzer that is guided by coverage finds it.
pub fn body(bytes: &[u8]) {
    let [a, b, c, d, ..] = bytes else { return };
    if *a == b'n' && *b == b'o' && *c == b'r' {
        assert!(*d != b'n', "the canary sings: failures are noticed");
    }
}
