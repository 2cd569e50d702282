//! Command lines and files in, options and warnings out.

use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;

use super::*;

/// `config.conf` in the ConfigMap `kube-proxy` of a cluster made by kubeadm.
fn of_kubeadm() -> String {
    let map = include_str!("../../../examples/kube-proxy.yaml");
    let map: serde_json::Value = serde_saphyr::from_str(map).expect("it is YAML");
    map.pointer("/data/config.conf").and_then(serde_json::Value::as_str).expect("it has the key").to_owned()
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: AgentOptions,
}

/// Options of a command line with its words between spaces.
fn line(words: &str) -> Result<AgentOptions, clap::Error> {
    Line::try_parse_from(["agent"].into_iter().chain(words.split_whitespace())).map(|line| line.options)
}

/// Options and warnings of a command line and a file; the error as text.
fn both(words: &str, file: &str) -> Result<(AgentOptions, Vec<String>), String> {
    let mut options = line(words).map_err(|error| error.to_string())?;
    let mut warnings = kube_proxy_file::fill(&mut options, file)?;
    warnings.extend(options.complete().map_err(|error| error.to_string())?);
    Ok((options, warnings))
}

/// A file of the right kind with these fields.
fn file(fields: &str) -> String {
    format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{fields}\n")
}

fn nets(prefixes: &[&str]) -> Vec<IpNet> {
    prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect()
}

#[test]
fn the_file_that_kubeadm_writes_is_taken_as_it_is() {
    let (options, warnings) = both("--hostname-override=Node-1", &of_kubeadm()).expect("it is a good file");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(options.source.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    assert_eq!(options.settings().cluster_cidrs, Some(nets(&["10.244.0.0/16", "fd00:10:244::/48"])));
    assert_eq!(options.settings().timeouts, []);
    assert!(!options.settings().masquerade_all);
    assert_eq!(options.node_ports(), [node_ports::Entry::All], "iptables is kube-proxy's mode if none is given");
    assert_eq!(options.healthz_bind_address().to_string(), "0.0.0.0:10256");
    assert_eq!(options.metrics_bind_address().to_string(), "127.0.0.1:10249");
    assert_eq!(options.node_name().expect("it is given"), "node-1");
}

#[test]
fn fields_of_the_file_become_options() {
    let cases: &[(&str, &[&str])] = &[
        ("mode: iptables", &["--nodeport-addresses=all"]),
        ("mode: ipvs", &["--nodeport-addresses=all"]),
        ("mode: nftables", &["--nodeport-addresses=primary"]),
        ("mode: nftables\nnftables: {masqueradeAll: true}", &["--masquerade-all"]),
        ("mode: ipvs\niptables: {masqueradeAll: true}", &["--masquerade-all", "--nodeport-addresses=all"]),
        ("mode: nftables\niptables: {masqueradeAll: true}", &[]),
        ("nodePortAddresses: [10.0.0.0/8, primary]", &["--nodeport-addresses=10.0.0.0/8,primary"]),
        ("mode: nftables\nbindAddress: '::'", &["--bind-address=::"]),
        (
            "mode: nftables\nhealthzBindAddress: 10.0.0.1\nmetricsBindAddress: 0.0.0.0:9",
            &["--healthz-bind-address=10.0.0.1:10256", "--metrics-bind-address=0.0.0.0:9"],
        ),
        (
            "mode: nftables\nclusterCIDR: 10.1.0.0/16,fd00::/48\nhostnameOverride: one",
            &["--cluster-cidr=10.1.0.0/16,fd00::/48", "--node-name=one"],
        ),
        ("mode: nftables\ndetectLocalMode: NodeCIDR", &["--detect-local-mode=NodeCIDR"]),
        (
            "mode: nftables\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
        ),
        (
            "mode: nftables\ndetectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}",
            &["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"],
        ),
        ("mode: nftables\nfeatureGates: {AllowServiceExternalIPs: false}", &["--external-ip-cidrs=none"]),
        (
            "mode: nftables\nconntrack: {tcpEstablishedTimeout: 2h0m0s, tcpCloseWaitTimeout: 60s, udpTimeout: 5s, \
             udpStreamTimeout: 1m, tcpBeLiberal: true, maxPerCore: 0, min: 7}",
            &[
                "--conntrack-tcp-timeout-established=2h",
                "--conntrack-tcp-timeout-close-wait=1m",
                "--conntrack-udp-timeout=5s",
                "--conntrack-udp-timeout-stream=60s",
                "--conntrack-tcp-be-liberal",
                "--conntrack-max-per-core=0",
                "--conntrack-min=7",
            ],
        ),
        ("mode: nftables\nlogging: {format: json, verbosity: 5}", &["--logging-format=json", "-v=5"]),
    ];
    for (fields, flags) in cases {
        let (options, warnings) = both("", &file(fields)).unwrap_or_else(|error| panic!("{fields}: {error}"));
        assert_eq!(warnings, Vec::<String>::new(), "{fields}");
        let same = line(&flags.join(" ")).unwrap_or_else(|error| panic!("{flags:?}: {error}"));
        assert_eq!(outcome(&options), outcome(&same), "{fields}");
    }
}

/// What options come to.
fn outcome(options: &AgentOptions) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {} {} {:?} {:?} {:?} {}",
        options.settings(),
        options.conntrack.sysctls(64),
        options.local_devices(),
        options.external_ips(),
        options.node_ports(),
        options.healthz_bind_address(),
        options.metrics_bind_address(),
        options.node_name,
        options.source.kubeconfig,
        options.log_format(),
        options.log_level(),
    )
}

