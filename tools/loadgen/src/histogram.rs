//! Latency histograms with a bounded size and a bounded error.

use std::time::Duration;

/// Values below this are counted exactly.
const EXACT: u64 = 128;
/// Buckets per power of two above [`EXACT`]: the error stays under 1/64.
const PER_OCTAVE: u64 = 64;
/// Octaves above [`EXACT`]: the largest value told apart is about 19 hours.
const OCTAVES: u64 = 29;
/// Number of buckets of every histogram.
#[expect(clippy::cast_possible_truncation, reason = "a constant of about 2,000")]
const BUCKETS: usize = (EXACT + OCTAVES * PER_OCTAVE) as usize;

/// Counts durations in microseconds, in buckets whose width grows with the value.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_us: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum_us: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(us)) {
            *count += 1;
        }
        self.total += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    /// Adds everything that `other` has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many durations were counted.
    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The value, in milliseconds, that `quantile` (0 to 1) of the durations do not exceed.
    ///
    /// Rounded up to the end of its bucket, but never above the largest value seen. `None` when nothing was counted.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let rank = rank_of(quantile, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(ms(bucket_end(index as u64).min(self.max_us)));
            }
        }
        Some(ms(self.max_us))
    }

    /// The arithmetic mean in milliseconds. `None` when nothing was counted.
    pub(crate) fn mean_ms(&self) -> Option<f64> {
        (self.total > 0).then(|| ms(self.sum_us) / as_f64(self.total))
    }
}

/// The position, from 1 to `total`, of the value that answers for `quantile`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 1..=total, both exact in the range of real runs"
)]
fn rank_of(quantile: f64, total: u64) -> u64 {
    let rank = (quantile.clamp(0.0, 1.0) * as_f64(total)).ceil() as u64;
    rank.clamp(1, total)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and microseconds of a run are far below 2^52"
)]
fn as_f64(value: u64) -> f64 {
    value as f64
}

fn ms(us: u64) -> f64 {
    as_f64(us) / 1000.0
}

/// The bucket that counts `us`; values above the range share the last one.
#[expect(clippy::cast_possible_truncation, reason = "at most BUCKETS - 1")]
fn bucket(us: u64) -> usize {
    if us < EXACT {
        return us as usize;
    }
    let shift = u64::from(us.ilog2()) - 6;
    let index = EXACT + (shift - 1) * PER_OCTAVE + ((us >> shift) - PER_OCTAVE);
    (index as usize).min(BUCKETS - 1)
}

/// The largest value counted in bucket `index`.
fn bucket_end(index: u64) -> u64 {
    if index < EXACT {
        return index;
    }
    let shift = (index - EXACT) / PER_OCTAVE + 1;
    let within = (index - EXACT) % PER_OCTAVE;
    ((PER_OCTAVE + within + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_without_gap_or_overlap() {
        for index in 1..(BUCKETS as u64) {
            let end = bucket_end(index);
            assert_eq!(bucket(end) as u64, index, "the end of bucket {index} lies in it");
            assert_eq!(
                bucket(bucket_end(index - 1) + 1) as u64,
                index,
                "it starts behind the one before"
            );
        }
    }

    #[test]
    fn a_bucket_is_never_wider_than_one_sixty_fourth_of_its_values() {
        for us in [200, 1_000, 20_000, 1_234_567, 60_000_000] {
            let end = bucket_end(bucket(us) as u64);
            assert!(end >= us && end - us <= us / 64, "{us} is reported as {end}");
        }
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::default();
        for us in 1..=99 {
            histogram.record(Duration::from_micros(us));
        }
        assert_eq!(histogram.quantile_ms(0.5), Some(0.050));
        assert_eq!(histogram.quantile_ms(0.99), Some(0.099));
        assert_eq!(histogram.quantile_ms(1.0), Some(0.099));
        assert_eq!(histogram.quantile_ms(0.0), Some(0.001));
        assert_eq!(histogram.mean_ms(), Some(0.050));
    }

    #[test]
    fn the_slowest_of_a_few_is_their_p99() {
        let mut histogram = Histogram::default();
        for ms in [1, 2, 900] {
            histogram.record(Duration::from_millis(ms));
        }
        assert_eq!(histogram.quantile_ms(0.99), Some(900.0));
        assert_eq!(histogram.quantile_ms(0.5), Some(2.015), "rounded up within its bucket");
    }

    #[test]
    fn merging_is_counting_together() {
        let (mut left, mut right, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for us in 0..1000 {
            let duration = Duration::from_micros(us * us);
            if us % 3 == 0 {
                left.record(duration);
            } else {
                right.record(duration);
            }
            both.record(duration);
        }
        left.merge(&right);
        assert_eq!(left.count(), both.count());
        for quantile in [0.1, 0.5, 0.9, 0.99] {
            assert_eq!(left.quantile_ms(quantile), both.quantile_ms(quantile));
        }
        assert_eq!(left.mean_ms(), both.mean_ms());
    }

    #[test]
    fn nothing_counted_has_no_quantiles() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.5), None);
        assert_eq!(histogram.mean_ms(), None);
    }

    #[test]
    fn absurd_durations_stay_in_the_last_bucket() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.count(), 1);
        assert!(histogram.quantile_ms(0.5).is_some());
    }
}
