//! The page as HTML: words and shapes besides colour, no script but the stream, no build step.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::view::{HostView, RackView, View};

const STYLE: &str = "
:root{color-scheme:light dark;font:15px/1.45 system-ui,sans-serif}
body{margin:0 auto;max-width:72rem;padding:1rem}
.racks{display:flex;flex-wrap:wrap;gap:1rem}
.rack{border:1px solid #8888;border-radius:6px;padding:.6rem;min-width:15rem}
ul{list-style:none;margin:0;padding:0}
.host{border:1px solid #8886;border-radius:4px;margin:.35rem 0;padding:.35rem .5rem}
.host.bad{border-color:#c22;border-width:2px}
small{opacity:.75}";

/// Replaces the live part whenever the server sends it anew.
const SCRIPT: &str =
    "new EventSource('/events').onmessage=e=>{document.getElementById('live').innerHTML=e.data}";

/// The whole page.
pub fn page(view: &View) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Mainstay" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Mainstay" }
                main id="live" aria-live="polite" { (live(view)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// The part that changes.
pub fn live(view: &View) -> Markup {
    html! {
        @if view.places.is_empty() { p { "No data centre is registered yet." } }
        @for (name, ready, wanted) in &view.pools {
            p { "Pool " strong { (name) } ": " (ready) " of " (wanted) " nodes ready" }
        }
        @for place in &view.places {
            section {
                h2 { (place.name) }
                div.racks { @for rack in &place.racks { (rack_box(rack)) } }
            }
        }
    }
}

fn rack_box(rack: &RackView) -> Markup {
    html! {
        div.rack {
            h3 { (rack.name) " " small { (rack.zone) } }
            ul { @for host in &rack.hosts { (host_item(host)) } }
        }
    }
}

fn host_item(host: &HostView) -> Markup {
    html! {
        li.host.bad[!host.well] data-host=(host.name) {
            (if host.well { "● " } else { "▲ " }) strong { (host.name) } " " small { (host.sku) } br;
            (host.state) @if !host.machine.is_empty() { ": " (host.machine) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::PlaceView;

    #[test]
    fn names_are_escaped_and_faults_have_a_shape() {
        let host = HostView {
            name: "<h1>".into(),
            sku: "small".into(),
            state: "BreakFix".into(),
            machine: String::new(),
            well: false,
        };
        let rack = RackView {
            name: "r1".into(),
            zone: "z1".into(),
            hosts: vec![host],
        };
        let view = View {
            places: vec![PlaceView {
                name: "dc1".into(),
                racks: vec![rack],
            }],
            pools: Vec::new(),
        };
        let text = page(&view);
        assert!(
            text.contains("&lt;h1&gt;") && !text.contains("<strong><h1>"),
            "{text}"
        );
        assert!(text.contains("▲") && text.contains("host bad"), "{text}");
    }
}
