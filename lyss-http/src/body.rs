//! A body made of slices, so that an answer leaves in the bytes in which it came.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use lyss_core::types::Segments;

/// The slices as a body of known length.
pub(crate) fn from_segments(segments: Segments) -> Body {
    let mut slices = segments.0;
    if slices.len() == 1 {
        return Body::from(slices.pop().unwrap_or_default());
    }
    let left = slices.iter().map(|slice| slice.len() as u64).sum();
    Body::new(Slices {
        slices: slices.into(),
        left,
    })
}

struct Slices {
    slices: VecDeque<Bytes>,
    left: u64,
}

impl http_body::Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.slices.pop_front().map(|slice| {
            self.left = self.left.saturating_sub(slice.len() as u64);
            Ok(Frame::data(slice))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.slices.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn the_length_is_known_and_right() {
        let slices = Segments(vec!["ab".into(), "".into(), "cde".into()]);
        let body = from_segments(slices);
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
    }
}
