//! TokenReview: telling other servers who a token belongs to.

use serde_json::{Value, json};

use super::{Authenticators, authenticated};
use crate::authz::review::user_info;
use crate::status::{ApiError, ApiResult};

/// Answers a TokenReview.
///
/// # Errors
/// 400 when it holds no token.
pub async fn token_review(authenticators: &Authenticators, mut review: Value) -> ApiResult<Value> {
    let token = review["spec"]["token"].as_str().unwrap_or_default().to_string();
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let asked = review["spec"]["audiences"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut audiences: Vec<String> = asked
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect();
    if audiences.is_empty() {
        audiences = authenticators.audiences().to_vec();
    }
    review["status"] = match authenticators.token(&token, &audiences).await {
        Ok(known) => json!({
            "authenticated": true,
            "user": user_info(&authenticated(known.user)),
            "audiences": known.audiences,
        }),
        Err(reason) => json!({"authenticated": false, "user": {}, "error": reason}),
    };
    Ok(review)
}
