#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::*;
use crate::types::delivered::{Part, Piece, Slot};

fn pieces(pieces: Vec<Bytes>) -> BodyStream {
    Box::pin(futures::stream::iter(pieces.into_iter().map(Ok)))
}

/// All that a body yields; it never waits, since the body is there.
fn read(stream: &str, include_usage: bool) -> Vec<Result<ChatChunk>> {
    let body = pieces(vec![Bytes::copy_from_slice(stream.as_bytes())]);
    Chunks::new(
        body,
        Decoder::new(1 << 20),
        include_usage,
        1,
        Arc::default(),
    )
    .collect::<Vec<_>>()
    .now_or_never()
    .unwrap()
}

fn frames(found: &[Result<ChatChunk>]) -> Vec<String> {
    found
        .iter()
        .map(|chunk| match chunk {
            Ok(chunk) => String::from_utf8(chunk.json().to_vec()).unwrap(),
            Err(error) => error.kind().code().to_owned(),
        })
        .collect()
}

const DELTA: &str = r#"{"id":"1","choices":[{"index":0,"delta":{"content":"Hé"},"finish_reason":null}],"usage":null,"obfuscation":"x"}"#;
const FINISH: &str =
    r#"{"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
const USAGE: &str =
    r#"{"id":"1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;

fn answer() -> String {
    format!(
        "data: {DELTA}\n\n: keep-alive\n\ndata:\n\ndata: {FINISH}\n\ndata: {USAGE}\n\ndata: [DONE]\n\ndata: more\n\n"
    )
}

#[test]
fn events_are_passed_on_with_what_they_say() {
    let found = read(&answer(), true);
    assert_eq!(frames(&found), [DELTA, FINISH, USAGE]);
    let chunks: Vec<ChatChunk> = found.into_iter().map(Result::unwrap).collect();
    let slot = Slot {
        choice: 0,
        part: Part::Content,
    };
    let text = "Hé".to_owned();
    assert_eq!(chunks[0].delivered, [Piece { slot, text }]);
    let flags = chunks
        .iter()
        .map(|chunk| (chunk.finish, chunk.without_choices));
    assert_eq!(
        flags.collect::<Vec<_>>(),
        [(false, false), (true, false), (false, true)]
    );
    assert_eq!(chunks[2].usage.unwrap().output_tokens, 2);
    assert!(chunks[0].usage.is_none());
}

