#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;

fn info() -> ReplyInfo {
    ReplyInfo {
        request_id: RequestId::new(),
        provider: "op\"enai".into(),
        upstream_model: "m\n".into(),
        session_id: Some("s".into()),
        context: Some(ContextUse::Truncated),
        attempts: 3,
        memory_unavailable: false,
        max_tokens_clamped: None,
        upstream_request_id: None,
        replay_of: None,
    }
}

fn read(kept: &Bytes) -> Option<Reply> {
    let (by, id) = (RequestId::new(), RequestId::new());
    let reply = Reply::read(kept, by, id);
    if let Some(Reply::Answer { info, .. } | Reply::Stream { info, .. }) = &reply {
        assert_eq!((info.request_id, info.replay_of), (id, Some(by)));
        assert_eq!(
            (&*info.provider, &*info.upstream_model),
            ("op\"enai", "m\n")
        );
        assert_eq!(info.context, Some(ContextUse::Truncated));
        assert_eq!((info.session_id.as_deref(), info.attempts), (Some("s"), 3));
    }
    reply
}

#[test]
fn an_answer_comes_back_byte_for_byte() {
    let text = "{ \"a\" : 1.0,\n\t\"b\":\"\\u00e9\" }";
    let body = RawObject::parse(text.into()).unwrap();
    let usage = Usage {
        output_tokens: 7,
        ..Usage::default()
    };
    let Some(Reply::Answer {
        usage: kept, body, ..
    }) = read(&answer(&info(), usage, &body))
    else {
        panic!("no answer");
    };
    assert_eq!((kept, body.to_bytes()), (usage, text.into()));
}

#[test]
fn a_stream_comes_back_with_its_end() {
    let frames = b"data: {\"a\":1}\n\ndata: {\"b\":2}\n\n";
    let error = Error::new(ErrorKind::UpstreamIncomplete, "cut").with_provider("p");
    let Some(Reply::Stream { chunks, error, .. }) = read(&stream(&info(), frames, Some(&error)))
    else {
        panic!("no stream");
    };
    let again: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.frame()).collect();
    assert_eq!(again, frames);
    let error = error.unwrap();
    assert_eq!(
        (error.kind(), error.message(), error.provider()),
        (ErrorKind::UpstreamIncomplete, "cut", Some("p"))
    );
    assert!(error.is_replayed() && !error.should_retry());
    let Some(Reply::Stream { chunks, error, .. }) = read(&stream(&info(), b"", None)) else {
        panic!("no stream");
    };
    assert!(chunks.is_empty() && error.is_none());
}

#[test]
fn every_failure_keeps_its_status_and_code() {
    for kind in ErrorKind::ALL {
        let error = Error::new(*kind, "what\nwas").with_param("p");
        let Some(Reply::Failure(again)) = read(&failure(&error)) else {
            panic!("no failure");
        };
        assert_eq!(
            (again.status(), again.code(), again.message(), again.param()),
            (error.status(), error.code(), "what\nwas", Some("p"))
        );
        assert!(!again.should_retry());
    }
    let error = Error::new(ErrorKind::InvalidValue, "no such voice").with_upstream(Upstream {
        status: 404,
        code: Some("voice_not_found".into()),
        shown: true,
    });
    let Some(Reply::Failure(again)) = read(&failure(&error)) else {
        panic!("no failure");
    };
    assert_eq!((again.status(), again.code()), (404, "voice_not_found"));
}

#[test]
fn what_cannot_be_read_is_not_guessed() {
    let stream = stream(&info(), b"data: {}\n\n", None);
    for kept in [
        "".into(),
        "{}".into(),
        "{\"form\":2,\"kind\":\"failure\"}\n".into(),
        "{\"form\":1,\"kind\":\"answer\"}\n{}".into(),
        stream.slice(..stream.len() - 1),
        stream.slice(..10),
    ] {
        assert!(read(&kept).is_none(), "{kept:?}");
    }
}
