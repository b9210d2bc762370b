//! Salsa20, eight blocks at once, because no crate offers that: the whole of it is additions, rotations and XOR of 32-bit
//! words, without a branch or an address that depends on a secret. `boxes.rs` tests it against the crate `salsa20`.

use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch, u32x8};
use std::sync::LazyLock;
use zeroize::Zeroizing;

const LANES: usize = 8;
const BLOCK: usize = 64;

/// What the processor can do.
static LEVEL: LazyLock<Level> = LazyLock::new(Level::new);

/// The stream of one key and nonce. Its first 32 bytes are for the tag; the rest is XORed with the text.
pub(super) struct Stream {
    /// The words of the first block.
    state: Zeroizing<[u32; 16]>,
    first: Zeroizing<[u8; LANES * BLOCK]>,
}

impl Stream {
    pub(super) fn new(key: &[u8; 32], nonce: &[u8; 8]) -> Self {
        let word = |bytes: &[u8], i: usize| {
            bytes.as_chunks().0.get(i).map_or(0, |word: &[u8; 4]| u32::from_le_bytes(*word))
        };
        let constant = |i| word(b"expand 32-byte k", i);
        let (k, n) = (|i| word(key, i), |i| word(nonce, i));
        let state = [
            [constant(0), k(0), k(1), k(2)],
            [k(3), constant(1), n(0), n(1)],
            [0, 0, constant(2), k(4)],
            [k(5), k(6), k(7), constant(3)],
        ];
        let mut state = Self { state: Zeroizing::new([0; 16]), first: Zeroizing::new([0; LANES * BLOCK]) }
            .with(state.as_flattened());
        blocks(&state.state, 0, &mut state.first);
        state
    }

    fn with(mut self, words: &[u32]) -> Self {
        self.state.copy_from_slice(words);
        self
    }

    /// For the tag.
    pub(super) fn key(&self) -> &[u8] {
        &self.first[..32]
    }

    pub(super) fn apply(self, data: &mut [u8]) {
        let (head, rest) = data.split_at_mut(data.len().min(LANES * BLOCK - 32));
        xor(head, &self.first[32..]);
        let mut more = self.first;
        for (i, chunk) in rest.chunks_mut(LANES * BLOCK).enumerate() {
            blocks(&self.state, ((i + 1) * LANES) as u64, &mut more);
            xor(chunk, &*more);
        }
    }
}

fn xor(data: &mut [u8], stream: &[u8]) {
    for (byte, key) in data.iter_mut().zip(stream) {
        *byte ^= key;
    }
}

/// The blocks from `counter` on.
fn blocks(state: &[u32; 16], counter: u64, out: &mut [u8; LANES * BLOCK]) {
    dispatch!(*LEVEL, simd => blocks_with(simd, state, counter, out));
}

#[inline(always)]
fn blocks_with<S: Simd>(simd: S, state: &[u32; 16], counter: u64, out: &mut [u8; LANES * BLOCK]) {
    // Each vector has one word of every block.
    let mut words: [u32x8<S>; 16] = std::array::from_fn(|i| u32x8::simd_from(simd, state[i]));
    words[8] = u32x8::from_fn(simd, |lane| (counter + lane as u64) as u32);
    words[9] = u32x8::from_fn(simd, |lane| ((counter + lane as u64) >> 32) as u32);
    let before = words;
    for _ in 0..10 {
        quarter(&mut words, [0, 4, 8, 12]);
        quarter(&mut words, [5, 9, 13, 1]);
        quarter(&mut words, [10, 14, 2, 6]);
        quarter(&mut words, [15, 3, 7, 11]);
        quarter(&mut words, [0, 1, 2, 3]);
        quarter(&mut words, [5, 6, 7, 4]);
        quarter(&mut words, [10, 11, 8, 9]);
        quarter(&mut words, [15, 12, 13, 14]);
    }
    let mut blocks = [[0; 16]; LANES];
    for (i, (word, before)) in words.into_iter().zip(before).enumerate() {
        let sum = word + before;
        for (lane, block) in blocks.iter_mut().enumerate() {
            block[i] = sum[lane];
        }
    }
    for (to, word) in out.as_chunks_mut().0.iter_mut().zip(blocks.as_flattened()) {
        *to = u32::to_le_bytes(*word);
    }
}

#[inline(always)]
fn quarter<S: Simd>(words: &mut [u32x8<S>; 16], [a, b, c, d]: [usize; 4]) {
    words[b] ^= rotate(words[a] + words[d], 7);
    words[c] ^= rotate(words[b] + words[a], 9);
    words[d] ^= rotate(words[c] + words[b], 13);
    words[a] ^= rotate(words[d] + words[c], 18);
}

#[inline(always)]
fn rotate<S: Simd>(x: u32x8<S>, by: u32) -> u32x8<S> {
    (x << by) | (x >> (32 - by))
}