#[test]
fn usage_is_cut_out_when_it_was_not_asked_for() {
    let found = read(&answer(), false);
    let cut = |text: &str| text.replace(r#","usage":null"#, "");
    assert_eq!(frames(&found), [cut(DELTA), cut(FINISH), USAGE.to_owned()]);
    let choice = r#""choices":[{"delta":{"content":"\"usage\":null"}}]"#;
    for (sent, expected) in [
        (
            format!(r#"{{"usage":null,{choice}}}"#),
            format!("{{{choice}}}"),
        ),
        (
            format!(r#"{{ "usage" : {{"a":[1]}} , {choice}}}"#),
            format!("{{ {choice}}}"),
        ),
        (
            format!(r#"{{{choice} , "usage": null }}"#),
            format!("{{{choice}  }}"),
        ),
        (
            format!(r#"{{{choice},"us\u0061ge":null}}"#),
            format!("{{{choice}}}"),
        ),
        (
            format!(r#"{{{choice},"x":1}}"#),
            format!(r#"{{{choice},"x":1}}"#),
        ),
    ] {
        let found = read(&format!("data: {sent}\n\n"), false);
        let shown = String::from_utf8(found[0].as_ref().unwrap().json().to_vec()).unwrap();
        let squeezed = |text: &str| text.replace(' ', "");
        assert_eq!(squeezed(&shown), squeezed(&expected), "{sent}");
    }
    // The services that send usage with the last choice.
    let last = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
    let found = read(&format!("data: {last}\n\n"), false);
    let chunk = found[0].as_ref().unwrap();
    assert_eq!(chunk.usage.unwrap().input_tokens, 3);
    assert_eq!(
        chunk.json(),
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#
    );
}

#[test]
fn a_choice_in_an_unknown_form_is_passed_on() {
    let odd = r#"{"choices":[{"delta":{"content":"a","content":"b"}}]}"#;
    let found = read(&format!("data: {odd}\n\ndata: [DONE]\n\n"), false);
    assert_eq!(frames(&found), [odd]);
    assert!(
        !found[0].as_ref().unwrap().without_choices,
        "it would be hidden"
    );
}

#[test]
fn an_untouched_event_is_not_copied() {
    let piece = Bytes::from(format!("data: {DELTA}\n\ndata: [DONE]\n\n"));
    let body = pieces(vec![piece.clone()]);
    let mut chunks = Chunks::new(body, Decoder::new(1 << 20), true, 1, Arc::default());
    let chunk = chunks.next().now_or_never().unwrap().unwrap().unwrap();
    assert_eq!(chunk.frame().as_ptr(), piece.as_ptr());
}

#[test]
fn the_end_must_be_said() {
    let complete = |stream: &str| read(stream, true).iter().all(Result::is_ok);
    assert!(complete(&answer()));
    assert!(complete(&format!("data: {DELTA}\n\ndata: {FINISH}\n\n")));
    assert!(complete(&format!("data: {DELTA}\n\ndata: {FINISH}")));
    assert!(complete("data: [DONE]"));
    for stream in [
        String::new(),
        ": ping\n\n".into(),
        format!("data: {DELTA}\n\n"),
        format!("data: {DELTA}\n\ndata: {{\"choi"),
        format!("data: {}\n\n", FINISH.replace("\"stop\"", "\"null\"")),
    ] {
        let found = read(&stream, true);
        let last = found.last().unwrap().as_ref().unwrap_err();
        assert_eq!(
            (last.kind(), last.work()),
            (ErrorKind::UpstreamIncomplete, Work::Unknown)
        );
        // Only while nothing has been delivered may another target be tried.
        let expected = if found.len() == 1 {
            Retry::Elsewhere
        } else {
            Retry::Never
        };
        assert_eq!(last.retry(), expected, "{stream}");
    }
    let body = pieces(vec![format!("data: {FINISH}\n\n").into()]);
    let two = Chunks::new(body, Decoder::new(1 << 20), true, 2, Arc::default());
    let found: Vec<_> = two.collect::<Vec<_>>().now_or_never().unwrap();
    assert_eq!(
        frames(&found),
        [FINISH, "upstream_incomplete"],
        "one of two choices finished"
    );
}

#[test]
fn errors_end_the_stream() {
    for (event, code) in [
        (
            r#"data: {"error":{"message":"m","type":"server_error","param":null,"code":null}}"#,
            "upstream_error",
        ),
        (
            r#"data: {"error":{"message":"m","code":429}}"#,
            "rate_limited",
        ),
        (r#"data: {"error":"text"}"#, "upstream_error"),
        (
            "event:error\ndata:{\"code\":\"InvalidParameter\",\"message\":\"m\",\"request_id\":\"r\"}",
            "upstream_error",
        ),
        ("event: error\ndata: {\"x\":1}", "upstream_error"),
        ("data: {\"choices\":", "upstream_invalid_response"),
        ("data: [1]", "upstream_invalid_response"),
        (
            "data: {\"choices\":[],\"choices\":[]}",
            "upstream_invalid_response",
        ),
    ] {
        let found = read(
            &format!("data: {DELTA}\n\n{event}\n\ndata: {FINISH}\n\n"),
            true,
        );
        assert_eq!(frames(&found), [DELTA, code], "{event}");
    }
    let body = pieces(vec![Bytes::from_static(b"data: {\"a\":\"\xff\"}\n\n")]);
    let found: Vec<_> = Chunks::new(body, Decoder::new(1 << 20), true, 1, Arc::default())
        .collect::<Vec<_>>()
        .now_or_never()
        .unwrap();
    assert_eq!(frames(&found), ["upstream_invalid_response"]);
}

#[test]
fn other_forms_become_one_line() {
    let found = read(
        "data: {\"choices\":\r\ndata: [{\"delta\":{\"content\":\"a\\nb\"}}]}\r\n\r\ndata: [DONE]\n\n",
        true,
    );
    assert_eq!(
        frames(&found),
        [r#"{"choices": [{"delta":{"content":"a\nb"}}]}"#]
    );
    let frame = found[0].as_ref().unwrap().frame();
    assert!(ChatChunk::from_frame(frame).is_some());
}

#[tokio::test]
async fn a_provider_that_stays_after_done_delays_the_end_only_shortly() {
    let said = futures::stream::iter([Ok(Bytes::from_static(b"data: [DONE]\n\n"))]);
    let body: BodyStream = Box::pin(said.chain(futures::stream::pending()));
    let start = std::time::Instant::now();
    let chunks = Chunks::new(body, Decoder::new(1 << 20), true, 1, Arc::default());
    assert!(chunks.collect::<Vec<_>>().await.is_empty());
    assert!((LINGER..LINGER * 40).contains(&start.elapsed()));
}
