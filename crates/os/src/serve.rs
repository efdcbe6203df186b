//! Serves the published repository over HTTP, for `ostree remote add` and installers: GET and HEAD of plain files.

use std::path::{Component, Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, Uri, header};

/// A router that answers with the files below a folder, and with 404 to everything else.
pub fn router(folder: PathBuf) -> Router {
    Router::new()
        .fallback(axum::routing::get(file))
        .with_state(folder)
}

async fn file(State(folder): State<PathBuf>, uri: Uri) -> Response {
    let Some(path) = below(&folder, uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // Objects are at most one package file big; ostree asks for whole files only.
    match tokio::fs::read(&path).await {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static(caching(&path)));
            response
        }
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Objects are named by their content; everything else changes.
fn caching(path: &Path) -> &'static str {
    let object = path.components().any(|part| part.as_os_str() == "objects");
    if object {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    }
}

/// The file that a request path means; `None` when it would leave the folder.
fn below(folder: &Path, request: &str) -> Option<PathBuf> {
    let relative = Path::new(request.trim_start_matches('/'));
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && !request.contains('%')).then(|| folder.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn only_files_below_the_folder_are_served() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("repo")).unwrap();
        std::fs::write(dir.path().join("repo/config"), "mode=archive").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let router = router(dir.path().join("repo"));
        assert_eq!(
            get(&router, "/config").await,
            (StatusCode::OK, "mode=archive".to_owned())
        );
        for path in ["/../secret", "/%2e%2e/secret", "/", "/nothing"] {
            assert_eq!(get(&router, path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }
}
