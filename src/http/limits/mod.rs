//! How much a client may ask for: requests a minute, requests at once, time for a body.
//!
//! | file | |
//! |---|---|
//! | `address` | from which address a request comes, behind proxies too |
//! | `rates` | which limits hold for a request |
//! | `counter` | one limit, counted in memory or in Redis |
//! | `body` | bodies that do not come, or come compressed |
//! | `seats` | requests at once |
//! | `held` | what a response gives back when it has been sent |
//! | `describe` | the same in the published document |
//!
//! What an address asks is counted before anybody is asked who they are, so that keys cannot be tried out
//! faster; what a key and a tenant ask, after it.

mod address;
mod body;
mod counter;
mod describe;
mod held;
mod rates;
mod seats;

use actix_web::{
    Error, FromRequest, HttpMessage, HttpResponse,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{StatusCode, header::HeaderMap},
    middleware::Next,
    web,
};
use ipnet::IpNet;
use redis::RedisResult;
use secrecy::SecretString;

use super::{Gateway, access::shape_of, error::ApiError};
use crate::{
    config::{HttpSettings, LimitSettings},
    rag::Caller,
};
use address::Origin;
use counter::Standing;
pub use describe::describe;
use held::Held;
use rates::{Group, Rates};
use seats::{Seat, Seats};

/// The limits of one server, shared by its workers.
pub struct Limiter {
    rates: Rates,
    seats: Seats,
    trusted_proxies: Vec<IpNet>,
    exempt_loopback: bool,
}

impl Limiter {
    /// Counts in Redis where a URL is given, and in memory otherwise or while Redis is away.
    ///
    /// Redis is connected to in the background, for which it needs a tokio runtime. Fails only for what is no
    /// Redis URL.
    pub fn new(
        settings: &LimitSettings,
        http: &HttpSettings,
        trusted_proxies: Vec<IpNet>,
        redis_url: Option<&SecretString>,
    ) -> RedisResult<Self> {
        Ok(Self {
            rates: Rates::new(settings, redis_url)?,
            seats: Seats::new(http.max_in_flight),
            trusted_proxies,
            exempt_loopback: settings.exempt_loopback,
        })
    }

    /// Counts a request for its address; none where it is free.
    async fn count_address(&self, request: &ServiceRequest, group: Group) -> Option<Standing> {
        let peer = request.peer_addr()?.ip();
        match Origin::of(peer, request.headers(), &self.trusted_proxies) {
            Origin::Here if self.exempt_loopback => None,
            Origin::Here => self.rates.count_address(group, peer).await,
            Origin::Address(address) => self.rates.count_address(group, address).await,
        }
    }
}

/// Probes, metrics, pages and the API's description are free of every limit: whoever looks how a busy server is
/// must get an answer.
fn is_exempt(method: &str, path: &str) -> bool {
    let exact =
        ["/", "/health", "/health/live", "/health/ready", "/metrics", "/version", "/openapi.json", "/docs"];
    ["GET", "HEAD"].contains(&method)
        && (exact.contains(&path) || path.starts_with("/docs/") || path.starts_with("/ui/"))
}

/// Middleware before it is known who asks: requests at once, requests of an address, and the body's coding and time.
pub async fn of_address<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Held<EitherBody<B>>>, Error> {
    let Some(gateway) = request.app_data::<web::Data<Gateway>>().cloned() else {
        return Err(ApiError::internal("the application has no gateway").into());
    };
    let (payload, kept) = body::timed(request.take_payload(), gateway.rag.catalog().http.body_timeout_ms);
    request.set_payload(payload);
    let (seat, response) = match admit(&gateway, &request).await {
        Ok((seat, standing)) => {
            let mut response = next.call(request).await?;
            tell(response.headers_mut(), standing);
            (seat, response.map_into_left_body())
        }
        Err((error, standing)) => (None, refuse(request, error, standing).map_into_right_body()),
    };
    Ok(response.map_body(|_, body| Held::new(body, seat, kept)))
}

