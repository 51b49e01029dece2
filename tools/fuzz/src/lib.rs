//! Runs properties over what a stranger might send.
//!
//! A target is a test of the crate whose code it tries, so that it reaches what is private there, and runs with overflow
//! checks on the toolchain that everything else is built with. Its inputs are made from seeds, which are valid, by
//! changes at random; some of what comes out becomes a seed of its own, so that changes add up. There is no feedback from
//! the code that runs (that needs a nightly compiler); seeds and words that reach deep take its place.
//!
//! In usual test runs a target tries a few hundred inputs, the same each time. `FUZZ_SECONDS=60` has it go on for so
//! long, from a seed that is printed first, and that `FUZZ_SEED` brings back.
//!
//! How long an input takes is not judged: machines differ. What work an input may cause is for the property to bound, in
//! sizes and counts. An input that takes for ever keeps its test from ending; the test runner ends it and shows the seed.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Inputs of a usual test run.
const FEW: usize = 300;
/// The longest input that is made.
const MAX_BYTES: usize = 64 * 1_024;
/// Inputs that others are made from, beside the seeds; a new one takes a random place.
const MAX_CORPUS: usize = 512;
/// Changes that are made to one input at once.
const MAX_CHANGES: usize = 8;
/// The longest run of bytes that one change repeats.
const MAX_REPEATS: usize = 2_048;
/// Bytes of an input that are shown when it breaks something.
const SHOWN_BYTES: usize = 4_096;

/// Tries a property on inputs that are made from these seeds, and from words that mean something in them.
///
/// # Panics
///
/// If the property does: after the input was printed.
pub fn fuzz(seeds: &[&[u8]], words: &[&[u8]], property: impl Fn(&[u8])) {
    let seconds: Option<u64> = number("FUZZ_SECONDS");
    let seed = match seconds {
        None => 1,
        Some(_) => number("FUZZ_SEED").unwrap_or_else(|| rand::rng().random()),
    };
    let mut maker = Maker {
        random: StdRng::seed_from_u64(seed),
        corpus: seeds.iter().map(|seed| seed.to_vec()).collect(),
        seeds: seeds.len(),
        words: words.iter().map(|word| word.to_vec()).collect(),
    };
    println!("FUZZ_SEED={seed}");
    let begun = Instant::now();
    let until = seconds.map(Duration::from_secs);
    let mut tried = 0;
    for seed_input in seeds {
        judge(seed, seed_input, &property);
    }
    while until.map_or(tried < FEW, |until| begun.elapsed() < until) {
        judge(seed, &maker.next(), &property);
        tried += 1;
    }
    println!("{tried} inputs in {} s", begun.elapsed().as_secs());
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn judge(seed: u64, input: &[u8], property: &impl Fn(&[u8])) {
    let outcome = catch_unwind(AssertUnwindSafe(|| property(input)));
    if let Err(panic) = outcome {
        println!("FUZZ_SEED={seed}; the input of {} bytes:\n{}", input.len(), shown(input));
        resume_unwind(panic);
    }
}

/// An input as the inside of a byte string.
fn shown(input: &[u8]) -> String {
    let mut text = String::new();
    for byte in input.iter().take(SHOWN_BYTES) {
        text.extend(byte.escape_ascii().map(char::from));
    }
    text
}

/// Makes inputs.
struct Maker {
    random: StdRng,
    /// The seeds, then what was made of them.
    corpus: Vec<Vec<u8>>,
    seeds: usize,
    words: Vec<Vec<u8>>,
}

impl Maker {
    fn next(&mut self) -> Vec<u8> {
        let mut input = self.any();
        for _ in 0..self.random.random_range(1..=MAX_CHANGES) {
            self.change(&mut input);
        }
        input.truncate(MAX_BYTES);
        if self.random.random_ratio(1, 8) {
            self.remember(&input);
        }
        input
    }

    /// Half of all inputs begin at a seed, which alone is sure to be read to its end.
    fn any(&mut self) -> Vec<u8> {
        let among = if self.random.random() { self.seeds } else { self.corpus.len() };
        let at = self.random.random_range(0..among.max(1));
        self.corpus.get(at).cloned().unwrap_or_default()
    }

    fn remember(&mut self, input: &[u8]) {
        if self.corpus.len() < self.seeds + MAX_CORPUS {
            self.corpus.push(input.to_vec());
            return;
        }
        let at = self.random.random_range(self.seeds..self.corpus.len());
        if let Some(place) = self.corpus.get_mut(at) {
            *place = input.to_vec();
        }
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.random_range(0..=input.len());
        let to = self.random.random_range(at..=input.len().min(at.saturating_add(64)));
        match self.random.random_range(0..10) {
            0 | 1 => self.set(input, at),
            2 => insert(input, at, &[self.random.random::<u8>()]),
            3 => drop(input.drain(at..to)),
            4 | 5 => {
                let word = self.word();
                insert(input, at, &word);
            }
            6 => {
                let word = self.word();
                drop(input.drain(at..to));
                insert(input, at, &word);
            }
            7 => {
                let part = input.get(at..to).unwrap_or_default();
                let times = self.random.random_range(1..=MAX_REPEATS) / part.len().max(1);
                let repeated = part.repeat(times.max(1));
                insert(input, at, &repeated);
            }
            8 => {
                let other = self.any();
                let from = self.random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(other.get(from..).unwrap_or_default());
            }
            _ => input.truncate(at),
        }
        input.truncate(MAX_BYTES);
    }

    /// Changes a byte: a bit of it, or to an edge of what numbers can be.
    fn set(&mut self, input: &mut [u8], at: usize) {
        let bit = 1 << self.random.random_range(0..8);
        let edge = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b' '];
        let edge = edge.get(self.random.random_range(0..edge.len())).copied();
        let flip = self.random.random();
        if let Some(byte) = input.get_mut(at) {
            *byte = if flip { *byte ^ bit } else { edge.unwrap_or_default() };
        }
    }

    fn word(&mut self) -> Vec<u8> {
        let at = self.random.random_range(0..self.words.len().max(1));
        self.words.get(at).cloned().unwrap_or_default()
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let behind = input.split_off(at.min(input.len()));
    input.extend_from_slice(bytes);
    input.extend_from_slice(&behind);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn finds_what_seeds_and_words_lead_to() {
        let found = Cell::new(false);
        fuzz(&[b"{\"a\":1}"], &[b"\"b\"", b"\\"], |input| {
            found.set(
                found.get()
                    || input.windows(4).any(|part| part == b"\\\"a\"" || part == b"\"b\"\""),
            );
        });
        assert!(found.get());
    }

    #[test]
    fn a_broken_property_is_told() {
        let broken = catch_unwind(|| fuzz(&[b"abc"], &[], |input| assert!(input.len() < 5)));
        assert!(broken.is_err());
    }

    #[test]
    fn inputs_are_bounded_and_change() {
        let (longest, kinds) = (Cell::new(0), Cell::new(0));
        let sevens = vec![7; MAX_BYTES];
        fuzz(&[&sevens], &[&[1; 1_000]], |input| {
            longest.set(longest.get().max(input.len()));
            kinds.set(kinds.get() + usize::from(input != sevens));
        });
        assert_eq!(longest.get(), MAX_BYTES);
        assert!(kinds.get() > FEW / 2);
    }
}
