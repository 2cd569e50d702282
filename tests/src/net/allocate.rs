//! What the API server adds to a Service: cluster addresses and node ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::address::Families;

/// The prefixes of cluster addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/12,fd00:10:96::/108";

/// Gives numbers to Services. A Service keeps its number as long as it exists; a new one takes the lowest
/// that is free, so the same files lead to the same addresses.
#[derive(Debug, Default)]
pub struct Allocator {
    families: Families,
    numbers: BTreeMap<String, u16>,
    node_ports: BTreeMap<String, i32>,
}

/// What was newly given to which Service, in words.
pub type Added = Vec<String>;

impl Allocator {
    /// For a cluster that has these families.
    pub fn new(families: Families) -> Self {
        Self { families, ..Self::default() }
    }

    /// Completes all Services that exist now. What is written in them already stays.
    pub fn complete(&mut self, services: &mut [Service]) -> Result<Added> {
        let names: BTreeSet<String> = services.iter().map(full_name).collect();
        self.numbers.retain(|name, _| names.contains(name));
        self.node_ports.retain(|key, _| key.rsplit_once('|').is_some_and(|(name, _)| names.contains(name)));
        let mut taken: BTreeSet<i32> = services
            .iter()
            .flat_map(|service| service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()))
            .filter_map(|port| port.node_port)
            .chain(self.node_ports.values().copied())
            .collect();
        let mut added = Vec::new();
        for service in services {
            let name = full_name(service);
            let spec = service.spec.get_or_insert_default();
            let kind = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
            if kind == "ExternalName" || spec.cluster_ip.as_deref() == Some("None") {
                continue;
            }
            self.add_addresses(&name, spec, &mut added)?;
            if kind == "NodePort" || kind == "LoadBalancer" {
                self.add_node_ports(&name, spec, &mut taken, &mut added)?;
            }
        }
        Ok(added)
    }

    fn add_addresses(&mut self, name: &str, spec: &mut ServiceSpec, added: &mut Added) -> Result<()> {
        let mut addresses = spec.cluster_ips.clone().unwrap_or_default();
        if addresses.is_empty() {
            addresses.extend(spec.cluster_ip.clone().filter(|address| !address.is_empty()));
        }
        let families = families(self.families, spec, &addresses);
        let is_new = !self.numbers.contains_key(name);
        for family in families.iter().skip(addresses.len()) {
            let address = cluster_address(self.number(name)?, family == "IPv6");
            if is_new {
                added.push(format!("Service {name} has the cluster address {address}"));
            }
            addresses.push(address.to_string());
        }
        spec.cluster_ip = addresses.first().cloned();
        spec.cluster_ips = Some(addresses);
        spec.ip_families = Some(families);
        Ok(())
    }

    fn add_node_ports(
        &mut self,
        name: &str,
        spec: &mut ServiceSpec,
        taken: &mut BTreeSet<i32>,
        added: &mut Added,
    ) -> Result<()> {
        for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let key = format!("{name}|{}/{protocol}", port.port);
            let number = match self.node_ports.get(&key) {
                Some(number) => *number,
                None => (30000..=32767)
                    .find(|number| !taken.contains(number))
                    .context("all node ports from 30000 to 32767 are in use")?,
            };
            taken.insert(number);
            if self.node_ports.insert(key, number).is_none() {
                added.push(format!("Service {name} has the node port {number} for {}/{protocol}", port.port));
            }
            port.node_port = Some(number);
        }
        Ok(())
    }

    fn number(&mut self, name: &str) -> Result<u16> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let used: BTreeSet<u16> = self.numbers.values().copied().collect();
        let number = (0..60_000).find(|number| !used.contains(number)).context("too many Services")?;
        self.numbers.insert(name.to_owned(), number);
        Ok(number)
    }
}

