//! The HTTP surface: one table of routes, from which the router, the OpenAPI test and the access test are made.

mod admin;
mod chat;
pub(crate) use chat::describe;
mod docs;
mod embeddings;
mod health;
mod models;
mod requests;
mod sessions;
mod tokens;
mod usage;

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, RawPathParams, Request},
    response::Response,
    routing::{MethodFilter, MethodRouter},
};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use lyss_core::{
    Error, ErrorKind, Gateway, Result,
    types::{CallContext, RequestId},
};
use serde::{Serialize, de::DeserializeOwned};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::{App, RouterOptions, error, extract, rate};

/// Where the API lies: the contract's path, and the one that OpenAI's SDKs expect.
pub const API_PREFIXES: [&str; 2] = ["/api/v1", "/v1"];

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Anyone; the answer holds nothing of a caller's.
    Public,
    /// Callers: the gateway is asked with the request's credential.
    Caller,
    /// Admin keys: as `Caller`, and the gateway refuses all others.
    Admin,
}

/// One row of the table of routes.
pub struct Route {
    /// The method. `GET` includes `HEAD`.
    pub method: Method,
    /// The path; below [`API_PREFIXES`] if `api` is set. `{*name}` takes the rest of the path.
    pub path: &'static str,
    /// Whether the path lies below [`API_PREFIXES`].
    pub api: bool,
    /// Who may use it.
    pub policy: Policy,
    handler: Handler,
}

type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

/// One request on its way to a handler.
struct Call {
    app: Arc<App>,
    context: CallContext,
    parts: Parts,
    /// The path's parameter, decoded.
    param: String,
    body: Body,
}

macro_rules! routes {
    ($( $method:ident $scope:ident $path:literal $policy:ident $($handler:ident)::+; )*) => {
        /// The table of routes.
        pub fn table() -> Vec<Route> {
            vec![$( Route {
                method: Method::$method,
                path: $path,
                api: stringify!($scope).eq("api"),
                policy: Policy::$policy,
                handler: |call| Box::pin($($handler)::+(call)),
            }, )*]
        }
    };
}

routes! {
    POST   api  "/chat/completions"         Caller chat::create;
    POST   api  "/embeddings"               Caller embeddings::create;
    POST   api  "/tokens"                   Caller tokens::count;
    GET    api  "/models"                   Caller models::list;
    GET    api  "/models/{*id}"             Caller models::retrieve;
    POST   api  "/sessions"                 Caller sessions::create;
    GET    api  "/sessions"                 Caller sessions::list;
    GET    api  "/sessions/{id}"            Caller sessions::retrieve;
    DELETE api  "/sessions/{id}"            Caller sessions::delete;
    GET    api  "/sessions/{id}/messages"   Caller sessions::messages;
    GET    api  "/requests"                 Caller requests::list;
    GET    api  "/requests/{id}"            Caller requests::retrieve;
    GET    api  "/usage"                    Caller usage::totals;
    GET    api  "/admin/routing-rules"      Admin  admin::rules::list_rules;
    POST   api  "/admin/routing-rules"      Admin  admin::rules::add_rule;
    GET    api  "/admin/routing-rules/{id}" Admin  admin::rules::retrieve_rule;
    PUT    api  "/admin/routing-rules/{id}" Admin  admin::rules::put_rule;
    DELETE api  "/admin/routing-rules/{id}" Admin  admin::rules::delete_rule;
    GET    api  "/admin/prices"             Admin  admin::prices::list;
    POST   api  "/admin/prices"             Admin  admin::prices::add;
    GET    api  "/admin/prices/{id}"        Admin  admin::prices::retrieve;
    PUT    api  "/admin/prices/{id}"        Admin  admin::prices::put;
    DELETE api  "/admin/prices/{id}"        Admin  admin::prices::delete;
    GET    api  "/admin/budgets"            Admin  admin::budgets::list;
    POST   api  "/admin/budgets"            Admin  admin::budgets::add;
    GET    api  "/admin/budgets/{id}"       Admin  admin::budgets::retrieve;
    PUT    api  "/admin/budgets/{id}"       Admin  admin::budgets::put;
    DELETE api  "/admin/budgets/{id}"       Admin  admin::budgets::delete;
    GET    api  "/admin/keys"               Admin  admin::keys::list;
    POST   api  "/admin/keys"               Admin  admin::keys::add;
    GET    api  "/admin/keys/{id}"          Admin  admin::keys::retrieve;
    PATCH  api  "/admin/keys/{id}"          Admin  admin::keys::change;
    DELETE api  "/admin/keys/{id}"          Admin  admin::keys::revoke;
    POST   api  "/admin/keys/{id}/rotate"   Admin  admin::keys::rotate;
    GET    api  "/admin/providers"          Admin  admin::providers::list;
    POST   api  "/admin/providers"          Admin  admin::providers::add;
    GET    api  "/admin/providers/{id}"     Admin  admin::providers::retrieve;
    PUT    api  "/admin/providers/{id}"     Admin  admin::providers::put;
    DELETE api  "/admin/providers/{id}"     Admin  admin::providers::delete;
    GET    api  "/openapi.json"             Public docs::openapi;
    GET    root "/docs"                     Public docs::redirect;
    GET    root "/docs/"                    Public docs::page;
    GET    root "/docs/{*file}"             Public docs::page;
    GET    root "/health"                   Public health::health;
    GET    root "/ready"                    Public health::ready;
    GET    root "/"                         Public docs::root;
}

