//! An answer as it is kept: one line of JSON that says what it is, then the body, byte for byte.

use std::{borrow::Cow, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result, Upstream, Work},
    types::{
        ChatChunk, ChatResponse, ChatStream, ContextUse, EmbeddingResponse, RawObject, ReplyInfo,
        RequestId, Usage,
    },
};

/// The form of what is kept; another one is not read.
const FORM: u8 = 1;

/// An answer that is given again.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A complete answer.
    Answer {
        info: ReplyInfo,
        usage: Usage,
        body: RawObject,
    },
    /// A stream that had begun, and how it ended.
    Stream {
        info: ReplyInfo,
        chunks: Vec<ChatChunk>,
        error: Option<Error>,
    },
    /// A failure.
    Failure(Error),
}

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    form: u8,
    kind: Kind,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    info: Option<Info<'a>>,
    #[serde(default)]
    usage: Usage,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Answer,
    Stream,
    Failure,
}

#[derive(Serialize, Deserialize)]
struct Info<'a> {
    #[serde(borrow)]
    provider: Cow<'a, str>,
    #[serde(borrow)]
    upstream_model: Cow<'a, str>,
    #[serde(borrow)]
    session_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<ContextUse>,
    attempts: u32,
    #[serde(borrow)]
    upstream_request_id: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct Failure<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    param: Option<Cow<'a, str>>,
    #[serde(borrow)]
    provider: Option<Cow<'a, str>>,
    /// The provider's own status and code, where they are shown to the caller.
    #[serde(borrow)]
    shown: Option<(u16, Option<Cow<'a, str>>)>,
}

/// A complete answer, to be kept.
pub(crate) fn answer(info: &ReplyInfo, usage: Usage, body: &RawObject) -> Bytes {
    let segments = body.to_segments();
    let mut out = head(Kind::Answer, Some(info), usage, None, segments.len());
    for segment in &segments.0 {
        out.extend_from_slice(segment);
    }
    out.freeze()
}

/// A stream, to be kept: its frames, and the error that it ended with.
pub(crate) fn stream(info: &ReplyInfo, frames: &[u8], error: Option<&Error>) -> Bytes {
    let mut out = head(
        Kind::Stream,
        Some(info),
        Usage::default(),
        error,
        frames.len(),
    );
    out.extend_from_slice(frames);
    out.freeze()
}

/// A failure, to be kept.
pub(crate) fn failure(error: &Error) -> Bytes {
    head(Kind::Failure, None, Usage::default(), Some(error), 0).freeze()
}

fn head(
    kind: Kind,
    info: Option<&ReplyInfo>,
    usage: Usage,
    error: Option<&Error>,
    body: usize,
) -> BytesMut {
    let head = Head {
        form: FORM,
        kind,
        info: info.map(Info::of),
        usage,
        error: error.map(Failure::of),
    };
    // Strings and numbers: this cannot fail. If it did, the reply would not be read.
    let line = serde_json::to_vec(&head).unwrap_or_default();
    let mut out = BytesMut::with_capacity(line.len() + 1 + body);
    out.extend_from_slice(&line);
    out.extend_from_slice(b"\n");
    out
}

impl Reply {
    /// Reads what was kept, as the answer to another request; `None` if it cannot be read.
    pub fn read(kept: &Bytes, by: RequestId, request_id: RequestId) -> Option<Self> {
        let end = memchr::memchr(b'\n', kept)?;
        let head: Head<'_> = serde_json::from_slice(kept.get(..end)?).ok()?;
        if head.form != FORM {
            return None;
        }
        let body = kept.slice(end + 1..);
        let info = head.info.map(|info| info.into_reply_info(by, request_id));
        let error = match head.error {
            Some(failure) => Some(failure.into_error()?),
            None => None,
        };
        Some(match head.kind {
            Kind::Answer => Self::Answer {
                info: info?,
                usage: head.usage,
                body: RawObject::parse(body).ok()?,
            },
            Kind::Stream => Self::Stream {
                info: info?,
                chunks: chunks(body)?,
                error,
            },
            Kind::Failure => Self::Failure(error?),
        })
    }
}

impl Reply {
    /// What is told of it.
    pub fn info(&self) -> Option<&ReplyInfo> {
        match self {
            Self::Answer { info, .. } | Self::Stream { info, .. } => Some(info),
            Self::Failure(_) => None,
        }
    }

