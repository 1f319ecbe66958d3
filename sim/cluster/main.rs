//! The cluster tier's own program: one seed per process, so that nothing of one run can reach into another.
//! `norn-sim --tier cluster` builds and calls it.

/// A seed is made of millions of small allocations.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    norn_sim::cluster::main()
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "built without --cfg madsim, so there is nothing here to run: use `cargo sim run --tier cluster`"
    );
    std::process::ExitCode::from(6)
}
