//! Images by URL, from public servers only.
//!
//! Every address is checked where it is connected to: a name that resolves to a
//! private address, now or at the second look, leads nowhere. Redirects are
//! followed by hand, each like the first URL.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::{
    Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
    redirect::Policy,
};
use url::{Host, Url};

use crate::config::ImageUrlSettings;

/// Redirects that are followed for one image.
const MAX_REDIRECTS: usize = 3;

/// Fetches images, if the operator allows it.
pub struct ImageFetcher {
    settings: ImageUrlSettings,
    client: reqwest::Client,
    reachable: fn(IpAddr) -> bool,
}

/// Why an image could not be fetched; the message is for the caller.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("image URLs are not allowed here; send the image itself, as base64, a data URI or a file")]
    NotAllowed,
    #[error("`{0}` is not an http or https URL without a user name")]
    Malformed(String),
    /// Which address it was is not told: that would make a map of the network.
    #[error("`{0}` is not on a public server")]
    NotPublic(String),
    #[error("`{host}` could not be asked: {reason}")]
    Failed { host: String, reason: String },
    #[error("the image at `{host}` has more than {most} bytes")]
    TooLarge { host: String, most: usize },
    #[error("`{host}` did not send the image within {ms} ms")]
    TimedOut { host: String, ms: u64 },
}

impl ImageFetcher {
    /// Asks public addresses only.
    pub fn new(settings: &ImageUrlSettings) -> reqwest::Result<Self> {
        Self::reaching(settings, is_public)
    }

    fn reaching(settings: &ImageUrlSettings, reachable: fn(IpAddr) -> bool) -> reqwest::Result<Self> {
        crate::tls::install();
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            // A proxy would look names up by itself.
            .no_proxy()
            .dns_resolver(Arc::new(PublicOnly { reachable }))
            .build()?;
        Ok(Self { settings: settings.clone(), client, reachable })
    }

    /// The bytes at `url`, whatever they are.
    pub async fn fetch(&self, url: &str) -> Result<Bytes, FetchError> {
        if !self.settings.allowed {
            return Err(FetchError::NotAllowed);
        }
        let limit = Duration::from_millis(self.settings.timeout_ms);
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        tokio::time::timeout(limit, self.follow(url)).await.unwrap_or_else(|_| {
            Err(FetchError::TimedOut { host: host.unwrap_or_default(), ms: self.settings.timeout_ms })
        })
    }

    async fn follow(&self, url: &str) -> Result<Bytes, FetchError> {
        let mut url = Url::parse(url).map_err(|_| FetchError::Malformed(shortened(url)))?;
        for _ in 0..=MAX_REDIRECTS {
            let host = self.check(&url)?;
            let failed = |reason: String| FetchError::Failed { host: host.clone(), reason };
            let response = self.client.get(url.clone()).send().await.map_err(|error| {
                if is_refused_address(&error) {
                    FetchError::NotPublic(host.clone())
                } else {
                    failed(kind(&error))
                }
            })?;
            let status = response.status();
            if status.is_redirection() {
                let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
                url = target
                    .and_then(|target| url.join(target).ok())
                    .ok_or_else(|| failed("it redirects to nowhere".into()))?;
                continue;
            }
            if !status.is_success() {
                return Err(failed(format!("it answered {status}")));
            }
            return self.body(response, host).await;
        }
        Err(FetchError::Failed {
            host: url.host_str().unwrap_or_default().to_owned(),
            reason: format!("more than {MAX_REDIRECTS} redirects"),
        })
    }

    /// The host of a URL that may be asked. A literal address never reaches the resolver.
    fn check(&self, url: &Url) -> Result<String, FetchError> {
        let plain = ["http", "https"].contains(&url.scheme())
            && url.username().is_empty()
            && url.password().is_none();
        let Some(host) = url.host().filter(|_| plain) else {
            return Err(FetchError::Malformed(shortened(url.as_str())));
        };
        let reachable = match host {
            Host::Domain(_) => true,
            Host::Ipv4(address) => (self.reachable)(address.into()),
            Host::Ipv6(address) => (self.reachable)(address.into()),
        };
        if reachable { Ok(host.to_string()) } else { Err(FetchError::NotPublic(host.to_string())) }
    }

