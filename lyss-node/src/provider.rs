//! Providers written in JavaScript.
//!
//! They answer in OpenAI's shape, so the engine's own `openai` provider reads them: only what carries the bytes is
//! another. Usage, ends, errors and bounds are therefore those of any service that speaks the protocol.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Request, Response, header};
use lyss_core::{
    Error, ErrorKind,
    provider::{
        Provider, ProviderSpec,
        openai::OpenAi,
        transport::{BodyStream, HttpTransport},
    },
    types::Segments,
};
use napi_derive::napi;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::inbox::{Event, Inbox};

/// What providers have been asked and not answered yet.
#[derive(Default)]
pub(crate) struct Asked {
    last: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Reply>>>,
}

struct Reply {
    status: u16,
    retry_after: Option<String>,
    body: String,
    /// Whether there is more to ask for.
    more: bool,
}

/// What JavaScript answers through.
#[napi]
pub struct Replies(Arc<Asked>);

#[napi]
impl Replies {
    pub(crate) fn new(asked: Arc<Asked>) -> Self {
        Self(asked)
    }

    /// Answers what was asked under an id. `status`, `retry_after`: of the answer's head. `more`: a stream of which the
    /// next piece may be asked for.
    #[napi]
    pub fn answer(
        &self,
        id: u32,
        status: u16,
        retry_after: Option<String>,
        body: String,
        more: bool,
    ) {
        let waiting = self.0.waiting.lock().remove(&id);
        if let Some(waiting) = waiting {
            // An error means that it is not wanted any more.
            let _ = waiting.send(Reply {
                status,
                retry_after,
                body,
                more,
            });
        }
    }
}

/// A provider that JavaScript answers for.
///
/// # Errors
/// `invalid_value`: the id cannot be a part of a URL.
pub(crate) fn build(id: &str, inbox: Inbox, asked: Arc<Asked>) -> Result<Arc<dyn Provider>, Error> {
    let transport = Arc::new(InJavaScript {
        provider: id.to_owned(),
        inbox,
        asked,
    });
    let mut spec = ProviderSpec::new(id, transport);
    // Shown in decisions; nothing is sent there.
    spec.base_url = Some("http://javascript".to_owned());
    OpenAi::from_spec(spec)
}

struct InJavaScript {
    provider: String,
    inbox: Inbox,
    asked: Arc<Asked>,
}

/// An answer that is awaited. Dropping it says that it is not wanted any more.
struct Exchange {
    id: u32,
    inbox: Inbox,
    asked: Arc<Asked>,
    over: bool,
}

impl Exchange {
    async fn ask(&mut self, event: Event) -> Result<Reply, Error> {
        let (sender, receiver) = oneshot::channel();
        self.asked.waiting.lock().insert(self.id, sender);
        if !self.inbox.send(self.id, event) {
            self.asked.waiting.lock().remove(&self.id);
            self.over = true;
            return Err(gone());
        }
        let reply = receiver.await.map_err(|_| gone())?;
        self.over = !reply.more;
        Ok(reply)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.over {
            self.asked.waiting.lock().remove(&self.id);
            self.inbox.send(self.id, Event::Leave);
        }
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::UpstreamError,
        "the thread that the provider runs in has ended",
    )
}

#[async_trait]
impl HttpTransport for InJavaScript {
    async fn send(&self, request: Request<Segments>) -> Result<Response<BodyStream>, Error> {
        let mut exchange = Exchange {
            id: self.asked.last.fetch_add(1, Ordering::Relaxed),
            inbox: self.inbox.clone(),
            asked: Arc::clone(&self.asked),
            over: false,
        };
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let what = format!("{path}\n{}", self.provider);
        let body = Vec::from(request.into_body().into_bytes());
        let body = String::from_utf8(body).map_err(|error| {
            Error::new(ErrorKind::InvalidJson, "the request is not UTF-8").with_source(error)
        })?;
        let reply = exchange.ask(Event::Ask(what, body)).await?;
        let kind = match reply.more {
            true => "text/event-stream",
            false => "application/json",
        };
        let mut response = Response::new(pieces(exchange, reply.body));
        *response.status_mut() = http::StatusCode::from_u16(reply.status)
            .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(pause) = reply
            .retry_after
            .and_then(|pause| HeaderValue::try_from(pause).ok())
        {
            headers.insert(header::RETRY_AFTER, pause);
        }
        Ok(response)
    }
}

/// The body: what came with the head, then a piece each time that it is asked for.
fn pieces(exchange: Exchange, first: String) -> BodyStream {
    let first = Some(first).filter(|first| !first.is_empty());
    Box::pin(stream::unfold(
        (exchange, first),
        |(mut exchange, first)| async move {
            if let Some(first) = first {
                return Some((Ok(Bytes::from(first)), (exchange, None)));
            }
            loop {
                if exchange.over {
                    return None;
                }
                match exchange.ask(Event::More).await {
                    Ok(reply) if reply.body.is_empty() => {}
                    Ok(reply) => return Some((Ok(Bytes::from(reply.body)), (exchange, None))),
                    Err(error) => {
                        exchange.over = true;
                        return Some((Err(error), (exchange, None)));
                    }
                }
            }
        },
    ))
}
