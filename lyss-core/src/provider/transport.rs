//! How bytes reach a provider. A one-method trait, so that tests, embedders and other clients can take its place.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::{error::Error, types::Segments};

/// The body of an answer: pieces as they arrive. Dropping it closes or resets the exchange.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Sends one HTTP request and returns the answer's head as soon as it is there.
///
/// No redirect is followed, no retry made, no environment proxy used. A failure before the request was sent carries
/// [`Work::None`](crate::error::Work::None) and [`Retry::Elsewhere`](crate::error::Retry::Elsewhere).
#[async_trait]
pub trait HttpTransport: Send + Sync + 'static {
    /// Sends a request.
    async fn send(
        &self,
        request: http::Request<Segments>,
    ) -> Result<http::Response<BodyStream>, Error>;
}
