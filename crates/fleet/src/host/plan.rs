//! The life of a host as a pure function: Registering → Inspecting → Available ⇄ Provisioning → Provisioned →
//! Deprovisioning → Available, and BreakFix while a ticket is open.

use jiff::Timestamp;
use mainstay_api::{
    Host, HostState, HostStatus,
    conditions::{condition, reasons, set, types},
    host::Hardware,
};

/// Everything the plan depends on.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The host.
    pub host: Host,
    /// Its rack is registered.
    pub rack_exists: bool,
    /// Problems with hosts of the same identity.
    pub twins: Vec<String>,
    /// A ticket names it and is not resolved.
    pub open_ticket: bool,
    /// Its provider is there.
    pub provider_known: bool,
}

/// What must be done besides writing the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// Read its hardware.
    Inspect,
}

/// What is wrong with the asset's own fields.
fn problems(seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    if !seen.rack_exists {
        found.push(format!("spec.rack: there is no Rack {:?}", seen.host.spec.rack));
    }
    if seen.host.spec.sku.is_empty() {
        found.push("spec.sku: must be set".to_string());
    }
    if !seen.provider_known {
        found.push(format!(
            "spec.provider: there is no provider {:?}",
            seen.host.spec.provider
        ));
    }
    found.extend(seen.twins.iter().cloned());
    found
}

/// Decides one pass.
pub fn plan(seen: &Seen, now: Timestamp) -> (HostStatus, Next) {
    let mut status = seen.host.status.clone().unwrap_or_default();
    let problems = problems(seen);
    let reason = if problems.is_empty() {
        reasons::AS_EXPECTED
    } else {
        reasons::INVALID
    };
    set(
        &mut status.conditions,
        condition(
            types::VALID,
            problems.is_empty(),
            reason,
            problems.join("; "),
            now,
        ),
    );
    if seen.open_ticket {
        status.state = HostState::BreakFix;
        return (status, Next::Rest);
    }
    match status.state {
        // Only a complete and unambiguous asset is ever touched.
        HostState::Registering | HostState::Inspecting
            if problems.is_empty() && !seen.host.spec.unmanaged =>
        {
            status.state = HostState::Inspecting;
            (status, Next::Inspect)
        }
        // The ticket is resolved: the host is looked at as if it were new.
        HostState::BreakFix => {
            status.state = HostState::Registering;
            status.consumer_ref = None;
            (status, Next::Rest)
        }
        _ => (status, Next::Rest),
    }
}

/// Records what the inspection found.
pub fn inspected(status: &mut HostStatus, hardware: Hardware, now: Timestamp) {
    status.hardware = Some(hardware);
    status.state = HostState::Available;
    set(
        &mut status.conditions,
        condition(types::READY, true, reasons::AS_EXPECTED, "", now),
    );
}

/// Records why the inspection failed.
pub fn not_inspected(status: &mut HostStatus, problem: &str, now: Timestamp) {
    let message = format!("inspection failed: {problem}; tried again in 30 s");
    set(
        &mut status.conditions,
        condition(types::READY, false, reasons::WAITING, message, now),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_api::HostSpec;

    fn seen(state: HostState) -> Seen {
        let spec = HostSpec {
            rack: "r1".into(),
            sku: "small".into(),
            ..Default::default()
        };
        let mut host = Host::new("h", spec);
        host.status = Some(HostStatus {
            state,
            ..Default::default()
        });
        Seen {
            host,
            rack_exists: true,
            provider_known: true,
            ..Default::default()
        }
    }

    fn next(seen: &Seen) -> (HostState, Next) {
        let (status, next) = plan(seen, Timestamp::UNIX_EPOCH);
        (status.state, next)
    }

    #[test]
    fn a_complete_asset_is_inspected_and_an_incomplete_one_waits() {
        assert_eq!(
            next(&seen(HostState::Registering)),
            (HostState::Inspecting, Next::Inspect)
        );
        let lost = Seen {
            rack_exists: false,
            ..seen(HostState::Registering)
        };
        assert_eq!(next(&lost), (HostState::Registering, Next::Rest));
        let twin = Seen {
            twins: vec!["spec.serial".into()],
            ..seen(HostState::Registering)
        };
        assert_eq!(next(&twin), (HostState::Registering, Next::Rest));
    }

    #[test]
    fn an_open_ticket_keeps_a_host_out_until_it_is_resolved() {
        let open = Seen {
            open_ticket: true,
            ..seen(HostState::Available)
        };
        assert_eq!(next(&open), (HostState::BreakFix, Next::Rest));
        assert_eq!(
            next(&seen(HostState::BreakFix)),
            (HostState::Registering, Next::Rest)
        );
    }
}