impl Route {
    /// The paths at which the route is served.
    pub fn paths(&self) -> Vec<String> {
        if self.api {
            API_PREFIXES
                .iter()
                .map(|prefix| format!("{prefix}{}", self.path))
                .collect()
        } else {
            vec![self.path.to_owned()]
        }
    }
}

/// The gateway as an axum router, to be served or mounted in another application.
pub fn router(gateway: Arc<dyn Gateway>, options: RouterOptions) -> Router {
    let cors = cors(&options.cors);
    let app = Arc::new(App { gateway, options });
    let mut methods: Vec<(String, MethodRouter)> = Vec::new();
    for route in table() {
        for path in route.paths() {
            let served = serve_route(&app, &route);
            match methods.iter_mut().find(|(known, _)| *known == path) {
                Some((_, router)) => *router = std::mem::take(router).merge(served),
                None => methods.push((path, served)),
            }
        }
    }
    let mut router = Router::new();
    for (path, methods) in methods {
        let app = app.clone();
        let refuse = move |request: Request| {
            let error = Error::new(
                ErrorKind::MethodNotAllowed,
                format!("this path has no method {}", request.method()),
            );
            std::future::ready(refusal(&app, &error))
        };
        router = router.route(&path, methods.fallback(refuse));
    }
    let unknown = move |request: Request| {
        let path: String = request.uri().path().chars().take(200).collect();
        let error = Error::new(
            ErrorKind::UnknownPath,
            format!("there is nothing at `{path}`; the API is described at /docs"),
        );
        std::future::ready(refusal(&app, &error))
    };
    let router = router.fallback(unknown);
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// The answer to a request that belongs to no route.
fn refusal(app: &App, error: &Error) -> Response {
    app.gateway.count_refused(error);
    error::response(error, RequestId::new())
}

fn serve_route(app: &Arc<App>, route: &Route) -> MethodRouter {
    let app = app.clone();
    let (policy, handler) = (route.policy, route.handler);
    let filter = match route.method {
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        Method::PATCH => MethodFilter::PATCH,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    axum::routing::on(filter, move |request: Request| {
        dispatch(app.clone(), policy, handler, request)
    })
}

async fn dispatch(app: Arc<App>, policy: Policy, handler: Handler, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let context = match prepare(&app, policy, &parts) {
        Ok(context) => context,
        Err(error) => return refusal(&app, &error),
    };
    let (id, report) = (context.request_id, context.report.clone());
    let param = match RawPathParams::from_request_parts(&mut parts, &()).await {
        Ok(params) => params
            .iter()
            .last() // where the router is mounted, the outer path may have parameters too
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default(),
        Err(_) => {
            let error = Error::new(ErrorKind::InvalidValue, "the path is not valid UTF-8");
            return refusal(&app, &error);
        }
    };
    let cut = app.options.shutdown.cut_token().clone();
    let call = Call {
        app,
        context,
        parts,
        param,
        body,
    };
    let answer = AssertUnwindSafe(handler(call)).catch_unwind();
    let answer = tokio::select! {
        biased;
        answer = answer => answer,
        () = cut.cancelled() => Ok(Err(shutting_down())),
    };
    // What another service has answered is known there under its own id.
    let id = report.request_id().unwrap_or(id);
    let mut response = match answer {
        Ok(Ok(mut response)) => {
            let mut text = uuid::Uuid::encode_buffer();
            let text = id.uuid().hyphenated().encode_lower(&mut text);
            error::insert(response.headers_mut(), &error::X_REQUEST_ID, text);
            response
        }
        Ok(Err(error)) => error::response(&error, id),
        // The panic hook has logged it; the caller learns the id and nothing else.
        Err(_) => error::response(&internal(), id),
    };
    if let Some(status) = report.rate() {
        rate::describe(response.headers_mut(), &status);
    }
    response
}

fn prepare(app: &App, policy: Policy, parts: &Parts) -> Result<CallContext> {
    if policy != Policy::Public && app.options.shutdown.is_draining() {
        return Err(shutting_down());
    }
    extract::context(parts)
}

/// The error of calls that come, or still run, at the end of the service.
pub(crate) fn shutting_down() -> Error {
    Error::new(
        ErrorKind::ShuttingDown,
        "the gateway is shutting down; send the request again",
    )
}

/// The error of a defect.
pub(crate) fn internal() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the gateway failed; the request id names the log line",
    )
}

