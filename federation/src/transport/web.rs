//! Reading the web over HTTPS: `/.well-known/matrix/server`, and content that a server keeps elsewhere.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::{connect::Connector, http::connect_error};
use crate::discovery::well_known::{Answer, age};

/// How long all of it may take, redirects included. Less than anybody has who waits for it, so that there
/// is time for what it was asked for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The largest document that is read.
const MAX_BYTES: usize = 64 * 1024;

type Http = Client<Connector, Full<Bytes>>;

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

/// One step on the way.
enum Step {
    Done(Answer),
    Redirect(Url),
}

/// Asks a host for the name that it delegates to. Every hop is HTTPS, with its address checked, and goes
/// into `hops`.
pub(super) async fn ask_well_known(http: &Http, host: &ServerName, hops: &mut Vec<Url>) -> Answer {
    let Ok(mut url) = Url::parse(&format!("https://{host}/.well-known/matrix/server")) else {
        return Answer::None(format!("{host} cannot be in a URL"));
    };
    let walk = async {
        for _ in 0..=MAX_REDIRECTS {
            match step(http, &url).await {
                Step::Done(answer) => return answer,
                Step::Redirect(next) => {
                    hops.push(next.clone());
                    url = next;
                }
            }
        }
        Answer::None(format!("more than {MAX_REDIRECTS} redirects"))
    };
    timeout(TIMEOUT, walk).await.unwrap_or_else(|_| {
        Answer::Failed(format!("no answer within {} seconds", TIMEOUT.as_secs()))
    })
}

async fn step(http: &Http, url: &Url) -> Step {
    let none = |why: String| Step::Done(Answer::None(why));
    let failed = |why: String| Step::Done(Answer::Failed(why));
    if url.scheme() != "https" {
        return none(format!("{url} is not HTTPS"));
    }
    let Ok(uri) = Uri::try_from(url.as_str()) else {
        return none(format!("{url} is no address"));
    };
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri;
    let response = match http.request(request).await {
        Ok(response) => response,
        Err(error) => {
            let why = connect_error(&error).map(|error| error.to_string());
            return failed(why.unwrap_or_else(|| told(&error)));
        }
    };
    let status = response.status();
    if status.is_redirection() {
        return redirect(url, response.headers());
    }
    if status.is_server_error() {
        return failed(format!("{url} answered {status}"));
    }
    if !status.is_success() {
        return none(format!("{url} answered {status}"));
    }
    let age = age(response.headers());
    match Limited::new(response.into_body(), MAX_BYTES).collect().await {
        Ok(body) => match serde_json::from_slice::<Document>(&body.to_bytes()) {
            Ok(document) => Step::Done(Answer::Delegated(document.server, age)),
            Err(error) => none(format!("{url} holds no m.server: {error}")),
        },
        Err(error) => failed(format!("{url}: {error}")),
    }
}

/// Reads an address, with its redirects. Every hop is HTTPS, with its address checked. The body is still to come.
pub(super) async fn fetch(http: &Http, mut url: Url) -> Result<Response<Incoming>, String> {
    for _ in 0..=MAX_REDIRECTS {
        if url.scheme() != "https" {
            return Err(format!("{url} is not HTTPS"));
        }
        let mut request = Request::new(Full::default());
        *request.uri_mut() =
            Uri::try_from(url.as_str()).map_err(|_| format!("{url} is no address"))?;
        let response = http.request(request).await.map_err(|error| {
            connect_error(&error).map_or_else(|| told(&error), |error| error.to_string())
        })?;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        match redirect(&url, response.headers()) {
            Step::Redirect(next) => url = next,
            Step::Done(_) => return Err(format!("{url} redirects nowhere")),
        }
    }
    Err(format!("more than {MAX_REDIRECTS} redirects"))
}

fn redirect(from: &Url, headers: &HeaderMap) -> Step {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    match location.and_then(|location| from.join(location).ok()) {
        Some(next) => Step::Redirect(next),
        None => Step::Done(Answer::None(format!("{from} redirects nowhere"))),
    }
}

/// An error with its causes: the outermost alone says little.
pub(super) fn told(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}
