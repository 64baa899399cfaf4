use axum::{
    body::Body,
    http::{Response, StatusCode, header},
    response::IntoResponse,
};
use wire::docker::ErrorResponse;

use crate::error::{Error, Kind};

impl IntoResponse for Error {
    fn into_response(self) -> Response<Body> {
        let status = match self.kind() {
            Kind::InvalidParameter => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::NotModified => StatusCode::NOT_MODIFIED,
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Kind::System => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::NOT_MODIFIED {
            // RFC 9110 §15.4.5: no content.
            return status.into_response();
        }
        let message = self.to_string();
        if status.is_server_error() {
            tracing::error!(status = status.as_u16(), "{message}");
        }
        answer(status, message)
    }
}

/// An answer in Docker's error form.
pub(super) fn answer(status: StatusCode, message: String) -> Response<Body> {
    let body = serde_json::to_vec(&ErrorResponse { message }).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Docker answers a known path with another method as an unknown path, too.
pub(super) async fn no_such_route() -> Response<Body> {
    answer(StatusCode::NOT_FOUND, "page not found".to_owned())
}