#[test]
fn what_a_flag_says_goes_before_the_file() {
    let text = file(
        "mode: iptables\nclusterCIDR: 10.1.0.0/16\nnodePortAddresses: [10.0.0.0/8]\niptables: {masqueradeAll: true}\n\
         clientConnection: {kubeconfig: /file}\nhealthzBindAddress: 0.0.0.0:1\nhostnameOverride: in-file",
    );
    let flags = "--proxy-mode=nftables --cluster-cidr=10.2.0.0/16 --nodeport-addresses=all --masquerade-all=false \
                 --kubeconfig=/flag --healthz-bind-address=0.0.0.0:2 --node-name=by-flag";
    let (options, _) = both(flags, &text).expect("both are good");
    assert_eq!(outcome(&options), outcome(&line(flags).expect("good flags")));
    let (options, _) = both("--manifests=/objects", &text).expect("both are good");
    assert_eq!(options.source.kubeconfig, None, "with --manifests there is no API server");
    let (options, _) = both("--api-server=https://192.0.2.1:6443", &text).expect("both are good");
    assert_eq!(options.source.kubeconfig.as_deref(), Some(Path::new("/file")), "its credentials are used");
}

#[test]
fn what_has_no_meaning_and_what_is_unknown_is_named() {
    let (_, warnings) = both(
        "",
        &file(
            "ipvs: {scheduler: rr}\noomScoreAdj: -998\niptables: {syncPeriod: 30s, futureField: 1}\n\
             conntrack: {futureLimit: 32768}\nnewThing: {a: 1}\nfeatureGates: {A: false, B: true}",
        ),
    )
    .expect("unknown fields are tolerated");
    let named: Vec<&str> = warnings.iter().filter_map(|warning| warning.split_whitespace().next()).collect();
    let mut wanted = [
        "conntrack.futureLimit",
        "featureGates.B",
        "iptables.futureField",
        "iptables.syncPeriod",
        "ipvs",
        "newThing",
        "oomScoreAdj",
    ];
    wanted.sort_unstable();
    let mut sorted = named.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, wanted, "{warnings:?}");
}

#[test]
fn a_file_that_cannot_be_used_is_refused_with_the_reason() {
    let cases = [
        ("a: [".to_owned(), "this is not YAML"),
        (String::new(), "it is of apiVersion"),
        ("apiVersion: v1\nkind: ConfigMap\ndata: {}".to_owned(), "key config.conf"),
        ("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration".to_owned(), "KubeletConfiguration"),
        (file("mode: kernelspace"), "mode: not one of"),
        (file("clusterCIDR: 10.0.0.0"), "clusterCIDR: "),
        (file("nodePortAddresses: [here]"), "nodePortAddresses: "),
        (file("nodePortAddresses: 10.0.0.0/8"), "a field has no value of its kind"),
        (file("healthzBindAddress: nowhere"), "healthzBindAddress: "),
        (file("conntrack: {udpTimeout: 5d}"), "conntrack.udpTimeout: "),
        (file("conntrack: {maxPerCore: -1}"), "a field has no value of its kind"),
        (file("detectLocalMode: Guess"), "detectLocalMode: not one of"),
        (file("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: ''}"), "--pod-bridge-interface"),
        (file("detectLocalMode: InterfaceNamePrefix"), "--pod-interface-name-prefix"),
    ];
    for (text, reason) in cases {
        let error = both("", &text).err().unwrap_or_else(|| panic!("{text} is not refused"));
        assert!(error.contains(reason), "{text}: {error}");
    }
    let mut options = line("--config /nowhere/config.conf").expect("a good command line");
    let error = options.complete().expect_err("there is no such file").to_string();
    assert!(error.contains("--config /nowhere/config.conf: "), "{error}");
}

