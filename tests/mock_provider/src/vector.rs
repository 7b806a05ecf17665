//! Deterministic embedding vectors.

/// A unit vector made from the text alone: equal texts, equal vectors.
pub(crate) fn of(input: &[u8], dimensions: usize) -> Vec<f32> {
    let mut state = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let raw: Vec<f64> = (0..dimensions)
        .map(|_| {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            // 32 bits fit an f64 exactly.
            f64::from(u32::try_from(word >> 32).unwrap_or(0)) / f64::from(u32::MAX) - 0.5
        })
        .collect();
    let length = raw
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
        .max(f64::MIN_POSITIVE);
    #[allow(clippy::cast_possible_truncation)] // embeddings are float32 on the wire
    raw.iter().map(|value| (value / length) as f32).collect()
}

/// `[0.1,-0.2]` with the shortest digits that name each float32.
pub(crate) fn json(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(ToString::to_string).collect();
    format!("[{}]", numbers.join(","))
}
