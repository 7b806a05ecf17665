#![allow(clippy::unwrap_used)]
use super::*;

fn failure(status: u16, body: &str) -> Failure {
    Refusal::read(status, None, body.as_bytes()).into_failure(&[])
}

fn flat(code: &str, message: &str) -> String {
    format!(r#"{{"code":"{code}","message":"{message}","request_id":"r"}}"#)
}

#[test]
fn the_table_of_codes() {
    let after = |seconds| Retry::After(Duration::from_secs(seconds));
    // Status and code of the answer → status and code for the caller, what the dispatcher may do.
    for (status, code, shown, as_code, retry) in [
        (400, "InvalidParameter", 400, "invalid_value", Retry::Never),
        (
            400,
            "invalid_parameter_error",
            400,
            "invalid_value",
            Retry::Never,
        ),
        (
            400,
            "InvalidParameter.NotSupportEnableThinking",
            400,
            "invalid_value",
            Retry::Never,
        ),
        (
            400,
            "InternalError.Algo.InvalidParameter",
            400,
            "invalid_value",
            Retry::Never,
        ),
        (
            400,
            "BadRequest.EmptyInput",
            400,
            "invalid_value",
            Retry::Never,
        ),
        (
            400,
            "BadRequest.TooLarge",
            413,
            "request_too_large",
            Retry::Never,
        ),
        (
            400,
            "InvalidURL.ConnectionRefused",
            400,
            "invalid_value",
            Retry::Never,
        ),
        (409, "Conflict", 400, "invalid_value", Retry::Never),
        (
            400,
            "DataInspectionFailed",
            400,
            "content_filter",
            Retry::Never,
        ),
        (
            400,
            "data_inspection_failed",
            400,
            "content_filter",
            Retry::Never,
        ),
        (400, "Arrearage", 502, "upstream_error", after(3600)),
        (
            429,
            "PrepaidBillOverdue",
            502,
            "upstream_error",
            after(3600),
        ),
        (
            403,
            "AllocationQuota.FreeTierOnly",
            502,
            "upstream_error",
            after(3600),
        ),
        (
            401,
            "InvalidApiKey",
            502,
            "upstream_auth_failed",
            Retry::Elsewhere,
        ),
        (
            401,
            "invalid_api_key",
            502,
            "upstream_auth_failed",
            Retry::Elsewhere,
        ),
        (
            401,
            "NOT AUTHORIZED",
            502,
            "upstream_auth_failed",
            Retry::Elsewhere,
        ),
        (
            403,
            "AccessDenied.Unpurchased",
            502,
            "upstream_auth_failed",
            Retry::Elsewhere,
        ),
        (
            403,
            "Model.AccessDenied",
            502,
            "upstream_auth_failed",
            Retry::Elsewhere,
        ),
        (404, "ModelNotFound", 404, "model_not_found", Retry::Never),
        (404, "model_not_found", 404, "model_not_found", Retry::Never),
        (404, "Model.NotExist", 404, "model_not_found", Retry::Never),
        (429, "Throttling", 429, "rate_limited", after(2)),
        (429, "limit_requests", 429, "rate_limited", after(2)),
        (429, "Throttling.BurstRate", 429, "rate_limited", after(5)),
        (429, "insufficient_quota", 429, "rate_limited", after(10)),
        (
            429,
            "Throttling.AllocationQuota",
            429,
            "rate_limited",
            after(10),
        ),
        (
            500,
            "InternalError",
            502,
            "upstream_error",
            Retry::Elsewhere,
        ),
        (
            500,
            "internal_error",
            502,
            "upstream_error",
            Retry::Elsewhere,
        ),
        (
            500,
            "InternalError.Algo",
            502,
            "upstream_error",
            Retry::Elsewhere,
        ),
        (500, "RequestTimeOut", 504, "upstream_timeout", Retry::Never),
        (504, "GatewayTimeout", 504, "upstream_timeout", Retry::Never),
        (
            503,
            "ServiceUnavailable",
            502,
            "upstream_error",
            Retry::Elsewhere,
        ),
        (418, "NewCode", 418, "invalid_value", Retry::Never),
        (500, "NewCode", 502, "upstream_error", Retry::Elsewhere),
    ] {
        let error = failure(status, &flat(code, "m")).error;
        assert_eq!(
            (error.status(), error.code(), error.retry()),
            (shown, as_code, retry),
            "{status} {code}"
        );
    }
}

#[test]
fn every_shape_of_a_refusal_is_read() {
    let framed = "id:1\nevent:error\n:HTTP_STATUS/429\ndata:{\"code\":\"Throttling\",\ndata:\"message\":\"m\"}\n\n";
    for (status, body) in [
        (429, flat("Throttling", "m")),
        (
            429,
            r#"{"error":{"code":"Throttling","message":"m"}}"#.into(),
        ),
        (400, framed.into()),
        (200, framed.into()),
        (400, framed.replace('\n', "\r\n")),
    ] {
        let refusal = Refusal::read(status, None, body.as_bytes());
        assert_eq!(
            (refusal.status, &*refusal.code, &*refusal.message),
            (429, "Throttling", "m"),
            "{body}"
        );
    }
    // No API speaks there: the address is wrong, not the model's name.
    let nginx = failure(404, "<html>404 Not Found</html>").error;
    assert_eq!(nginx.kind(), ErrorKind::UpstreamError);
    let named = failure(404, r#"{"error":{"message":"no such model"}}"#).error;
    assert_eq!(named.kind(), ErrorKind::ModelNotFound);
}

#[test]
fn messages_tell_where_codes_do_not() {
    let long = flat(
        "InvalidParameter",
        "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
    );
    let error = failure(400, &long).error;
    assert_eq!(
        (error.status(), error.code()),
        (400, "context_length_exceeded")
    );
    // The same inside a stream, where the status must be read from the message.
    let inside = flat(
        "InternalError.Algo",
        "<400> InternalError.Algo.InvalidParameter: x",
    );
    assert_eq!(failure(200, &inside).error.status(), 400);
    let unknown = failure(400, &flat("InvalidParameter", "Model not exist.")).error;
    assert_eq!(unknown.kind(), ErrorKind::ModelNotFound);
    let remedy = |message: &str| failure(400, &flat("InvalidParameter", message)).remedy;
    assert_eq!(
        remedy("url error, please check url！ For details"),
        Some(Remedy::OtherPath)
    );
    assert_eq!(
        remedy("parameter.enable_thinking must be set to false for non-streaming calls"),
        Some(Remedy::Stream)
    );
    assert_eq!(remedy("other"), None);
}

#[test]
fn credentials_and_accounts_are_not_discussed_with_callers() {
    for body in [
        flat("InvalidApiKey", "Incorrect API key provided: sk-12"),
        flat(
            "Arrearage",
            "Access denied, account 12 is not in good standing.",
        ),
    ] {
        assert!(!failure(400, &body).error.message().contains("12"));
    }
}
