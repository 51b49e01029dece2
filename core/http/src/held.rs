//! What is kept until a response has left.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    response::Response,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Keeps a value until the connection has taken the whole body of this response, or has given it up.
pub fn until_sent<T: Send + Unpin + 'static>(response: Response, held: T) -> Response {
    response.map(|body| Body::new(Held { body, _held: held }))
}

struct Held<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_value_goes_with_the_body() {
        let value = Arc::new(());
        let response = until_sent(Response::new(Body::from("four")), Arc::clone(&value));
        assert_eq!(response.body().size_hint().exact(), Some(4), "the length is still known");
        let (_, body) = response.into_parts();
        assert_eq!(Arc::strong_count(&value), 2);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "four");
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
