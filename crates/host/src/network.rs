//! Links, addresses, network namespaces and packet filter tables, through `ip -batch` and `nft -f`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::program;
use crate::error::{Error, Result, io};

/// Where `ip netns` keeps the names.
const NETNS_FOLDER: &str = "/run/netns";

/// The protocol number of our routes (rtnetlink(7), `rtm_protocol`): one that iproute2 gives to nobody.
const ROUTE_PROTOCOL: &str = "77";

/// A bridge with the host's own address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Link name, at most 15 letters.
    pub name: String,
    /// The host's address with prefix length, such as `10.88.0.1/24`.
    pub address: String,
}

/// A machine's end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name of the host's end.
    pub host_link: String,
    /// Network namespace of the machine's end, called `eth0` there.
    pub netns: String,
    /// MAC address of the machine's end.
    pub mac: String,
    /// The machine's address with prefix length.
    pub address: String,
    /// Its default route.
    pub gateway: String,
}

/// Path of a named network namespace.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_FOLDER).join(name)
}

/// Tells whether a link exists in this network namespace.
pub fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Names of the links of this network namespace.
pub fn links() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Makes the bridge with its address; one that is there is completed.
pub fn ensure_bridge(bridge: &Bridge) -> Result<()> {
    if !link_exists(&bridge.name) {
        batch(None, &[format!("link add {} type bridge", bridge.name)])?;
    }
    batch(
        None,
        &[
            format!("address replace {} dev {}", bridge.address, bridge.name),
            format!("link set {} up", bridge.name),
        ],
    )
}

/// Makes the named network namespace and its port on the bridge. Every command can be repeated, so that what a crash
/// interrupted is completed by the next call.
pub fn ensure_port(bridge: &str, port: &Port) -> Result<()> {
    if !netns_path(&port.netns).exists() {
        program("ip").args(["netns", "add", &port.netns]).run()?;
    }
    if !link_exists(&port.host_link) {
        let (link, mac, netns) = (&port.host_link, &port.mac, &port.netns);
        batch(
            None,
            &[format!(
                "link add {link} type veth peer name eth0 address {mac} netns {netns}"
            )],
        )?;
    }
    batch(None, &[format!("link set {} master {bridge} up", port.host_link)])?;
    batch(
        Some(&port.netns),
        &[
            "link set lo up".to_owned(),
            format!("address replace {} dev eth0", port.address),
            "link set eth0 up".to_owned(),
            format!("route replace default via {}", port.gateway),
        ],
    )
}

/// Runs `ip` commands in one process, in a named network namespace or this one.
pub fn batch(netns: Option<&str>, lines: &[String]) -> Result<()> {
    let program = match netns {
        Some(name) => program("ip").args(["-netns", name]),
        None => program("ip"),
    };
    program
        .args(["-batch", "-"])
        .input(lines.join("\n") + "\n")
        .run()
        .map(drop)
}

/// A route by way of a neighbour on one link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The addresses that it leads to, with prefix length.
    pub range: String,
    /// The neighbour.
    pub via: String,
}

/// Lists the routes over a link that [`add_route`] made; others' are told apart by their protocol number.
///
/// # Errors
/// When there is no such link.
pub fn routes(link: &str) -> Result<Vec<Route>> {
    #[derive(serde::Deserialize)]
    struct Shown {
        dst: String,
        gateway: Option<String>,
    }
    let text = program("ip")
        .args(["-j", "route", "show", "dev", link, "proto", ROUTE_PROTOCOL])
        .run()?;
    let shown: Vec<Shown> = serde_json::from_str(&text).map_err(|error| Error::Damaged {
        path: PathBuf::from("the output of ip route"),
        line: error.line(),
        message: error.to_string(),
    })?;
    Ok(shown
        .into_iter()
        .filter_map(|route| {
            Some(Route {
                range: route.dst,
                via: route.gateway?,
            })
        })
        .collect())
}

/// Adds a route over a link; it goes when the link goes.
///
/// # Errors
/// Also when the computer has a route to this very range already: it is somebody else's.
pub fn add_route(link: &str, route: &Route) -> Result<()> {
    let Route { range, via } = route;
    batch(
        None,
        &[format!(
            "route add {range} via {via} dev {link} proto {ROUTE_PROTOCOL}"
        )],
    )
}

/// Removes a route that [`add_route`] made; a missing one is no error.
pub fn remove_route(link: &str, route: &Route) -> Result<()> {
    let Route { range, via } = route;
    let line = format!("route del {range} via {via} dev {link} proto {ROUTE_PROTOCOL}");
    gone_is_fine(batch(None, &[line]).map(|()| String::new()), || {
        routes(link).is_ok_and(|held| !held.contains(route))
    })
}

/// Removes a link; a missing one is no error.
pub fn delete_link(name: &str) -> Result<()> {
    if !link_exists(name) {
        return Ok(());
    }
    gone_is_fine(program("ip").args(["link", "delete", name]).run(), || {
        !link_exists(name)
    })
}

