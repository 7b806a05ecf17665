//! However a stream is cut, its events are the same, and none is larger than the limit.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use lyss_core::provider::sse::{Decoder, Event};

const MAX_EVENT: usize = 512;

/// What an event says: its bytes may lie elsewhere.
fn decode(data: &[u8], size: usize) -> (Vec<Event>, bool) {
    let mut decoder = Decoder::new(MAX_EVENT);
    let mut events = Vec::new();
    let mut take = |found: Option<lyss_core::Result<Event>>| match found {
        Some(Ok(event)) => {
            assert!(event.data.len() <= MAX_EVENT + 64);
            events.push(event);
            Some(true)
        }
        Some(Err(_)) => Some(false),
        None => None,
    };
    for piece in data.chunks(size) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(well) = take(decoder.next()) {
            if !well {
                return (events, false);
            }
        }
    }
    let well = take(decoder.finish()).unwrap_or(true);
    (events, well)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let whole = decode(stream, stream.len().max(1));
    assert_eq!(decode(stream, 1), whole);
    assert_eq!(decode(stream, usize::from(size).max(1)), whole);
});
