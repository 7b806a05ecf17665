#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Data, event name, raw and comments of an event, as text.
type Seen = (String, Option<String>, Option<String>, Vec<String>);

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut decoder = Decoder::new(1 << 20);
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        events.extend(decoder.by_ref().map(Result::unwrap));
    }
    events.extend(decoder.finish().map(Result::unwrap));
    assert!(decoder.finish().is_none(), "the end comes once");
    events
        .iter()
        .map(|event| {
            (
                text(&event.data),
                event.event.as_deref().map(text),
                event.raw.as_deref().map(text),
                event.comments().map(text).collect(),
            )
        })
        .collect()
}

fn data(stream: &str) -> Vec<String> {
    decode([stream.as_bytes()])
        .into_iter()
        .map(|(data, ..)| data)
        .collect()
}

#[test]
fn reads_every_form_of_an_event() {
    for (stream, expected) in [
        ("data: a\n\ndata: b\n\n", vec!["a", "b"]),
        ("data: a\r\n\r\ndata: b\r\n\r\n", vec!["a", "b"]),
        ("data: a\r\rdata: b\r\r", vec!["a", "b"]),
        ("data: a\r\n\ndata: b\n\r\n", vec!["a", "b"]),
        ("data:a\n\ndata:  b\n\n", vec!["a", " b"]),
        ("data: a\ndata: b\ndata\n\n", vec![r"a\nb\n"]),
        (": ping\n\ndata: a\n\n: ping\n\n", vec!["a"]),
        (": ping\ndata: a\n\n", vec!["a"]),
        ("event: ping\n\nid: 7\ndata: a\nretry: 3\n\n", vec!["a"]),
        ("\n\n\n\ndata: a\n\n\n\n\n", vec!["a"]),
        ("data:\n\ndata\n\n", vec!["", ""]),
        ("\u{feff}data: a\n\n", vec!["a"]),
        ("\u{feff}\u{feff}data: a\n\ndata: b\n\n", vec!["b"]),
        ("data: a\n\ndata: b\n", vec!["a", "b"]),
        ("data: a\n\ndata: b", vec!["a", "b"]),
        ("datax: a\n\n data: b\n\n", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(data(stream), expected, "{stream:?}");
    }
}

#[test]
fn names_and_comments_are_kept() {
    let stream = "id:1\nevent:error\n:HTTP_STATUS/400\ndata:{}\n\n";
    assert_eq!(
        decode([stream.as_bytes()]),
        [(
            "{}".into(),
            Some("error".into()),
            None,
            vec!["HTTP_STATUS/400".into()]
        )]
    );
}

#[test]
fn an_event_in_one_piece_is_a_slice_of_it() {
    let piece = Bytes::from_static(b": hi\n\ndata: {\"a\":1}\n\ndata:{}\n\n");
    let mut decoder = Decoder::new(100);
    decoder.push(piece.clone());
    let event = decoder.next().unwrap().unwrap();
    let raw = event.raw.unwrap();
    assert_eq!(raw, "data: {\"a\":1}\n\n");
    assert_eq!(raw.as_ptr(), piece[6..].as_ptr());
    assert_eq!(event.data.as_ptr(), piece[12..].as_ptr());
    assert_eq!(decoder.next().unwrap().unwrap().raw, None, "another form");
}

#[test]
fn an_event_leaves_with_its_last_byte() {
    for stream in ["data: a\n\n", "data: a\r\r", "data: a\r\n\r"] {
        let mut decoder = Decoder::new(100);
        decoder.push(Bytes::copy_from_slice(stream.as_bytes()));
        assert!(decoder.next().is_some(), "{stream:?}");
    }
}

const MIXED: &[u8] = "\u{feff}: ping\r\n\r\ndata: {\"x\":\"h\u{e9}\u{4e16}\u{1f600}\"}\n\nevent: e\r\ndata: a\r\ndata:b\r\n\r\n\rdata: c\r\rdata: d\n\n: end\n\ndata: tail".as_bytes();

#[test]
fn one_cut_two_cuts_and_single_bytes_change_nothing() {
    let whole = decode([MIXED]);
    assert_eq!(whole.len(), 5);
    assert_eq!(decode(MIXED.chunks(1)), whole);
    for first in 0..=MIXED.len() {
        for second in first..=MIXED.len() {
            let pieces = [&MIXED[..first], &MIXED[first..second], &MIXED[second..]];
            assert_eq!(decode(pieces), whole, "cut at {first} and {second}");
        }
    }
}

#[test]
fn the_limit_counts_every_line() {
    let refused = |stream: Vec<u8>, piece: usize| {
        let mut decoder = Decoder::new(1000);
        for piece in stream.chunks(piece) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(event) = decoder.next() {
                if let Err(error) = event {
                    assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse);
                    assert!(decoder.next().is_none() && decoder.finish().is_none());
                    return true;
                }
            }
        }
        false
    };
    let empty = b"data:\n".repeat(1_000_000);
    let comments = b":\n".repeat(1_000_000);
    let long = [b"data: ", &[b'x'; 2000][..], b"\n\n"].concat();
    let fits = [b"data: ", &[b'x'; 1000][..], b"\n\n"].concat().repeat(50);
    for piece in [7, 1 << 20] {
        assert!(refused(empty.clone(), piece));
        assert!(refused(comments.clone(), piece));
        assert!(refused(long.clone(), piece));
        assert!(!refused(fits.clone(), piece));
    }
}

