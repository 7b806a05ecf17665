//! Tokens of a text by its script, for vocabularies that are not at hand.

/// Tokens by kind of character.
#[derive(Debug, PartialEq)]
pub(super) struct Weights {
    /// Of a word of ASCII letters, and of each of its letters.
    word: f32,
    letter: f32,
    /// Of a digit.
    digit: f32,
    /// Of an ASCII sign.
    sign: f32,
    /// Of white space that is more than one blank.
    space: f32,
    /// Of a Chinese character.
    han: f32,
    /// Of a Japanese syllable.
    kana: f32,
    /// Of a Korean syllable.
    hangul: f32,
    /// Of a letter of another alphabet.
    alphabet: f32,
    /// Of a UTF-8 byte of anything else.
    byte: f32,
}

/// Measured with Qwen's own vocabulary.
pub(super) const QWEN: Weights = Weights {
    word: 0.85,
    letter: 0.06,
    digit: 1.0,
    sign: 0.65,
    space: 0.8,
    han: 0.65,
    kana: 0.8,
    hangul: 1.0,
    alphabet: 0.4,
    byte: 0.6,
};

/// The mean of the vocabularies at hand.
pub(super) const GENERAL: Weights = Weights {
    word: 0.85,
    letter: 0.06,
    digit: 0.6,
    sign: 0.65,
    space: 0.8,
    han: 0.85,
    kana: 0.9,
    hangul: 1.0,
    alphabet: 0.4,
    byte: 0.6,
};

/// What is counted of a text.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Shape {
    words: u32,
    letters: u32,
    digits: u32,
    signs: u32,
    spaces: u32,
    han: u32,
    kana: u32,
    hangul: u32,
    alphabet: u32,
    bytes: u32,
}

/// An estimate of the tokens of a text, rounded up, at most its bytes.
pub(super) fn estimate(text: &str, weights: &Weights) -> u64 {
    let mut sum = 0.0;
    // Counters of one piece cannot overflow.
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(1 << 24));
        sum += f64::from(shape(piece).tokens(weights));
        rest = after;
    }
    (sum.ceil() as u64).min(text.len() as u64)
}

fn shape(text: &str) -> Shape {
    let mut shape = Shape::default();
    let mut in_word = false;
    let mut blank = 0_u32;
    for char in text.chars() {
        let letter = char.is_ascii_alphabetic();
        shape.words += u32::from(letter && !in_word);
        in_word = letter;
        let space = char.is_ascii_whitespace();
        if space {
            // One blank belongs to the word after it.
            blank += if char == ' ' { 1 } else { 2 };
            continue;
        }
        shape.spaces += u32::from(blank > 1);
        blank = 0;
        match char {
            'a'..='z' | 'A'..='Z' => shape.letters += 1,
            '0'..='9' => shape.digits += 1,
            '\0'..='\x7f' => shape.signs += 1,
            '\u{3040}'..='\u{30FF}' => shape.kana += 1,
            '\u{3400}'..='\u{9FFF}' | '\u{3000}'..='\u{303F}' | '\u{FF00}'..='\u{FFEF}' => {
                shape.han += 1;
            }
            '\u{AC00}'..='\u{D7A3}' => shape.hangul += 1,
            '\u{80}'..='\u{52F}' => shape.alphabet += 1,
            char => shape.bytes += char.len_utf8() as u32,
        }
    }
    shape.spaces += u32::from(blank > 0);
    shape
}

impl Shape {
    fn tokens(self, weights: &Weights) -> f32 {
        [
            (self.words, weights.word),
            (self.letters, weights.letter),
            (self.digits, weights.digit),
            (self.signs, weights.sign),
            (self.spaces, weights.space),
            (self.han, weights.han),
            (self.kana, weights.kana),
            (self.hangul, weights.hangul),
            (self.alphabet, weights.alphabet),
            (self.bytes, weights.byte),
        ]
        .into_iter()
        .map(|(count, weight)| count as f32 * weight)
        .sum()
    }
}
