//! The API described: the OpenAPI document, a page to read it, and the front page.

use std::sync::{Arc, LazyLock};

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use lyss_core::{Error, ErrorKind, Result};
use utoipa_swagger_ui::Config;

use super::{Call, internal};

const OPENAPI: &str = include_str!("../../openapi.json");
const ROOT: &str = include_str!("root.html");

/// Swagger UI, pointed to our document by a relative path so that a mounted router works as well.
static SWAGGER: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("../api/v1/openapi.json")));

pub(super) async fn openapi(_: Call) -> Result<Response> {
    Ok(fixed("application/json", OPENAPI.into()))
}

pub(super) async fn root(_: Call) -> Result<Response> {
    Ok(fixed("text/html; charset=utf-8", ROOT.into()))
}

pub(super) async fn redirect(_: Call) -> Result<Response> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_static("docs/"));
    Ok(response)
}

pub(super) async fn page(call: Call) -> Result<Response> {
    match utoipa_swagger_ui::serve(&call.param, SWAGGER.clone()) {
        Ok(Some(file)) => Ok(fixed(&file.content_type, file.bytes.into_owned().into())),
        Ok(None) => {
            let error = Error::new(ErrorKind::UnknownPath, "the documentation has no such file");
            call.counted(Err(error))
        }
        Err(error) => Err(internal().with_source(error.to_string())),
    }
}

fn fixed(content_type: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    crate::error::insert(headers, &http::header::CONTENT_TYPE, content_type);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