#[test]
fn time_is_linear_in_the_size_of_an_event() {
    let run = |mebibytes: usize| {
        let mut stream = b"data: ".to_vec();
        stream.resize(mebibytes << 20, b'x');
        stream.extend_from_slice(b"\n\n");
        let stream = Bytes::from(stream);
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let mut decoder = Decoder::new(usize::MAX / 2);
            let mut events = 0;
            for at in (0..stream.len()).step_by(1024) {
                decoder.push(stream.slice(at..stream.len().min(at + 1024)));
                events += decoder.by_ref().map(Result::unwrap).count();
            }
            assert_eq!(events, 1);
            best = best.min(start.elapsed());
        }
        best
    };
    let (small, large) = (run(4), run(16));
    // Four times the bytes: four times the time if linear, sixteen if quadratic.
    assert!(
        large < small * 10,
        "{small:?} for 4 MiB, {large:?} for 16 MiB"
    );
    if !cfg!(debug_assertions) {
        assert!(large < Duration::from_millis(100), "{large:?} for 16 MiB");
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_give_the_same_events(
        bytes in prop::collection::vec(prop_oneof![
            Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), any::<u8>()
        ], 0..200),
        prefix in prop::sample::select(vec![&b""[..], b"data: x", b"\xef\xbb", b"data:"]),
        size in 1_usize..20,
    ) {
        let bytes = [prefix, &bytes].concat();
        let whole = decode([&bytes[..]]);
        prop_assert_eq!(decode(bytes.chunks(size)), whole);
    }

    #[test]
    fn what_is_written_is_read(texts in prop::collection::vec("[^\r\n]{0,40}", 0..10), ending in 0_usize..3, size in 1_usize..50) {
        let end = ["\n", "\r\n", "\r"][ending];
        let stream: String = texts.iter().map(|text| format!("data: {text}{end}{end}")).collect();
        let read: Vec<_> = decode(stream.as_bytes().chunks(size)).into_iter().map(|(data, ..)| data).collect();
        let expected: Vec<_> = texts.iter().map(|written| text(written.as_bytes())).collect();
        prop_assert_eq!(read, expected);
    }
}

#[test]
fn parts_of_events_are_counted_against_the_budget_of_all_streams() {
    use crate::resilience::stream_buffer::{FREE, StreamBuffer};
    let buffer = StreamBuffer::new(100_000);
    let decoder = || Decoder::new(1 << 20).within(&buffer);
    let part = |bytes: usize| Bytes::from(["data: ", &"x".repeat(bytes)].concat());

    let mut first = decoder();
    first.push(part(FREE + 90_000));
    assert!(first.next().is_none());
    assert_eq!(buffer.used(), 90_006);

    let mut second = decoder();
    second.push(part(FREE + 20_000));
    let error = second.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    second.push(Bytes::from_static(b"\n\n"));
    assert!(second.next().is_none() && second.finish().is_none());
    assert_eq!(buffer.used(), 90_006);

    let mut small = decoder();
    small.push(part(1000));
    assert!(small.next().is_none());
    small.push(Bytes::from_static(b"\n\n"));
    assert_eq!(small.next().unwrap().unwrap().data.len(), 1000);

    first.push(Bytes::from_static(b"\n\n"));
    assert_eq!(first.next().unwrap().unwrap().data.len(), FREE + 90_000);
    assert_eq!(buffer.used(), 0, "a whole event is its receiver's");
    let mut third = decoder();
    third.push(part(FREE + 90_000));
    assert!(third.next().is_none());
    drop(third);
    assert_eq!(buffer.used(), 0);
}
