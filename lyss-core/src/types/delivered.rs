//! What a stream has delivered so far, kept to be counted in case nobody reports its usage.

/// The most text of one stream that is kept, in bytes. What comes after it is taken to be like it.
const KEPT_MOST: usize = 256 * 1024;

/// A piece of generated text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where in the answer it belongs.
    pub slot: Slot,
    /// The text.
    pub text: String,
}

/// A text of an answer: its pieces are one text, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The choice.
    pub choice: u32,
    /// What of it.
    pub part: Part,
}

/// The texts of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The content.
    Content,
    /// The reasoning that is shown.
    Reasoning,
    /// The refusal.
    Refusal,
    /// The name of a tool call, by its index.
    CallName(u32),
    /// The arguments of a tool call, by its index.
    CallArguments(u32),
}

/// The texts of an answer, put together from their pieces.
#[derive(Debug, Clone, Default)]
pub struct Delivered {
    texts: Vec<(Slot, String)>,
    kept: usize,
    beyond: usize,
}

impl Delivered {
    /// Takes in a piece.
    pub fn push(&mut self, piece: Piece) {
        if piece.text.is_empty() {
            return;
        }
        if self.kept + piece.text.len() > KEPT_MOST {
            self.beyond += piece.text.len();
            return;
        }
        self.kept += piece.text.len();
        let known = self
            .texts
            .iter_mut()
            .rev()
            .find(|(slot, _)| *slot == piece.slot);
        match known {
            Some((_, text)) => text.push_str(&piece.text),
            None => self.texts.push((piece.slot, piece.text)),
        }
    }

    /// Lets go of the texts: the usage is known.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Bytes that are kept.
    pub fn size(&self) -> usize {
        self.kept
    }

    /// The sum of what a function says of each text, and in proportion of what was not kept.
    pub fn sum(&self, of: impl Fn(Slot, &str) -> u64) -> u64 {
        let kept: u64 = self.texts.iter().map(|(slot, text)| of(*slot, text)).sum();
        if self.beyond == 0 {
            return kept;
        }
        let all = u128::from(kept) * (self.kept + self.beyond) as u128;
        u64::try_from(all.div_ceil(self.kept.max(1) as u128)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(choice: u32, part: Part, text: &str) -> Piece {
        Piece {
            slot: Slot { choice, part },
            text: text.into(),
        }
    }

    #[test]
    fn pieces_are_put_together_by_slot() {
        let mut delivered = Delivered::default();
        for (choice, part, text) in [
            (0, Part::Reasoning, "hm"),
            (0, Part::Content, "he"),
            (1, Part::Content, "other"),
            (0, Part::Content, "llo"),
            (0, Part::CallName(1), "f"),
            (0, Part::CallArguments(1), "{}"),
            (0, Part::Content, ""),
        ] {
            delivered.push(piece(choice, part, text));
        }
        let texts: Vec<&str> = delivered.texts.iter().map(|(_, text)| &**text).collect();
        assert_eq!(texts, ["hm", "hello", "other", "f", "{}"]);
        assert_eq!(
            (delivered.size(), delivered.sum(|_, text| text.len() as u64)),
            (15, 15)
        );
        delivered.forget();
        assert_eq!((delivered.size(), delivered.sum(|_, _| 1)), (0, 0));
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let mut delivered = Delivered::default();
        for _ in 0..1_000 {
            delivered.push(piece(0, Part::Content, &"x".repeat(1_024)));
        }
        assert_eq!(delivered.size(), KEPT_MOST);
        assert_eq!(delivered.sum(|_, text| text.len() as u64), 1_024_000);
    }
}
