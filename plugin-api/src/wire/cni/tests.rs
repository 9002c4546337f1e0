use super::*;

fn environment(command: &str) -> Environment {
    let some = |text: &str| Some(text.to_owned());
    Environment {
        command: some(command),
        container: some("c0ffee"),
        netns: some("/run/netns/x"),
        link: some("eth0"),
        args: some("IgnoreUnknown=1;K8S_POD_NAME=p"),
    }
}

fn read_with(command: &str, definition: &Value) -> Result<Call, Refusal> {
    call_in(&environment(command), definition.to_string().as_bytes()).1
}

fn minimal() -> Value {
    json!({"cniVersion": "1.0.0", "name": "lan", "type": "longshore-cni"})
}

fn with(key: &str, value: Value) -> Value {
    let mut definition = minimal();
    definition[key] = value;
    definition
}

#[test]
fn a_definition_of_three_keys_is_enough() {
    let call = read_with("ADD", &minimal()).unwrap();
    assert_eq!(call.socket.to_str(), Some(DEFAULT_SOCKET));
    assert_eq!(call.network.subnets.len(), 1);
    assert!(call.network.id.as_str().ends_with("-cni-lan"));
    let leg = call.leg.unwrap();
    assert_eq!((leg.link.as_str(), leg.is_default), ("eth0", true));
}

#[test]
fn capabilities_and_conventions_ask_for_ports_addresses_and_mac() {
    let mut definition = with(
        "subnets",
        json!(["10.1.0.0/24", {"subnet": "fd00:1::/64", "gateway": "fd00:1::9"}]),
    );
    definition["runtimeConfig"] = json!({
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
            {"hostPort": 0, "containerPort": 81, "protocol": "udp"},
        ],
        "ips": ["10.1.0.5/24"], "mac": "02:42:0a:01:00:05",
    });
    let call = read_with("ADD", &definition).unwrap();
    let leg = call.leg.unwrap();
    assert_eq!(leg.addresses, ["10.1.0.5".parse::<IpAddr>().unwrap()]);
    assert_eq!((leg.ports.len(), leg.ports[0].host_port), (1, 8080));
    assert!(leg.mac.is_some());
    assert_eq!(
        call.network.subnets[1].gateway,
        Some("fd00:1::9".parse().unwrap())
    );
    let mut environment = environment("ADD");
    environment.args = Some("IP=10.1.0.7;MAC=02:42:0a:01:00:07".into());
    let leg = call_in(&environment, minimal().to_string().as_bytes())
        .1
        .unwrap()
        .leg
        .unwrap();
    assert_eq!(leg.addresses, ["10.1.0.7".parse::<IpAddr>().unwrap()]);
}

#[test]
fn mistakes_are_refused_with_cnis_codes() {
    let old = |version: &str| with("cniVersion", json!(version));
    for (command, definition, code) in [
        ("ADD", old("0.2.0"), INCOMPATIBLE),
        ("ADD", old("2.0.0"), INCOMPATIBLE),
        ("CHECK", old("0.3.1"), INCOMPATIBLE),
        ("GC", old("1.0.0"), INCOMPATIBLE),
        ("FLY", minimal(), ENVIRONMENT),
        ("ADD", with("subnet", json!("10.1.0.0/24")), UNSUPPORTED),
        ("ADD", with("ipam", json!({"type": "host-local"})), UNSUPPORTED),
        ("ADD", with("subnets", json!(["10.1.0.0/99"])), INVALID),
        (
            "ADD",
            with("subnets", json!([{"subnet": "10.1.0.0/24", "rang": "x"}])),
            INVALID,
        ),
        ("ADD", with("name", json!("../x")), INVALID),
        ("ADD", with("name", json!("")), INVALID),
        ("ADD", with("socket", json!("x.sock")), INVALID),
        ("ADD", with("prevResult", json!({})), INVALID),
        ("CHECK", minimal(), INVALID),
        ("ADD", with("runtimeConfig", json!({"bandwidth": {}})), INVALID),
        ("ADD", with("runtimeConfig", json!({"ips": ["x"]})), INVALID),
        ("ADD", with("runtimeConfig", json!({"mac": "x"})), INVALID),
    ] {
        let refusal = read_with(command, &definition).unwrap_err();
        assert_eq!(refusal.code, code, "{command} {definition}: {}", refusal.sentence);
        assert!(!refusal.sentence.is_empty());
    }
    let (_, outcome) = call_in(&environment("ADD"), b"{");
    assert_eq!(outcome.unwrap_err().code, UNREADABLE);
    for change in [
        |e: &mut Environment| e.netns = None,
        |e: &mut Environment| e.container = None,
        |e: &mut Environment| e.link = Some("a/b".into()),
        |e: &mut Environment| e.link = Some("a-name-of-16-byte".into()),
        |e: &mut Environment| e.args = Some("nonsense".into()),
    ] {
        let mut environment = environment("ADD");
        change(&mut environment);
        let refusal = call_in(&environment, minimal().to_string().as_bytes())
            .1
            .unwrap_err();
        assert_eq!(refusal.code, ENVIRONMENT, "{}", refusal.sentence);
    }
}

#[test]
fn del_needs_neither_a_namespace_nor_a_result() {
    let mut environment = environment("DEL");
    environment.netns = None;
    let call = call_in(&environment, minimal().to_string().as_bytes()).1.unwrap();
    assert_eq!(call.leg.unwrap().sandbox, PathBuf::new());
}

#[test]
fn collection_names_who_stays() {
    let mut definition = with(
        "cni.dev/valid-attachments",
        json!([{"containerID": "c0ffee", "ifname": "eth0"}]),
    );
    definition["cniVersion"] = json!("1.1.0");
    let call = read_with("GC", &definition).unwrap();
    assert!(call.keep.contains(&endpoint_id("c0ffee", "eth0")));
}

#[test]
fn results_are_told_in_the_version_asked_for() {
    let attached = Attached {
        host: vec![crate::door::Link {
            name: "br-x".into(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            mtu: 1500,
        }],
        inner: crate::door::Link {
            name: "eth0".into(),
            mac: "02:00:00:00:00:02".parse().unwrap(),
            mtu: 1500,
        },
        addresses: vec![("10.1.0.2/24".parse().unwrap(), Some("10.1.0.1".parse().unwrap()))],
        routes: vec![StaticRoute {
            destination: "0.0.0.0/0".parse().unwrap(),
            next_hop: Some("10.1.0.1".parse().unwrap()),
        }],
    };
    let told = |version: &str| -> Value {
        let call = read_with("ADD", &with("cniVersion", json!(version))).unwrap();
        serde_json::from_slice(&result(&call, &attached)).unwrap()
    };
    let new = told("1.1.0");
    assert_eq!(
        new,
        json!({"cniVersion": "1.1.0", "dns": {},
            "interfaces": [
                {"name": "br-x", "mac": "02:00:00:00:00:01", "mtu": 1500},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1500, "sandbox": "/run/netns/x"},
            ],
            "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]})
    );
    let old = told("0.3.1");
    assert_eq!(old["ips"][0]["version"], "4");
    assert_eq!(old["interfaces"][1].get("mtu"), None);
}
