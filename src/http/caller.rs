//! Who asks, as the request says.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};

use super::observe::note_caller;
use crate::rag::Caller;

/// The one place where a request becomes a caller: nobody has to log in yet.
impl FromRequest for Caller {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> Self::Future {
        note_caller(Caller::DEFAULT);
        ready(Ok(Caller::DEFAULT))
    }
}