/// Removes a named network namespace; a missing one is no error.
pub fn delete_netns(name: &str) -> Result<()> {
    if !netns_path(name).exists() {
        return Ok(());
    }
    gone_is_fine(program("ip").args(["netns", "delete", name]).run(), || {
        !netns_path(name).exists()
    })
}

/// Loads a packet filter script (`nft -f -`), as one transaction.
pub fn load_rules(script: &str) -> Result<()> {
    program("nft").args(["-f", "-"]).input(script).run().map(drop)
}

/// Loads packet filter commands in JSON form (`nft -j -f -`), as one transaction.
pub fn load_rules_json(commands: &serde_json::Value) -> Result<()> {
    program("nft")
        .args(["-j", "-f", "-"])
        .input(commands.to_string())
        .run()
        .map(drop)
}

/// Which remembered UDP flows [`forget_udp_flows`] forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Those that were sent to the address.
    SentTo,
    /// Those that the address answers.
    AnsweredBy,
}

/// Makes the kernel forget UDP flows of an address and port; none is no error.
pub fn forget_udp_flows(side: Side, address: std::net::IpAddr, port: u16) -> Result<()> {
    let (host, number) = match side {
        Side::SentTo => ("--orig-dst", "--orig-port-dst"),
        Side::AnsweredBy => ("--reply-src", "--reply-port-src"),
    };
    let (address, port) = (address.to_string(), port.to_string());
    let deleted = program("conntrack")
        .args(["-D", "-p", "udp", host, &address, number, &port])
        .run();
    match deleted {
        Err(error) if mainstay_base::error::chain(&error).contains("0 flow entries") => Ok(()),
        other => other.map(drop),
    }
}

/// Names of the tables of family `inet`.
pub fn tables() -> Result<Vec<String>> {
    let text = program("nft").args(["list", "tables"]).run()?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "))
        .map(str::to_owned)
        .collect())
}

/// Removes a table of family `inet`; a missing one is no error.
pub fn delete_table(name: &str) -> Result<()> {
    // Adding before deleting makes the pair succeed whether or not the table is there.
    load_rules(&format!("add table inet {name}\ndelete table inet {name}\n"))
}

/// Lets machines of a subnet reach what the host reaches, under the host's address.
pub fn masquerade(table: &str, bridge: &str, subnet: &str) -> Result<()> {
    load_rules(&format!(
        "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority srcnat; policy accept;\n    \
         ip saddr {subnet} oifname != \"{bridge}\" masquerade\n  }}\n}}\n"
    ))
}

/// Reads a kernel setting by its name with dots.
pub fn sysctl(name: &str) -> Result<String> {
    let path = sysctl_path(name);
    fs::read_to_string(&path)
        .map(|text| text.trim().to_owned())
        .map_err(io("read", &path))
}

/// Writes a kernel setting.
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = sysctl_path(name);
    fs::write(&path, value).map_err(io("write", &path))
}

fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

fn gone_is_fine(result: Result<String>, gone: impl FnOnce() -> bool) -> Result<()> {
    match result {
        Err(Error::Program { .. }) if gone() => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_connects_a_namespace_to_the_bridge_and_goes_without_a_trace() {
        let id = std::process::id() % 100_000;
        let bridge = Bridge {
            name: format!("mst{id}"),
            address: "10.213.77.1/24".to_owned(),
        };
        let port = Port {
            host_link: format!("msv{id}"),
            netns: format!("mainstay-test-{id}"),
            mac: "02:00:00:00:00:07".to_owned(),
            address: "10.213.77.2/24".to_owned(),
            gateway: "10.213.77.1".to_owned(),
        };
        let check = || -> Result<()> {
            ensure_bridge(&bridge)?;
            ensure_bridge(&bridge)?;
            ensure_port(&bridge.name, &port)?;
            ensure_port(&bridge.name, &port)?;
            let shown = program("ip")
                .args(["-netns", &port.netns, "-br", "address"])
                .run()?;
            assert!(shown.contains("10.213.77.2/24"), "{shown}");
            let route = Route {
                range: "10.213.78.0/24".to_owned(),
                via: "10.213.77.2".to_owned(),
            };
            forget_udp_flows(Side::SentTo, std::net::Ipv4Addr::new(192, 0, 2, 1).into(), 9)?;
            add_route(&bridge.name, &route)?;
            assert!(add_route(&bridge.name, &route).is_err());
            assert_eq!(routes(&bridge.name)?, std::slice::from_ref(&route));
            remove_route(&bridge.name, &route)?;
            remove_route(&bridge.name, &route)?;
            assert_eq!(routes(&bridge.name)?, []);
            masquerade(&bridge.name, &bridge.name, "10.213.77.0/24")
        };
        let result = check();
        for _ in 0..2 {
            delete_link(&port.host_link).unwrap();
            delete_netns(&port.netns).unwrap();
            delete_link(&bridge.name).unwrap();
            delete_table(&bridge.name).unwrap();
        }
        result.unwrap();
        assert!(!tables().unwrap().contains(&bridge.name));
    }
}