    async fn body(&self, response: Response, host: String) -> Result<Bytes, FetchError> {
        let most = self.settings.max_bytes;
        let too_large = || FetchError::TooLarge { host: host.clone(), most };
        if response.content_length().is_some_and(|length| length > most as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk =
                chunk.map_err(|error| FetchError::Failed { host: host.clone(), reason: kind(&error) })?;
            if body.len() + chunk.len() > most {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// Resolves names to reachable addresses and fails when there is none.
struct PublicOnly {
    reachable: fn(IpAddr) -> bool,
}

#[derive(Debug, thiserror::Error)]
#[error("no public address")]
struct NoPublicAddress;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let reachable = self.reachable;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| reachable(address.ip())).collect();
            if public.is_empty() {
                return Err(NoPublicAddress.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn is_refused_address(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes
        .into_iter()
        .any(|cause| cause.is::<NoPublicAddress>() || cause.to_string() == NoPublicAddress.to_string())
}

/// What went wrong, without addresses.
fn kind(error: &reqwest::Error) -> String {
    let kind = match error {
        error if error.is_timeout() => "it took too long",
        error if error.is_connect() => "no connection",
        _ => "the answer broke off",
    };
    kind.to_owned()
}

fn shortened(url: &str) -> String {
    url.chars().take(80).collect()
}

/// Whether an address is one of the public internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let bytes = address.octets();
    let inner = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    match (a, b) {
        // NAT64 and 6to4 carry an IPv4 address.
        (0x64, 0xff9b) => is_public_v4(inner(12)),
        (0x2002, _) => is_public_v4(inner(2)),
        // Teredo, ORCHID and documentation.
        (0x2001, second) => second >= 0x200 && second != 0xdb8,
        // Global unicast is 2000::/3.
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::path};

    use super::*;

    fn settings() -> ImageUrlSettings {
        ImageUrlSettings { allowed: true, max_bytes: 100, timeout_ms: 500 }
    }

    /// For servers of tests, which are all local.
    fn anywhere() -> ImageFetcher {
        ImageFetcher::reaching(&settings(), |_| true).unwrap()
    }

    async fn refused(fetcher: &ImageFetcher, url: &str) -> FetchError {
        fetcher.fetch(url).await.unwrap_err()
    }

    #[test]
    fn special_addresses_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "198.18.0.1",
            "203.0.113.5",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "64:ff9b::101:101", "2001:4860::1"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_unless_it_is_allowed() {
        let fetcher = ImageFetcher::new(&ImageUrlSettings::default()).unwrap();
        assert!(matches!(refused(&fetcher, "http://example.com/cat.png").await, FetchError::NotAllowed));
    }

    #[tokio::test]
    async fn local_servers_are_not_reached_under_any_name() {
        let server = MockServer::start().await;
        let port = server.address().port();
        let fetcher = ImageFetcher::new(&settings()).unwrap();
        for host in
            ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"]
        {
            let error = refused(&fetcher, &format!("http://{host}:{port}/cat.png")).await;
            assert!(matches!(error, FetchError::NotPublic(_)), "{host}: {error:?}");
        }
        assert!(server.received_requests().await.unwrap().is_empty());
        for url in ["file:///etc/passwd", "ftp://example.com/a", "http://user@example.com/a", "cat.png", ""] {
            assert!(matches!(refused(&fetcher, url).await, FetchError::Malformed(_)), "{url}");
        }
    }

    #[tokio::test]
    async fn redirects_are_checked_like_the_first_url() {
        let server = MockServer::start().await;
        let to = |target: &str| ResponseTemplate::new(302).insert_header("location", target);
        Mock::given(path("/inside")).respond_with(to("http://10.0.0.1/")).mount(&server).await;
        Mock::given(path("/file")).respond_with(to("file:///etc/passwd")).mount(&server).await;
        Mock::given(path("/round")).respond_with(to("/round")).mount(&server).await;
        Mock::given(path("/once")).respond_with(to("/cat.png")).mount(&server).await;
        Mock::given(path("/cat.png"))
            .respond_with(ResponseTemplate::new(200).set_body_bytes([7u8; 9]))
            .mount(&server)
            .await;
        let no_private = ImageFetcher::reaching(&settings(), |address| address.is_loopback()).unwrap();
        let at = |path: &str| format!("{}{path}", server.uri());
        assert!(matches!(refused(&no_private, &at("/inside")).await, FetchError::NotPublic(_)));
        assert!(matches!(refused(&no_private, &at("/file")).await, FetchError::Malformed(_)));
        assert!(refused(&no_private, &at("/round")).await.to_string().contains("redirects"));
        assert_eq!(no_private.fetch(&at("/once")).await.unwrap()[..], [7; 9]);
    }

    #[tokio::test]
    async fn size_and_time_are_bounded() {
        let server = MockServer::start().await;
        Mock::given(path("/big"))
            .respond_with(ResponseTemplate::new(200).set_body_bytes(vec![0; 101]))
            .mount(&server)
            .await;
        let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(20));
        Mock::given(path("/slow")).respond_with(slow).mount(&server).await;
        let big = refused(&anywhere(), &format!("{}/big", server.uri())).await;
        assert!(matches!(big, FetchError::TooLarge { .. }), "{big:?}");
        let slow = refused(&anywhere(), &format!("{}/slow", server.uri())).await;
        assert!(slow.to_string().contains("500 ms") || slow.to_string().contains("too long"), "{slow}");
        let gone = refused(&anywhere(), &format!("{}/gone", server.uri())).await;
        assert!(gone.to_string().contains("404"), "{gone}");
    }
}