    /// The error it is, or ends with.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Answer { .. } => None,
            Self::Stream { error, .. } => error.as_ref(),
            Self::Failure(error) => Some(error),
        }
    }

    /// The answer to a unary chat call.
    pub fn into_chat(self) -> Result<ChatResponse> {
        let (info, usage, body) = self.into_answer()?;
        Ok(ChatResponse { info, body, usage })
    }

    /// The answer to an embeddings call.
    pub fn into_embedding(self) -> Result<EmbeddingResponse> {
        let (info, usage, body) = self.into_answer()?;
        Ok(EmbeddingResponse { info, body, usage })
    }

    fn into_answer(self) -> Result<(ReplyInfo, Usage, RawObject)> {
        match self {
            Self::Answer { info, usage, body } => Ok((info, usage, body)),
            Self::Failure(error) => Err(error),
            Self::Stream { .. } => Err(other_form()),
        }
    }

    /// The answer to a streamed call.
    pub fn into_stream(self) -> Result<ChatStream> {
        match self {
            Self::Stream {
                info,
                chunks,
                error,
            } => Ok(ChatStream {
                info,
                chunks: futures::stream::iter(chunks.into_iter().map(Ok).chain(error.map(Err)))
                    .boxed(),
            }),
            Self::Failure(error) => Err(error),
            Self::Answer { .. } => Err(other_form()),
        }
    }
}

/// Cannot be: whether a stream is asked for is in the body, and with it in the fingerprint.
fn other_form() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the answer that was kept has another form",
    )
    .with_work(Work::Unknown)
}

/// The chunks of frames, each of which is one line and an empty one.
fn chunks(mut frames: Bytes) -> Option<Vec<ChatChunk>> {
    let mut chunks = Vec::new();
    while !frames.is_empty() {
        let line = memchr::memchr(b'\n', &frames)?;
        if frames.len() < line + 2 {
            return None;
        }
        chunks.push(ChatChunk::from_frame(frames.split_to(line + 2))?);
    }
    Some(chunks)
}

impl<'a> Info<'a> {
    fn of(info: &'a ReplyInfo) -> Self {
        Self {
            provider: Cow::Borrowed(&info.provider),
            upstream_model: Cow::Borrowed(&info.upstream_model),
            session_id: info.session_id.as_deref().map(Cow::Borrowed),
            context: info.context,
            attempts: info.attempts,
            upstream_request_id: info.upstream_request_id.as_deref().map(Cow::Borrowed),
        }
    }

    fn into_reply_info(self, by: RequestId, request_id: RequestId) -> ReplyInfo {
        ReplyInfo {
            request_id,
            provider: Arc::from(&*self.provider),
            upstream_model: Arc::from(&*self.upstream_model),
            session_id: self.session_id.map(|id| Arc::from(&*id)),
            context: self.context,
            attempts: self.attempts,
            memory_unavailable: false,
            max_tokens_clamped: None,
            upstream_request_id: self.upstream_request_id.map(Cow::into_owned),
            replay_of: Some(by),
        }
    }
}

impl<'a> Failure<'a> {
    fn of(error: &'a Error) -> Self {
        let shown = error.upstream().filter(|upstream| upstream.shown);
        Self {
            code: Cow::Borrowed(error.kind().code()),
            message: Cow::Borrowed(error.message()),
            param: error.param().map(Cow::Borrowed),
            provider: error.provider().map(Cow::Borrowed),
            shown: shown.map(|upstream| {
                let code = upstream.code.as_deref().map(Cow::Borrowed);
                (upstream.status, code)
            }),
        }
    }

    /// The failure again. Only those are kept whose request may have been worked on: none of them may be retried.
    fn into_error(self) -> Option<Error> {
        let kind = ErrorKind::ALL
            .iter()
            .copied()
            .find(|kind| kind.code() == self.code)?;
        let mut error = Error::new(kind, self.message.into_owned()).with_work(Work::Unknown);
        if let Some(param) = self.param {
            error = error.with_param(param.into_owned());
        }
        if let Some(provider) = self.provider {
            error = error.with_provider(provider);
        }
        if let Some((status, code)) = self.shown {
            error = error.with_upstream(Upstream {
                status,
                code: code.map(Cow::into_owned),
                shown: true,
            });
        }
        Some(match kind {
            // Says something of the key, and not what the first answer was.
            ErrorKind::IdempotencyOutcomeUnknown => error,
            _ => error.replayed(),
        })
    }
}

#[cfg(test)]
mod tests;
