//! Server-sent events, decoded as the bytes arrive.
//!
//! Pure: bytes go in with [`Decoder::push`], events come out by iterating. Each byte is looked at once, whatever the
//! cuts between pieces (inside a character, between CR and LF); an event that lies whole in one piece is a slice of
//! it, one that does not is copied once. No event may be larger than the limit given.
//!
//! # Source
//! WHATWG HTML, section 9.2.6 "Interpreting an event stream". One deviation: an event whose final blank line is
//! missing is delivered at the end, because some services leave it out.

use bytes::{Bytes, BytesMut};

use crate::{
    error::{Error, ErrorKind, Result},
    resilience::stream_buffer::{FREE, Share, StreamBuffer},
};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Bytes of field names and line ends that are not counted against the limit, so that a limit of 1 MiB admits 1 MiB
/// of data.
const FRAMING: usize = 64;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `data` lines, joined by LF. Not checked to be UTF-8.
    pub data: Bytes,
    /// The last `event` line that is not empty.
    pub event: Option<Bytes>,
    /// The event as it came, if that is exactly `data: `, one line, LF, LF; it then shares its bytes with `data`.
    pub raw: Option<Bytes>,
    /// The whole block, for what is read seldom.
    block: Bytes,
}

impl Event {
    /// The comment lines of the event, without the colon (DashScope puts the HTTP status into one).
    pub fn comments(&self) -> impl Iterator<Item = &[u8]> {
        lines(&self.block).filter_map(|line| line.strip_prefix(b":"))
    }
}

/// An incremental decoder. Push a piece, then iterate until `None`, then push the next; call [`finish`](Self::finish)
/// at the end of the body.
///
/// Comments alone, and `event` without `data`, are no events. A decoder that has reported an error yields nothing more.
#[derive(Debug)]
pub struct Decoder {
    max_event: usize,
    /// The start of an event whose end has not come yet.
    begun: BytesMut,
    /// What of the last piece belongs to no event yet.
    piece: Bytes,
    /// How much of `piece` has been searched for the end of the event.
    searched: usize,
    /// Whether the line that is being read has any byte.
    in_line: bool,
    /// Whether a LF at this place belongs to the CR before it.
    skip_lf: bool,
    /// How many bytes of a byte order mark have been seen; `BOM.len()` once that is settled.
    bom: usize,
    failed: bool,
    /// What `begun` takes of the budget of all streams.
    share: Option<Share>,
}

impl Decoder {
    /// A decoder for events of up to `max_event` bytes; every line counts, also empty `data` lines and comments.
    pub fn new(max_event: usize) -> Self {
        Self {
            max_event: max_event.saturating_add(FRAMING),
            begun: BytesMut::new(),
            piece: Bytes::new(),
            searched: 0,
            in_line: false,
            skip_lf: false,
            bom: 0,
            failed: false,
            share: None,
        }
    }

    /// Counts the parts of events against the budget of all streams; an event that finds no room in it is an error.
    pub fn within(mut self, buffer: &StreamBuffer) -> Self {
        self.share = Some(buffer.share());
        self
    }

    /// Takes a piece of the body.
    pub fn push(&mut self, piece: Bytes) {
        if self.failed {
            return;
        }
        if self.piece.is_empty() {
            self.piece = piece;
        } else {
            self.piece = [&self.piece[..], &piece[..]].concat().into();
        }
        self.settle_bom();
    }

    /// Ends the body: the event that still lacks its blank line, if there is one.
    pub fn finish(&mut self) -> Option<Result<Event>> {
        if let Some(found) = self.next() {
            return Some(found);
        }
        if self.failed {
            return None;
        }
        parse(self.take()).map(Ok)
    }

    fn settle_bom(&mut self) {
        while let (Some(expected), Some(byte)) = (BOM.get(self.bom), self.piece.first()) {
            if byte == expected {
                self.bom += 1;
                self.piece = self.piece.slice(1..);
            } else {
                // What looked like a mark was the start of a line.
                self.begun.extend_from_slice(&BOM[..self.bom]);
                self.in_line = self.bom > 0;
                self.bom = BOM.len();
            }
        }
    }

