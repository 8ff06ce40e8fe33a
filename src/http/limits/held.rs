//! A response that holds what is given back once it has been sent, or its client has left.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, MessageBody},
    web::Bytes,
};

use super::{body::Kept, seats::Seat};

/// A response's body, with its request's seat and body.
pub struct Held<B> {
    body: Pin<Box<B>>,
    _seat: Option<Seat>,
    _request: Option<Kept>,
}

impl<B> Held<B> {
    pub fn new(body: B, seat: Option<Seat>, request: Option<Kept>) -> Self {
        Self { body: Box::pin(body), _seat: seat, _request: request }
    }
}

impl<B: MessageBody> MessageBody for Held<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.get_mut().body.as_mut().poll_next(context)
    }
}
