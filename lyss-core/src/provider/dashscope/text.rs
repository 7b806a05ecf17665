//! The text of a stream, frame by frame, whichever way the provider sends it.
//!
//! `incremental_output: true` is always asked for, yet a model that does not know it repeats in every frame the whole
//! text so far. Which way a stream goes is told by its frames: a part that does not begin with the one before it is
//! the rest of an incremental stream, several that do are a cumulative one. Text is held back only while that is open,
//! which an ordinary answer settles with its second frame.

/// Characters repeated at the start of frames that make a stream cumulative.
const CERTAIN: usize = 8;

/// The same for a stream that ends here: a short answer whose last frame repeats it.
const CERTAIN_AT_END: usize = 2;

/// The same part so often in a row is a text that repeats itself: a cumulative stream grows.
const STILL: usize = 8;

/// Which way a stream goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Too early to say.
    #[default]
    Open,
    /// A frame brings what is new.
    Incremental,
    /// A frame brings the whole text so far.
    Cumulative,
}

/// One text of a stream: a choice's content, its reasoning, or the arguments of a tool call.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// What has been passed on; not kept in an incremental stream.
    passed: String,
    /// The last part that was not empty, while the mode is open.
    last: String,
    /// What is held back while the mode is open.
    held: String,
    /// Characters repeated so far.
    repeated: usize,
    /// Frames in a row that only repeat the part before.
    still: usize,
}

impl Text {
    /// Takes a frame's part and returns what to pass on.
    pub(super) fn push(&mut self, mode: &mut Mode, part: String, at_end: bool) -> String {
        if part.is_empty() && !self.held.is_empty() && *mode == Mode::Cumulative {
            // Another text of the stream has told the mode since.
            let whole = std::mem::take(&mut self.last);
            return self.suffix(whole);
        }
        match *mode {
            Mode::Incremental => self.release(part),
            Mode::Cumulative => self.suffix(part),
            Mode::Open => self.decide(mode, part, at_end),
        }
    }

    fn decide(&mut self, mode: &mut Mode, part: String, at_end: bool) -> String {
        if part.is_empty() && self.held.is_empty() {
            return part;
        }
        if self.passed.is_empty() {
            self.passed.clone_from(&part);
            self.last.clone_from(&part);
            return part;
        }
        if part.is_empty() || !part.starts_with(&self.last) {
            *mode = Mode::Incremental;
            return self.release(part);
        }
        if part.len() > self.last.len() || at_end {
            self.repeated += self.last.chars().count();
            self.still = 0;
        } else {
            self.still += 1;
        }
        let enough = if at_end { CERTAIN_AT_END } else { CERTAIN };
        if self.repeated >= enough {
            *mode = Mode::Cumulative;
            return self.suffix(part);
        }
        if at_end || self.still >= STILL {
            *mode = Mode::Incremental;
            return self.release(part);
        }
        self.held.push_str(&part);
        self.last = part;
        String::new()
    }

    /// What is held back and the part.
    fn release(&mut self, part: String) -> String {
        if self.held.is_empty() {
            return part;
        }
        std::mem::take(&mut self.held) + &part
    }

    /// What of the text so far has not been passed on, compared by characters.
    fn suffix(&mut self, whole: String) -> String {
        self.held.clear();
        let common: usize = whole
            .chars()
            .zip(self.passed.chars())
            .take_while(|(new, old)| new == old)
            .map(|(new, _)| new.len_utf8())
            .sum();
        let more = whole.get(common..).unwrap_or_default().to_owned();
        if !more.is_empty() {
            self.passed = whole;
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out of the parts, and the mode found; the last part is the finishing frame's.
    fn run(parts: &[&str]) -> (String, Mode) {
        let (mut text, mut mode) = (Text::default(), Mode::default());
        let mut out = String::new();
        for (index, part) in parts.iter().enumerate() {
            out += &text.push(&mut mode, (*part).to_owned(), index + 1 == parts.len());
        }
        (out, mode)
    }

    #[test]
    fn tells_incremental_from_cumulative() {
        for (parts, expected) in [
            (vec!["Hel", "lo", ""], "Hello"),
            (vec!["Hel", "Hello", "Hello"], "Hello"),
            (
                vec!["", "Hel", "Hello wor", "Hello world", "Hello world"],
                "Hello world",
            ),
            (vec!["ha", "ha", "ha", "!", ""], "hahaha!"),
            (vec!["ha", "haha", ""], "hahaha"),
            (vec!["1", "1", ""], "11"),
            (vec!["1", "1"], "11"),
            (vec!["OK", "OK"], "OK"),
            (vec!["-", "--", "-", "x", ""], "----x"),
            (vec!["你", "你好", "你好，世界", "你好，世界"], "你好，世界"),
        ] {
            assert_eq!(run(&parts).0, expected, "{parts:?}");
        }
    }

    #[test]
    fn a_frame_that_shrinks_adds_nothing() {
        let parts = ["Hello wo", "Hello wor", "Hello", "Hello world", ""];
        assert_eq!(run(&parts), ("Hello world".into(), Mode::Cumulative));
    }

    /// Else a text that repeats itself would be held back without bound, and its client would see no progress.
    #[test]
    fn a_repeated_part_is_not_held_back_for_long() {
        let (mut text, mut mode) = (Text::default(), Mode::default());
        let mut out = String::new();
        for _ in 0..=STILL {
            out += &text.push(&mut mode, "word ".into(), false);
        }
        assert_eq!((out, mode), ("word ".repeat(STILL + 1), Mode::Incremental));
        assert_eq!(text.push(&mut mode, "word ".into(), false), "word ");
    }

    #[test]
    fn a_cumulative_stream_may_stand_still_for_a_moment() {
        let mut frames = vec!["Hel"; STILL];
        frames.extend(["Hello wor", "Hello world", "Hello world"]);
        assert_eq!(run(&frames), ("Hello world".into(), Mode::Cumulative));
    }

    proptest! {
        #[test]
        fn cumulative_frames_give_the_text_once(parts in proptest::collection::vec("\\PC{1,6}", 3..12)) {
            let whole: String = parts.concat();
            let mut so_far = String::new();
            let mut frames: Vec<String> = parts.iter().map(|part| { so_far += part; so_far.clone() }).collect();
            frames.push(whole.clone());
            let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&frames).0, whole);
        }

        #[test]
        fn incremental_frames_that_differ_are_joined(first in "[a-m]{1,6}", rest in proptest::collection::vec("[n-z]{1,6}", 1..12)) {
            let mut frames = vec![first.as_str()];
            frames.extend(rest.iter().map(String::as_str));
            let whole = frames.concat();
            frames.push("");
            prop_assert_eq!(run(&frames).0, whole);
        }
    }
}
