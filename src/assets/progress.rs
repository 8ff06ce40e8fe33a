//! Bars on a terminal, plain log lines elsewhere.

use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const BAR: &str =
    "{msg:40!} {bar:30} {binary_bytes:>10} of {binary_total_bytes} {binary_bytes_per_sec} {eta}";
const SPINNER: &str = "{msg:40!} {spinner} {binary_bytes:>10} {elapsed}";

/// Shows several downloads at once.
#[derive(Clone)]
pub(super) struct Progress {
    bars: MultiProgress,
}

impl Progress {
    /// Draws to stderr, and only where that is a terminal and `enabled`.
    pub(super) fn new(enabled: bool) -> Self {
        let target = if enabled { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target) }
    }

    /// A download of `total` bytes, of which `done` are there already.
    pub(super) fn download(&self, what: String, done: u64, total: Option<u64>) -> Transfer {
        let bar = match total {
            Some(total) => ProgressBar::new(total).with_style(style(BAR)),
            None => ProgressBar::no_length().with_style(style(SPINNER)),
        };
        self.begin(what, bar.with_position(done))
    }

    /// A download of which only the size so far is known.
    pub(super) fn growing(&self, what: String) -> Transfer {
        self.begin(what, ProgressBar::no_length().with_style(style(SPINNER)))
    }

    fn begin(&self, what: String, bar: ProgressBar) -> Transfer {
        if self.bars.is_hidden() {
            tracing::info!("fetching {what}");
            return Transfer { what, bar: ProgressBar::hidden(), plain: true };
        }
        let bar = self.bars.add(bar.with_message(what.clone()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Transfer { what, bar, plain: false }
    }
}

/// One download under way; dropping it removes the bar.
pub(super) struct Transfer {
    what: String,
    bar: ProgressBar,
    plain: bool,
}

impl Transfer {
    /// `bytes` more have arrived.
    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// `bytes` are there altogether.
    pub(super) fn set(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Everything has arrived.
    pub(super) fn finish(self) {
        if self.plain {
            tracing::info!("fetched {} ({})", self.what, HumanBytes(self.bar.position()));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
