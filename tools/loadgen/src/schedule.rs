//! When an open loop sends: a pure function of the message's number.

use std::time::Duration;

/// A fixed rate over a fixed time. Slots are numbered from 0 and never depend on how the server answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OpenLoop {
    per_second: u32,
    slots: u32,
}

impl OpenLoop {
    /// Most slots of one schedule, whatever was asked for.
    pub(crate) const MAX_SLOTS: u32 = 5_000_000;

    /// A schedule of `per_second` slots (at least one) for `length`.
    pub(crate) fn new(per_second: u32, length: Duration) -> Self {
        let per_second = per_second.max(1);
        let slots = u128::from(per_second) * length.as_micros() / 1_000_000;
        let slots = u32::try_from(slots).unwrap_or(Self::MAX_SLOTS).min(Self::MAX_SLOTS);
        Self { per_second, slots }
    }

    /// Number of slots.
    pub(crate) fn slots(self) -> u32 {
        self.slots
    }

    /// When slot `slot` is due, counted from the start.
    pub(crate) fn due(self, slot: u32) -> Duration {
        Duration::from_nanos(u64::from(slot) * 1_000_000_000 / u64::from(self.per_second))
    }

    /// The slots of worker `worker` out of `workers` (at least one): every slot belongs to exactly one worker.
    pub(crate) fn slots_of(self, worker: u32, workers: u32) -> impl Iterator<Item = u32> {
        (worker..self.slots).step_by(workers.max(1) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_evenly_spaced_and_do_not_drift() {
        let schedule = OpenLoop::new(3, Duration::from_secs(10));
        assert_eq!(schedule.slots(), 30);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(3), Duration::from_secs(1));
        assert_eq!(schedule.due(29), Duration::from_nanos(9_666_666_666));
    }

    #[test]
    fn every_slot_belongs_to_one_worker() {
        let schedule = OpenLoop::new(500, Duration::from_millis(1_501));
        let mut slots: Vec<u32> = (0..7).flat_map(|worker| schedule.slots_of(worker, 7)).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..schedule.slots()).collect::<Vec<_>>());
    }

    #[test]
    fn the_number_of_slots_is_bounded() {
        let schedule = OpenLoop::new(u32::MAX, Duration::from_secs(100_000));
        assert_eq!(schedule.slots(), OpenLoop::MAX_SLOTS);
    }

    #[test]
    fn a_rate_of_zero_is_one_per_second() {
        assert_eq!(OpenLoop::new(0, Duration::from_secs(2)).slots(), 2);
    }
}
