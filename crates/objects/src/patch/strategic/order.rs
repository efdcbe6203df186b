//! The order of a merged list: elements of the patch in the patch's order, the server's own in theirs, woven together
//! by the server's order where it knows both.

use serde_json::Value;

pub(super) fn matches_key(element: &Value, key: &str, wanted: &Value) -> bool {
    element.get(key) == Some(wanted)
}

/// Equal by merge key, or as a whole for primitives.
pub(super) fn same_element(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

fn position(list: &[Value], element: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| same_element(other, element, key))
}

pub(super) fn arrange(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (mut from_patch, mut server_only): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .partition(|item| position(patch_order, item, key).is_some());
    from_patch.sort_by_key(|item| position(patch_order, item, key));
    server_only.sort_by_key(|item| position(server_order, item, key));
    let mut out = Vec::with_capacity(from_patch.len() + server_only.len());
    let mut left = server_only.into_iter().peekable();
    let mut right = from_patch.into_iter().peekable();
    while let (Some(own), Some(patched)) = (left.peek(), right.peek()) {
        let places = (
            position(server_order, own, key),
            position(server_order, patched, key),
        );
        let own_first = matches!(places, (Some(own), Some(patched)) if own < patched);
        out.extend(if own_first { left.next() } else { right.next() });
    }
    out.extend(left);
    out.extend(right);
    out
}