/// The families that the Service asks for, in its order; of those that it does not name as many as the cluster has.
fn families(cluster: Families, spec: &ServiceSpec, addresses: &[String]) -> Vec<String> {
    let there = cluster.of(["IPv4".to_owned(), "IPv6".to_owned()]);
    let of = |address: &String| if address.contains(':') { "IPv6" } else { "IPv4" }.to_owned();
    let mut families = spec.ip_families.clone().unwrap_or_else(|| addresses.iter().map(of).collect());
    if families.is_empty() {
        families.extend(there.first().cloned());
    }
    let dual = matches!(spec.ip_family_policy.as_deref(), Some("PreferDualStack" | "RequireDualStack"));
    if dual && families.len() == 1 {
        families.extend(there.into_iter().find(|family| !families.contains(family)));
    }
    families
}

/// The cluster address with a number; both families count from the 16th address on.
fn cluster_address(number: u16, v6: bool) -> IpAddr {
    let host = number + 16;
    if v6 {
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host).into()
    } else {
        let [high, low] = host.to_be_bytes();
        Ipv4Addr::new(10, 96, high, low).into()
    }
}

/// `NAMESPACE/NAME`.
pub(super) fn full_name(service: &Service) -> String {
    let metadata = &service.metadata;
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{super::manifests::Manifests, *};

    #[test]
    fn where_there_is_ipv6_alone_services_have_one_address() {
        let both = "kind: Service\nmetadata: {name: both}\nspec: {ipFamilyPolicy: PreferDualStack, ports: []}\n---\n";
        let any = "kind: Service\nmetadata: {name: any}\nspec: {ports: []}\n";
        let specs = completed(&mut Allocator::new(Families::Ipv6), &format!("{both}{any}"));
        assert_eq!(specs[0].cluster_ips.as_deref(), Some(&["fd00:10:96::10".to_owned()][..]));
        assert_eq!(specs[1].cluster_ips.as_deref(), Some(&["fd00:10:96::11".to_owned()][..]));
    }

    fn completed(allocator: &mut Allocator, text: &str) -> Vec<ServiceSpec> {
        let mut services = Manifests::parse(text).expect("valid").services;
        allocator.complete(&mut services).expect("there is room");
        services.into_iter().filter_map(|service| service.spec).collect()
    }

    #[test]
    fn addresses_follow_the_families_and_stay_while_the_service_exists() {
        let web =
            "kind: Service\nmetadata: {name: web}\nspec: {ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}\n";
        let old = "kind: Service\nmetadata: {name: old}\nspec: {ports: [{port: 80}]}\n---\n";
        let mut allocator = Allocator::default();
        let first = completed(&mut allocator, &format!("{old}{web}"));
        assert_eq!(first[0].cluster_ips.as_deref(), Some(&["10.96.0.16".to_owned()][..]));
        assert_eq!(first[1].cluster_ips.as_deref().map(<[_]>::len), Some(2));
        let second = completed(&mut allocator, web);
        assert_eq!(second[0].cluster_ips, first[1].cluster_ips);
        assert_eq!(second[0].cluster_ip.as_deref(), Some("10.96.0.17"));
    }

    #[test]
    fn what_is_written_stays_and_node_ports_do_not_collide() {
        let text = "kind: Service\nmetadata: {name: a}\nspec: {type: NodePort, clusterIP: 10.96.7.7, \
                    ports: [{port: 80, nodePort: 30000}, {port: 81}]}\n---\n\
                    kind: Service\nmetadata: {name: b}\nspec: {clusterIP: None, ports: [{port: 80}]}\n";
        let specs = completed(&mut Allocator::default(), text);
        assert_eq!(specs[0].cluster_ips.as_deref(), Some(&["10.96.7.7".to_owned()][..]));
        let ports: Vec<_> = specs[0].ports.iter().flatten().filter_map(|port| port.node_port).collect();
        assert_eq!(ports, [30000, 30001]);
        assert_eq!(specs[1].cluster_ip.as_deref(), Some("None"));
        assert_eq!(specs[1].cluster_ips, None);
    }
}