#[test]
fn the_command_line_of_a_daemonset_is_taken() {
    let mut options = line(
        "--v=2 --master=https://192.0.2.1:6443,https://192.0.2.2:6443 --kubeconfig=/k --cluster-cidr=10.1.0.0/16 \
         --proxy-mode=ipvs --masquerade-all --oom-score-adj=-998 --conntrack-max-per-core=0 \
         --conntrack-tcp-timeout-established=0s --ipvs-strict-arp --profiling=false --kube-api-qps 50 \
         --detect-local-mode=ClusterCIDR --metrics-bind-address=0.0.0.0 --feature-gates=A=true,B=false --logtostderr",
    )
    .expect("kube-proxy takes it, too");
    let warnings = options.complete().expect("it is good");
    let named: Vec<&str> = warnings.iter().filter_map(|warning| warning.split_whitespace().next()).collect();
    assert_eq!(
        named,
        ["--feature-gates", "--ipvs-strict-arp", "--kube-api-qps", "--logtostderr", "--oom-score-adj"],
        "{warnings:?}"
    );
    assert_eq!(options.source.api_server.len(), 2);
    assert_eq!(options.node_ports(), [node_ports::Entry::All]);
    assert!(options.settings().masquerade_all);
    assert_eq!(options.settings().timeouts, []);
    assert_eq!(options.metrics_bind_address().to_string(), "0.0.0.0:10249");
}

#[test]
fn flags_that_make_kube_proxy_do_something_else_are_refused() {
    for flag in ["--cleanup", "--write-config-to=/tmp/x"] {
        let error = line(flag).map(drop).expect_err("it is not accepted");
        assert_eq!(error.kind(), ErrorKind::UnknownArgument, "{flag}");
    }
}

#[test]
fn external_ips_are_served_unless_limited() {
    let inside = |cidrs: &[&str]| Some(nets(cidrs));
    for (flags, wanted) in [
        ("", None),
        ("--external-ip-cidrs=none", inside(&[])),
        ("--external-ip-cidrs=203.0.113.0/24,2001:db8::/32", inside(&["203.0.113.0/24", "2001:db8::/32"])),
        ("--feature-gates=AllowServiceExternalIPs=false", inside(&[])),
        ("--feature-gates=AllowServiceExternalIPs=true", None),
    ] {
        let mut options = line(flags).expect("good flags");
        assert_eq!(options.complete().expect("it is good"), Vec::<String>::new(), "{flags}");
        assert_eq!(options.external_ips(), wanted, "{flags}");
    }
}

#[test]
fn without_a_file_or_a_mode_node_ports_are_served_on_primary_addresses() {
    let options = line("").expect("nothing is needed");
    assert_eq!(options.node_ports(), [node_ports::Entry::Primary]);
    assert_eq!(options.healthz_bind_address().to_string(), "0.0.0.0:10256");
}

#[test]
fn what_is_local_is_told_as_asked_or_the_agent_does_not_start() {
    type Outcome = Result<(Option<Vec<IpNet>>, bool), ()>;
    let cases: &[(&str, Outcome)] = &[
        ("", Ok((Some(nets(&[])), false))),
        ("--cluster-cidr=10.1.0.0/16", Ok((Some(nets(&["10.1.0.0/16"])), false))),
        ("--detect-local-mode=ClusterCIDR", Ok((Some(nets(&[])), true))),
        ("--detect-local-mode=NodeCIDR", Ok((None, false))),
        ("--detect-local-mode=NodeCIDR --cluster-cidr=10.1.0.0/16", Ok((None, true))),
        ("--detect-local-mode=BridgeInterface", Err(())),
        ("--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=", Err(())),
        ("--detect-local-mode=InterfaceNamePrefix --cluster-cidr=10.1.0.0/16", Err(())),
        ("--detect-local-mode=BridgeInterface --pod-bridge-interface=cni0", Ok((Some(nets(&[])), false))),
        (
            "--detect-local-mode=BridgeInterface --pod-bridge-interface=cni0 --cluster-cidr=10.1.0.0/16",
            Ok((Some(nets(&[])), true)),
        ),
    ];
    for (flags, wanted) in cases {
        let mut options = line(flags).expect("good flags");
        let outcome = options.complete().map(|warnings| (options.settings().cluster_cidrs, !warnings.is_empty()));
        assert_eq!(&outcome.map_err(drop), wanted, "{flags}");
    }
}

#[test]
fn every_flag_that_means_something_is_among_the_options_in_force() {
    use clap::Args as _;
    let names = |command: clap::Command| -> std::collections::BTreeSet<String> {
        command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
    };
    let all = names(AgentOptions::augment_args(clap::Command::new("agent")));
    let without_meaning = names(super::kube_proxy_flags::KubeProxyFlags::augment_args(clap::Command::new("agent")));
    let options = Line::parse_from(["agent"]).options.in_force("n1");
    let shown: std::collections::BTreeSet<String> = options.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(shown, all.difference(&without_meaning).cloned().collect());
    assert_eq!((&options["node-name"], &options["metrics-bind-address"]), (&"n1".into(), &"127.0.0.1:10249".into()));
}