/// A seat, and how the address stands; both are absent where nothing is limited.
async fn admit(
    gateway: &Gateway,
    request: &ServiceRequest,
) -> Result<(Option<Seat>, Option<Standing>), (ApiError, Option<Standing>)> {
    let (method, path) = (request.method().as_str(), request.match_info().unprocessed());
    if is_exempt(method, path) {
        return Ok((None, None));
    }
    let Some(seat) = gateway.limiter.seats.take() else {
        return Err((seats::no_seat(gateway.rag.catalog().http.max_in_flight), None));
    };
    let standing = gateway.limiter.count_address(request, Group::of(method, path)).await;
    if let Some(refused) = standing.filter(Standing::is_over) {
        return Err((too_many(&refused, "from this address"), standing));
    }
    match body::check_coding(request.headers()) {
        Ok(()) => Ok((Some(seat), standing)),
        Err(error) => Err((error, standing)),
    }
}

/// Middleware once it is known who asks: requests of a key and of a tenant.
pub async fn of_caller<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let (method, path) = (request.method().as_str(), request.match_info().unprocessed());
    let gateway = request.app_data::<web::Data<Gateway>>().cloned();
    let caller = Caller::extract(request.request()).await;
    let (Some(gateway), Ok(caller), false) = (gateway, caller, is_exempt(method, path)) else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let rates = &gateway.limiter.rates;
    if !rates.limit_callers() {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let group = Group::of(method, path);
    let key = rates.count_key(group, caller.key).await;
    if let Some(refused) = key.filter(Standing::is_over) {
        let error = too_many(&refused, "with this key");
        return Ok(refuse(request, error, Some(refused)).map_into_right_body());
    }
    let tenant = rates.count_tenant(group, caller.tenant.0).await;
    if let Some(refused) = tenant.filter(Standing::is_over) {
        let error = too_many(&refused, "of this tenant");
        return Ok(refuse(request, error, Some(refused)).map_into_right_body());
    }
    let mut response = next.call(request).await?;
    tell(response.headers_mut(), key);
    tell(response.headers_mut(), tenant);
    Ok(response.map_into_left_body())
}

fn too_many(standing: &Standing, whose: &str) -> ApiError {
    let detail = format!(
        "more than {} requests a minute {whose}; try again in {} s",
        standing.limit,
        standing.retry_after_s.unwrap_or(1)
    );
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
        .retry_after(standing.retry_after_s.unwrap_or(1))
}

fn refuse(request: ServiceRequest, error: ApiError, standing: Option<Standing>) -> ServiceResponse<BoxBody> {
    tracing::info!(code = error.code(), "refused by a limit: {}", error.detail());
    let shape = shape_of(request.method().as_str(), request.match_info().unprocessed());
    let mut response: HttpResponse = shape.response(error);
    tell(response.headers_mut(), standing);
    request.into_response(response)
}

/// Writes the headers of a limit, unless those of one that is nearer its end are there.
fn tell(headers: &mut HeaderMap, standing: Option<Standing>) {
    let Some(standing) = standing else { return };
    let told = headers.get(counter::REMAINING).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    if told.is_none_or(|remaining| remaining > standing.remaining) {
        for (name, value) in standing.headers() {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_looked_at_is_exempt() {
        for (method, path) in [
            ("GET", "/health/ready"),
            ("HEAD", "/"),
            ("GET", "/ui/app.js"),
            ("GET", "/docs/"),
            ("GET", "/metrics"),
        ] {
            assert!(is_exempt(method, path), "{method} {path}");
        }
        for (method, path) in [
            ("POST", "/"),
            ("POST", "/health"),
            ("GET", "/health/"),
            ("GET", "//health"),
            ("GET", "/healthy"),
            ("GET", "/api/v1/documents"),
            ("GET", "/uix"),
            ("POST", "/ui/app.js"),
        ] {
            assert!(!is_exempt(method, path), "{method} {path}");
        }
    }
}