    /// Searches on from where the last search ended; the offset just behind the event's blank line.
    fn end_of_event(&mut self) -> Option<usize> {
        loop {
            let rest = self.piece.get(self.searched..)?;
            if self.skip_lf && !rest.is_empty() {
                self.skip_lf = false;
                if rest.starts_with(b"\n") {
                    if self.searched == 0 && self.begun.is_empty() {
                        // It ends the event before, which has left already.
                        self.piece = self.piece.slice(1..);
                    } else {
                        self.searched += 1;
                    }
                    continue;
                }
            }
            let Some(length) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.in_line |= !rest.is_empty();
                self.searched = self.piece.len();
                return None;
            };
            let blank = length == 0 && !self.in_line;
            self.skip_lf = rest.get(length) == Some(&b'\r');
            self.searched += length + 1;
            self.in_line = false;
            if blank {
                // A CR ends the line at once: waiting for the LF that may follow would delay the event.
                return Some(self.searched);
            }
        }
    }

    /// Puts what has come of an event to what there is of it.
    fn keep(&mut self, piece: &[u8]) -> Result<()> {
        self.hold(self.begun.len() + piece.len())?;
        self.begun.extend_from_slice(piece);
        Ok(())
    }

    /// The event that has been put together.
    fn take(&mut self) -> Bytes {
        // What remains of a large allocation would live on with the stream, and nobody would count it.
        let block = match self.begun.capacity() > FREE {
            true => std::mem::take(&mut self.begun),
            false => self.begun.split(),
        };
        let _ = self.hold(0); // giving back never fails
        block.freeze()
    }

    fn hold(&mut self, bytes: usize) -> Result<()> {
        self.share
            .as_mut()
            .map_or(Ok(()), |share| share.hold(bytes))
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed = true;
        self.begun = BytesMut::new();
        self.piece = Bytes::new();
        let _ = self.hold(0);
        error
    }

    fn too_large(&self) -> Error {
        let limit = self.max_event - FRAMING;
        Error::new(
            ErrorKind::UpstreamInvalidResponse,
            format!("the provider sent an event of more than {limit} bytes"),
        )
    }
}

impl Iterator for Decoder {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.piece.is_empty() {
            let end = self.end_of_event();
            if self.begun.len() + self.searched > self.max_event {
                let error = self.too_large();
                return Some(Err(self.fail(error)));
            }
            let piece = self.piece.split_to(self.searched);
            self.searched = 0;
            let block = if end.is_some() && self.begun.is_empty() {
                piece
            } else {
                if let Err(error) = self.keep(&piece) {
                    return Some(Err(self.fail(error)));
                }
                end?;
                self.take()
            };
            if let Some(event) = parse(block) {
                return Some(Ok(event));
            }
        }
        None
    }
}

/// Reads the lines of one block; `None` if it has no `data`.
fn parse(block: Bytes) -> Option<Event> {
    // The form that nearly all services send. The block ends at its first blank line, so a LF at the end alone means
    // one line.
    if let Some(line) = block
        .strip_prefix(b"data: ")
        .and_then(|rest| rest.strip_suffix(b"\n\n"))
        && memchr::memchr2(b'\n', b'\r', line).is_none()
    {
        return Some(Event {
            data: block.slice_ref(line),
            event: None,
            raw: Some(block.clone()),
            block,
        });
    }
    let mut first: Option<&[u8]> = None;
    let mut joined: Option<Vec<u8>> = None;
    let mut event = None;
    for line in lines(&block) {
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match (name, first) {
            (b"data", None) => first = Some(value),
            (b"data", Some(first)) => {
                let joined = joined.get_or_insert_with(|| {
                    let mut joined = Vec::with_capacity(block.len());
                    joined.extend_from_slice(first);
                    joined
                });
                joined.push(b'\n');
                joined.extend_from_slice(value);
            }
            (b"event", _) if !value.is_empty() => event = Some(block.slice_ref(value)),
            _ => {}
        }
    }
    let first = first?;
    Some(Event {
        data: match joined {
            Some(joined) => joined.into(),
            None => block.slice_ref(first),
        },
        event,
        raw: None,
        block,
    })
}

/// The lines of a block, by any of the three line ends; the empty ones between CR and LF are harmless to the callers.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter(|line| !line.is_empty())
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
