//! Counts server-sent events without looking into them.

/// Counts events across reads that may end anywhere.
#[derive(Debug, Default)]
pub struct EventCounter {
    /// Bytes of the current line, up to what tells a `[DONE]` line apart.
    line: Vec<u8>,
    has_data: bool,
    done: bool,
}

const DONE: &[u8] = b"data: [DONE]";

impl EventCounter {
    /// Takes the next bytes of the stream; returns how many data events ended in
    /// them, `[DONE]` not counted.
    pub fn feed(&mut self, bytes: &[u8]) -> u64 {
        let mut events = 0;
        for &byte in bytes {
            if byte == b'\r' {
                continue;
            }
            if byte != b'\n' {
                // One byte more than `[DONE]` needs, so that a longer line is not taken for it.
                if self.line.len() <= DONE.len() {
                    self.line.push(byte);
                }
                continue;
            }
            if self.line.is_empty() {
                events += u64::from(self.has_data);
                self.has_data = false;
            } else if self.line == DONE {
                self.done = true;
            } else if self.line.starts_with(b"data:") {
                self.has_data = true;
            }
            self.line.clear();
        }
        events
    }

    /// Whether `data: [DONE]` was seen.
    pub fn done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"data: {\"a\":1}\n\n: comment\n\ndata: {\"b\":2}\r\n\r\ndata: [DONE]\n\n";

    #[test]
    fn events_are_counted_wherever_the_bytes_are_split() {
        for split in 0..=STREAM.len() {
            let (head, tail) = STREAM.split_at(split);
            let mut counter = EventCounter::default();
            let events = counter.feed(head) + counter.feed(tail);
            assert_eq!((events, counter.done()), (2, true), "split at {split}");
        }
    }

    #[test]
    fn a_cut_stream_is_not_done() {
        let mut counter = EventCounter::default();
        assert_eq!(counter.feed(b"data: 1\n\ndata: [DONE"), 1);
        assert!(!counter.done());
        let mut counter = EventCounter::default();
        counter.feed(b"data: [DONE]!\n\n");
        assert!(!counter.done());
    }
}
