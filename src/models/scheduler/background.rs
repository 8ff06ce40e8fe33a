//! Where bulk work is computed.

use std::sync::LazyLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// As many threads as rayon's own pool has, for the bulk lanes of all models. Absent where the
/// system gave no threads: bulk work then runs on rayon's own.
pub static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    let pool = ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .thread_name(|index| format!("bulk-{index}"))
        .start_handler(|_| step_back())
        .build();
    pool.inspect_err(|error| tracing::warn!(%error, "bulk work has no threads of its own: {error}")).ok()
});

/// Lets other threads go before the calling one; where that is impossible they share the cores.
fn step_back() {
    // Only Linux has priorities of single threads under this call. 19 is the last; what such a
    // thread gets beside a busy one of ours is 1.5 %.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "the standard library cannot set a priority")]
    // SAFETY: 0 names the calling thread; no memory is involved.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}