impl Call {
    /// The body of a JSON request, and the rest of the call.
    async fn json_body(&mut self) -> Result<Bytes> {
        // First, so that nobody can make us hold bodies who may not call.
        self.app.gateway.authenticate(&mut self.context).await?;
        let options = &self.app.options;
        let read = async {
            extract::expect_json(&self.parts.headers)?;
            let body = std::mem::take(&mut self.body);
            let headers = &self.parts.headers;
            extract::read_body(body, headers, options.max_body, options.body_timeout).await
        };
        let read = read.await;
        self.counted(read)
    }

    /// The body as a value.
    async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let body = self.json_body().await?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            let kind = match error.classify() {
                serde_json::error::Category::Data => ErrorKind::InvalidValue,
                _ => ErrorKind::InvalidJson,
            };
            Error::new(kind, format!("the body is not accepted: {error}"))
        });
        self.counted(value)
    }

    /// The query as a value.
    fn query<T: DeserializeOwned>(&self) -> Result<T> {
        self.counted(extract::query(&self.parts))
    }

    /// Passes a result on; a failure is counted, since the gateway will never see the request.
    fn counted<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.app.gateway.count_refused(error))
    }
}

/// A value as a JSON answer.
fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response> {
    let text = serde_json::to_vec(value).map_err(|error| internal().with_source(error))?;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// The answer without a body.
fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// OpenAI's list, with the gateway's cursor where the listing has pages.
#[derive(Serialize)]
struct List<T> {
    object: &'static str,
    data: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<Option<String>>,
}

impl<T> List<T> {
    fn whole(data: Vec<T>) -> Self {
        Self {
            object: "list",
            data,
            next_cursor: None,
        }
    }

    fn page(data: Vec<T>, next_cursor: Option<String>) -> Self {
        Self {
            object: "list",
            data,
            next_cursor: Some(next_cursor),
        }
    }
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            // `*` does not stand for `authorization` (Fetch standard, CORS non-wildcard request-header name).
            .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
            .expose_headers(Any)
            .max_age(std::time::Duration::from_secs(600)),
    )
}
