//! The page as HTML: words and shapes besides colour, native elements for the keyboard, no build step.

use maud::{DOCTYPE, Markup, html};

use crate::view::{Doing, HostView, Mark, PlaceView, PoolView, RackView, View};

/// Served at `/style.css`.
pub const STYLE: &str = include_str!("style.css");
/// Served at `/app.js`: follows the stream, keeps focus and what is open.
pub const SCRIPT: &str = include_str!("app.js");

/// The whole page.
pub fn page(view: &View) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Mainstay" }
                link rel="stylesheet" href="/style.css";
                script src="/app.js" defer {}
            }
            body {
                a.skip href="#places" { "Skip to machines" }
                header {
                    h1 { "Mainstay" }
                    label for="filter" { "Show hosts with " }
                    input id="filter" type="search" autocomplete="off";
                    p id="connection" role="status" { "connecting" }
                }
                main id="live" { (live(view)) }
                footer { a href="/view.json" { "The same as JSON" } }
            }
        }
    }
    .into_string()
}

/// The part that changes.
pub fn live(view: &View) -> Markup {
    html! {
        (verdict(view))
        (list("Tickets that wait for people", "tickets", &view.tickets, ""))
        (list("What automation does now", "doing", &view.doing, "Nothing is under way."))
        (clusters(view))
        section id="places" aria-label="Machines" {
            @if view.places.is_empty() { p { "No data centre is registered yet." } }
            @for center in &view.places { (place(center)) }
        }
    }
}

fn verdict(view: &View) -> Markup {
    let (bad, all) = view.bad_hosts;
    let word = match view.mark {
        Mark::Well => "Healthy",
        Mark::Busy => "Working",
        Mark::Bad => "Degraded",
    };
    html! {
        p id="verdict" role="status" data-mark=(word) {
            span.shape aria-hidden="true" { (shape(view.mark)) } " " strong { (word) }
            @if !view.since.is_empty() { " since " time datetime=(view.since) { (view.since) } }
            ": " (all - bad) " of " (all) " hosts are well"
            @if bad > 0 { "; not well: " (by_rack(view)) }
            "."
        }
    }
}

/// `16 in rack r17`, for the pattern to be seen.
fn by_rack(view: &View) -> String {
    let racks = view.places.iter().flat_map(|place| &place.racks);
    let counts = racks
        .filter(|rack| rack.bad > 0)
        .map(|rack| format!("{} in rack {}", rack.bad, rack.name));
    counts.collect::<Vec<_>>().join(", ")
}

fn list(title: &str, id: &str, items: &[Doing], none: &str) -> Markup {
    html! {
        @if !items.is_empty() || !none.is_empty() {
            section id=(id) aria-labelledby={ (id) "-title" } {
                h2 id={ (id) "-title" } { (title) }
                @if items.is_empty() { p { (none) } }
                @else { ul { @for item in items {
                    li {
                        strong { (item.object) } ": " (item.what)
                        @if !item.since.is_empty() { " (since " time datetime=(item.since) { (item.since) } ")" }
                    }
                } } }
            }
        }
    }
}

fn clusters(view: &View) -> Markup {
    html! {
        @if !view.clusters.is_empty() || !view.pools.is_empty() {
            section id="clusters" aria-labelledby="clusters-title" {
                h2 id="clusters-title" { "Clusters and capacity" }
                @for cluster in &view.clusters {
                    p { "Cluster " strong { (cluster.name) } ": " (cluster.phase) " " small { (cluster.version) } }
                }
                @if !view.pools.is_empty() {
                    table {
                        caption { "Pools" }
                        thead { tr {
                            th scope="col" { "Pool" } th scope="col" { "Nodes ready" }
                            th scope="col" { "Range" } th scope="col" { "Spare hosts" }
                        } }
                        tbody { @for pool in &view.pools { (pool_row(pool)) } }
                    }
                }
            }
        }
    }
}

fn pool_row(pool: &PoolView) -> Markup {
    let range = match pool.range {
        Some((min, max)) if pool.wanted >= max => format!("{min} to {max}: at its maximum"),
        Some((min, max)) => format!("{min} to {max}"),
        None => "fixed".into(),
    };
    let mark = if pool.ready < pool.wanted {
        Mark::Busy
    } else {
        Mark::Well
    };
    html! {
        tr data-pool=(pool.name) {
            th scope="row" { (pool.name) }
            td { span.shape aria-hidden="true" { (shape(mark)) } " " (pool.ready) " of " (pool.wanted) }
            td { (range) }
            td { (pool.spare) }
        }
    }
}

fn place(center: &PlaceView) -> Markup {
    html! {
        section {
            h2 { "Data centre " (center.name) }
            div.racks { @for rack in &center.racks { (rack_box(rack)) } }
        }
    }
}

fn rack_box(rack: &RackView) -> Markup {
    html! {
        section.rack data-rack=(rack.name) {
            h3 { "Rack " (rack.name) " " small { "zone " (rack.zone) } }
            @if rack.bad > 0 { p.bad { (rack.bad) " of " (rack.hosts.len()) " not well" } }
            @if rack.hosts.is_empty() { p { "No host is registered here." } }
            ul { @for host in &rack.hosts { (host_item(host)) } }
        }
    }
}

fn host_item(host: &HostView) -> Markup {
    let id = format!("host-{}-{}", host.namespace, host.name);
    html! {
        li.host data-host=(host.name) data-mark=[mark_class(host.mark)] {
            details id=(id) {
                summary id={ (id) "-summary" } {
                    span.shape aria-hidden="true" { (shape(host.mark)) } " "
                    strong { (host.name) } " " small { (host.sku) } " "
                    span.state { (host.state) }
                    @if !host.machine.is_empty() { ": " (host.machine) }
                    @if host.mark == Mark::Bad { ", not well" }
                }
                @for note in &host.notes { p { (note) } }
                p { "Power " (host.power) @if host.unit > 0 { ", unit " (host.unit) } }
                p { code { "mainstay why host/" (host.name) } }
                p { code { "kubectl get host " (host.name) " -n " (host.namespace) " -o yaml" } }
            }
        }
    }
}

fn mark_class(mark: Mark) -> Option<&'static str> {
    match mark {
        Mark::Well => None,
        Mark::Busy => Some("busy"),
        Mark::Bad => Some("bad"),
    }
}

/// Never colour alone.
fn shape(mark: Mark) -> &'static str {
    match mark {
        Mark::Well => "●",
        Mark::Busy => "◐",
        Mark::Bad => "▲",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_faults_have_a_shape_and_a_word() {
        let host = HostView {
            name: "<img src=x onerror=alert(1)>".into(),
            notes: vec!["\"><script>alert(2)</script>".into()],
            mark: Mark::Bad,
            ..HostView::default()
        };
        let rack = RackView {
            name: "r1".into(),
            hosts: vec![host],
            bad: 1,
            ..RackView::default()
        };
        let view = View {
            mark: Mark::Bad,
            bad_hosts: (1, 1),
            places: vec![PlaceView {
                name: "dc1".into(),
                racks: vec![rack],
            }],
            ..View::default()
        };
        let text = page(&view);
        assert!(!text.contains("<img") && !text.contains("<script>"), "{text}");
        assert!(
            text.contains("▲") && text.contains("not well: 1 in rack r1"),
            "{text}"
        );
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        let text = page(&View::default());
        assert!(
            !text.contains("<style") && !text.contains("style=") && !text.contains("onclick"),
            "{text}"
        );
        assert_eq!(text.matches("<script").count(), 1, "{text}");
    }
}
