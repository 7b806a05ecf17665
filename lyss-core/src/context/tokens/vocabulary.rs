//! OpenAI's vocabularies, loaded once a process when they are first needed, and counting with them in bounded time.
//!
//! tiktoken-rs takes more than linear time for a long text without a break (1 MB of one letter: 0.8 s) and panics in one of
//! white space (its regular expression engine gives up). Texts are therefore counted in segments of at most [`SEGMENT`]
//! bytes, cut where both vocabularies certainly cut, too: the sum is the count of the whole. Only where a segment has no
//! such place (no white space, punctuation or digit beside a letter in 8 KiB) it is cut anywhere, and the sum may be off
//! by a token or two for each such cut.

use std::{collections::HashSet, sync::OnceLock};

use tiktoken_rs::CoreBPE;

/// The longest piece of text that is handed over at once, in bytes.
const SEGMENT: usize = 8 * 1024;

/// A vocabulary that loads when it is first used: 25 to 50 MB and 0.1 to 0.3 s.
pub(super) struct Vocabulary {
    load: fn() -> Option<CoreBPE>,
    loaded: OnceLock<Option<CoreBPE>>,
}

pub(super) static O200K: Vocabulary = Vocabulary::new(|| tiktoken_rs::o200k_base().ok());
pub(super) static CL100K: Vocabulary = Vocabulary::new(|| tiktoken_rs::cl100k_base().ok());

impl Vocabulary {
    const fn new(load: fn() -> Option<CoreBPE>) -> Self {
        Self {
            load,
            loaded: OnceLock::new(),
        }
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded.get().is_some()
    }

    /// Tokens of a text; special tokens in it count as the text they are. `None` if the vocabulary cannot be used, which
    /// does not happen: it is part of the program. Blocks while the vocabulary loads.
    pub fn count(&self, text: &str) -> Option<u64> {
        let bpe = self.loaded.get_or_init(self.load).as_ref()?;
        let none = HashSet::new();
        segments(text, SEGMENT)
            .map(|segment| Some(bpe.encode(segment, &none).ok()?.0.len() as u64))
            .sum()
    }
}

/// The text in segments of at most `most` bytes (4 at the least).
fn segments(mut text: &str, most: usize) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (segment, rest) = text.split_at_checked(cut(text, most))?;
        text = rest;
        (!segment.is_empty()).then_some(segment)
    })
}

/// Where the first segment of a text ends.
fn cut(text: &str, most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    let end = text.floor_char_boundary(most.max(4));
    let mut next = text.get(end..).and_then(|rest| rest.chars().next());
    for (at, char) in text.get(..end).unwrap_or_default().char_indices().rev() {
        if next.is_some_and(|next| is_cut(char, next)) {
            return at + char.len_utf8();
        }
        next = Some(char);
    }
    end
}

/// Whether the regular expressions of both vocabularies end a piece between these two characters, whatever surrounds them.
///
/// # Source
/// `tiktoken_ext/openai_public.py`: no piece has a blank after anything but white space; letters and digits are never in
/// one piece, nor is either followed by a line end or punctuation in one (but for the apostrophe of a contraction).
fn is_cut(before: char, after: char) -> bool {
    match after {
        ' ' => !before.is_whitespace(),
        'a'..='z' | 'A'..='Z' => before.is_ascii_digit(),
        '0'..='9' => is_letter(before),
        '\n' | '\r' => is_letter(before) || before.is_ascii_digit(),
        '\'' => false,
        '!'..='~'
        | '、'
        | '。'
        | '「'
        | '」'
        | '《'
        | '》'
        | '！'
        | '（'
        | '）'
        | '，'
        | '：'
        | '；'
        | '？' => is_letter(before) || before.is_ascii_digit(),
        _ => false,
    }
}

/// Whether a character is a letter (Unicode's category L) of a script that is common.
fn is_letter(char: char) -> bool {
    matches!(char,
        'a'..='z' | 'A'..='Z'
        | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{24F}'
        | 'Α'..='Ρ' | 'Σ'..='Ω' | 'α'..='ω'
        | '\u{400}'..='\u{481}'
        | 'ぁ'..='ゖ' | 'ァ'..='ヺ'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '가'..='힣')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn whole(vocabulary: &Vocabulary, text: &str) -> u64 {
        vocabulary.count("");
        let bpe = vocabulary.loaded.get().unwrap().as_ref().unwrap();
        bpe.encode_ordinary(text).len() as u64
    }

    /// Texts with all that the regular expressions look at, and enough places to cut.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-zA-Z]{1,9}",
            "[0-9]{1,7}",
            "[ \n\r\t]{1,4}",
            "[.,;:!?(){}<>/'\"_-]{1,4}",
            "'(s|S|t|re|VE|ll|d)",
            "[你好世界的我们。，！？、々]{1,5}",
            "[éÜßñЖжЁёΣσ가힣ぁんァヺ]{1,4}",
            "\\PC{1,3}",
            "[\u{300}-\u{310}\u{FE0F}\u{200D}👍🏽👩‍]{1,4}",
            "[\u{a0}\u{3000}\u{2003}\u{85}]{1,2}",
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn segments_count_as_the_whole(text in text(), most in 4_usize..64) {
            // Where every cut is a certain one, nothing is lost.
            let mut at = 0;
            let certain = segments(&text, most).all(|segment| {
                at += segment.len();
                let (left, right) = text.split_at(at);
                right.is_empty() || is_cut(left.chars().next_back().unwrap(), right.chars().next().unwrap())
            });
            prop_assert_eq!(segments(&text, most).collect::<String>(), text.clone());
            prop_assert!(segments(&text, most).all(|segment| segment.len() <= most));
            if certain {
                for vocabulary in [&O200K, &CL100K] {
                    let sum: u64 = segments(&text, most).map(|segment| whole(vocabulary, segment)).sum();
                    prop_assert_eq!(sum, whole(vocabulary, &text));
                }
            }
        }
    }

    #[test]
    fn hostile_texts_take_bounded_time() {
        O200K.count("");
        let many = 1 << 20;
        let varied = (0..many as u32 / 3).map(|index| {
            char::from_u32(0x4E00 + index.wrapping_mul(2_654_435_761) % 20_000).unwrap()
        });
        for text in [
            "a".repeat(many),
            "A".repeat(many),
            " ".repeat(many) + "x",
            "\n".repeat(many),
            "1".repeat(many),
            "👍".repeat(many / 4),
            "👨‍👩‍👧".repeat(many / 18),
            "e\u{301}".repeat(many / 3),
            "(".repeat(many),
            varied.collect(),
            "a ".repeat(many / 2),
        ] {
            let start = Instant::now();
            let tokens = O200K.count(&text).unwrap();
            let took = start.elapsed();
            let name: String = text.chars().take(3).collect();
            assert!(tokens > 0 && tokens <= text.len() as u64, "{name:?}");
            // A third of a second where nothing else runs; in one go the letters take 0.8 s, and the blanks panic.
            assert!(took < Duration::from_secs(5), "{name:?}: {took:?}");
        }
    }
}
