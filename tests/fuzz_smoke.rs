//! The fuzz targets without a fuzzer: each body runs over its seeds and over mutations of them from
//! a seeded generator.
//!
//! `POINTSMAN_FUZZ_SEED` replays what a failure prints; `POINTSMAN_FUZZ_ROUNDS` makes it longer.

#[path = "../fuzz/src/lib.rs"]
mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Inputs for each body unless the environment says otherwise: a few seconds in a debug build.
const ROUNDS: u64 = 100_000;

/// What mutations like to write: ends of lines, types, lengths at the edges.
const WORDS: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    "*",
    "$",
    "+",
    "-",
    ":",
    "%",
    "|",
    ">",
    "~",
    "=",
    "!",
    "_\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "0",
    "1",
    "-1",
    "-2",
    "01",
    "10",
    "64",
    "65",
    "4096",
    "4097",
    "1048576",
    "1048577",
    "536870912",
    "536870913",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "?",
    "\"",
    "'",
    "\\x",
    "\0",
    "GET",
    "SET",
    "BLOCK",
    "STREAMS",
    "nan",
    "1e308",
    "used_memory:",
    "master_repl_offset:-1",
    "slave0:ip=a,port=1,state=online,offset=1,lag=0",
    ",",
    "role:",
];

#[test]
fn requests_survive_mutation() {
    smoke("requests", ROUNDS, bodies::requests);
}

#[test]
fn replies_survive_mutation() {
    smoke("replies", ROUNDS, bodies::replies);
}

#[test]
fn questions_survive_mutation() {
    smoke("questions", ROUNDS, bodies::questions);
}

#[test]
fn info_survives_mutation() {
    smoke("info", ROUNDS / 10, bodies::info);
}

fn smoke(target: &str, rounds: u64, body: fn(&[u8])) {
    let directory = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .expect("seeds lie beside the targets")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| std::fs::read(path).expect("readable"))
        .collect();
    for seed in &seeds {
        body(seed);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("POINTSMAN_FUZZ_SEED");
    let rounds =
        number("POINTSMAN_FUZZ_ROUNDS").unwrap_or(if first.is_some() { 1 } else { rounds });
    let first = first.unwrap_or(1);
    for seed in first..first + rounds {
        let input = Mutator(seed).input(&seeds);
        if catch_unwind(AssertUnwindSafe(|| body(&input))).is_err() {
            panic!(
                "{target}: POINTSMAN_FUZZ_SEED={seed} fails on \"{}\"",
                input.escape_ascii()
            );
        }
    }
}

/// A generator of 64-bit numbers (SplitMix64) that makes inputs.
struct Mutator(u64);

impl Mutator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            self.mutate(&mut input, seeds);
        }
        input.truncate(4096);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + self.below(12)).min(input.len());
        match self.below(7) {
            0 if at < input.len() => input[at] = self.next() as u8,
            1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 => {
                input.drain(at..end);
            }
            3 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            4 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                input.splice(at..end, other[from..].iter().copied());
            }
            5 => input.truncate(at),
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..end, word.bytes());
            }
        }
    }
}
