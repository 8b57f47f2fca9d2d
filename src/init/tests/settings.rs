//! Both settings files: what they mean together, and what is said about mistakes.

use crate::settings::mistakes::shown;
use crate::settings::{
    Addressing, Last, Link, Secret, Settings, parse_image, parse_owner, proven, resolve,
};
use crate::{kubeconfig, network, notices, wifi};

/// What an owner's file comes to on an image's, and what is said about it.
fn both(image: &str, owner: &str) -> (Settings, Vec<String>) {
    later(image, owner, &Last::default())
}

/// The same on a board that was somebody before.
fn later(image: &str, owner: &str, last: &Last) -> (Settings, Vec<String>) {
    let (image, problems) = parse_image(image);
    assert!(problems.is_empty(), "{problems:?}");
    let (owner, mut mistakes) = parse_owner(owner);
    let settings = resolve(image, owner, last, &mut mistakes);
    (settings, shown(&mistakes, "f"))
}

fn good(owner: &str) -> Settings {
    let (settings, mistakes) = both("", owner);
    assert!(mistakes.is_empty(), "{owner}: {mistakes:?}");
    settings
}

#[test]
fn the_owner_overrides_the_image() {
    let image = "hostname: board\nbuild-epoch: 5\nhost-port: true\nargs: [--a]\n";
    let (settings, _) = both(image, "hostname: kitchen\nargs: [--b]\n");
    assert_eq!(settings.hostname, "kitchen");
    assert_eq!(
        (settings.build_epoch, settings.host_port, settings.health_port),
        (5, true, Some(6443))
    );
    let node = "server --data-dir /var/lib/copepod --write-kubeconfig /var/lib/copepod/kubeconfig.yaml --a --b";
    assert_eq!(settings.node.join(" "), node);
    let (agent, _) = both(image, "role: agent\nargs: [--server, https://x:6443]");
    assert_eq!(
        agent.node.join(" "),
        "agent --data-dir /var/lib/copepod --a --server https://x:6443"
    );
    assert_eq!(agent.health_port, None);
}

#[test]
fn every_key_reaches_its_place() {
    let settings = good(
        "role: agent\nserver: https://10.0.0.1:6443\ntoken: K10abc::server:x\nhostname: kitchen\n\
         node-name: kitchen.lan\nlabels:\n  room: kitchen\n  example.com/spare:\n\
         taints: [dedicated=camera:NoSchedule, lonely:NoExecute]\n\
         network:\n- interface: eth0\n  address: 192.168.1.5/24\n  gateway: 192.168.1.1\n- {interface: eth1, dhcp: true}\n\
         dns: {servers: [9.9.9.9, '2620:fe::fe'], search: [lan]}\nntp: time.lan\n\
         registries:\n  mirrors:\n    docker.io:\n      endpoint: [https://mirror.lan]\n\
         \x20 configs:\n    mirror.lan:\n      auth: {username: me, password: 123}\n      tls: {insecure_skip_verify: true}\n\
         args: [--debug]\n",
    );
    assert_eq!(
        settings.node.join(" "),
        "agent --data-dir /var/lib/copepod --node-name=kitchen.lan --server=https://10.0.0.1:6443 \
         --token-file=/run/copepod/token --private-registry=/run/copepod/registries.yaml --node-ip=192.168.1.5 \
         --node-label=room=kitchen --node-label=example.com/spare= --node-taint=dedicated=camera:NoSchedule \
         --node-taint=lonely:NoExecute --debug"
    );
    assert_eq!(settings.token, Some(Secret("K10abc::server:x".to_owned())));
    let address = "192.168.1.5".parse().unwrap();
    let gateway = "192.168.1.1".parse().ok();
    let eth = |number: u8, addressing| Link { interface: Some(format!("eth{number}")), addressing };
    let links =
        [eth(0, Addressing::Static { address, prefix: 24, gateway }), eth(1, Addressing::Dhcp)];
    assert_eq!(settings.links, links);
    assert_eq!((settings.dns.servers.len(), settings.dns.search.len()), (2, 1));
    assert_eq!(settings.ntp, ["time.lan"]);
    let registries = r#"{"configs":{"mirror.lan":{"auth":{"password":"123","username":"me"},"tls":{"insecure_skip_verify":true}}},"mirrors":{"docker.io":{"endpoint":["https://mirror.lan"]}}}"#;
    assert_eq!(settings.registries, Some(Secret(registries.to_owned())));
}

#[test]
fn keys_for_ssh_are_taken_where_there_is_a_server() {
    let owner = "ssh-keys: [ssh-ed25519 AAAA+/= me@home, ecdsa-sha2-nistp256 AAAA]";
    let (settings, mistakes) = both("parts: [ssh]", owner);
    assert_eq!(settings.ssh_keys, ["ssh-ed25519 AAAA+/= me@home", "ecdsa-sha2-nistp256 AAAA"]);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert!(both("", owner).0.ssh_keys.is_empty());
}

#[test]
fn wireless_networks_are_written_so_that_none_breaks_out() {
    let image = "parts: [wifi]";
    let owner = "wifi:\n- {ssid: \"a\\\"\\n}\", password: 'pass\"word\"#\\', country: de}\n\
                 - {ssid: h\u{fc}tte, password: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF, hidden: true}";
    let (settings, mistakes) = both(image, owner);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    let rest = "\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tieee80211w=1\n";
    let expected = format!(
        "country=DE\n\
         network={{\n\tssid=61220a7d\n\tpsk=ff332725b71dc879744ee1e87219c7823d1f3ab67eb3927709da73c1cb7fd2c8\n{rest}\tscan_ssid=0\n\tpriority=2\n}}\n\
         network={{\n\tssid=68c3bc747465\n\tpsk=0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF\n\
         {rest}\tscan_ssid=1\n\tpriority=1\n}}\n"
    );
    assert_eq!(wifi::config(settings.wifi.as_ref().unwrap()), expected);
    let names: Vec<_> = settings.links.iter().map(|link| link.interface.as_deref()).collect();
    assert_eq!(names, [None, Some("wlan0")]);
    // From annex J.4.2 of IEEE 802.11.
    let (settings, _) = both(image, "wifi: {ssid: IEEE, password: password}");
    let key = "psk=f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e\n";
    assert!(wifi::config(settings.wifi.as_ref().unwrap()).contains(key));
    let (settings, _) =
        both(image, "network: {interface: wlan0}\nwifi: {ssid: x, password: 12345678}");
    assert_eq!(settings.links.len(), 1);
    assert!(!format!("{settings:?}").contains("12345678"));
}

#[test]
fn short_forms_mean_the_same() {
    let labels = ["labels: {room: kitchen}", "labels: [room=kitchen]", "labels: room=kitchen"];
    for text in labels {
        assert_eq!(good(text).node.last().unwrap(), "--node-label=room=kitchen", "{text}");
    }
    let link = Link { interface: Some("eth1".to_owned()), addressing: Addressing::Dhcp };
    for text in ["interface: eth1", "network: {interface: eth1}", "network: [{interface: eth1}]"] {
        assert_eq!(good(text).links, std::slice::from_ref(&link), "{text}");
    }
    let nothing =
        ["", "# only this\n", "---\n", "\u{feff}", "hostname:\n", "network: []\nargs: null\n"];
    for text in nothing {
        assert_eq!(good(text.trim_start_matches('\u{feff}')), Settings::none(), "{text:?}");
    }
}

/// The file, and the beginning of every line that is said about it, in order.
const MISTAKES: &[(&str, &[&str])] = &[
    (
        "hostnam: x\nhostname: kept",
        &["f:1:1: hostnam: is no setting; there are role, server, token"],
    ),
    ("hostname: -x", &["f:1:11: hostname: expected a host name"]),
    ("hostname: [a]", &["f:1:11: hostname: expected text, found a list"]),
    ("role: king", &["f:1:7: role: expected server or agent, found \"king\""]),
    ("args: {a: b}", &["f:1:7: args: expected text, found a mapping"]),
    ("hostname: kept\nhostname: other", &["f:2:1: hostname: is given twice"]),
    ("role: agent", &["f:1:1: server: is missing"]),
    ("server: https://a:6443", &["f:1:1: server: is for role agent"]),
    ("role: agent\nserver: a:6443", &["f:2:9: server: expected https://HOST:6443"]),
    ("kubeconfig: /tmp/x", &["f:1:13: kubeconfig: expected boot-partition"]),
    (
        "role: agent\nserver: https://a\nkubeconfig: boot-partition",
        &["f:3:1: kubeconfig: is for role server"],
    ),
    (
        "registries: {mirrors: {a: {rewrite: {x: y}}}}",
        &["f:1:37: registries.mirrors.a.rewrite: is no setting; there are endpoint"],
    ),
    (
        "registries: {configs: {a: {auth: {username: u}, tls: {key_file: k}}}}",
        &[
            "f:1:34: registries.configs.a.auth: has username or password alone",
            "f:1:54: registries.configs.a.tls: has cert_file or key_file alone",
        ],
    ),
    (
        "registries: {configs: {a: {auth: {auth: x}}}}",
        &["f:1:34: registries.configs.a.auth: has an auth that is not base64"],
    ),
    ("role: agent\nserver: https://a:70000", &["f:2:9: server: expected https://HOST:6443"]),
    ("token: [secret]", &["f:1:8: token: expected text, found a list"]),
    ("token: two words", &["f:1:8: token: expected one word"]),
    ("token: a\nargs: [--token=b]", &["f:1:1: token: stands in args too"]),
    ("ssh-keys: ssh-ed25519 AAAA me", &["f:1:1: ssh-keys: is for the debug variant"]),
    ("wifi: {ssid: home, password: 12345678}", &["f:1:1: wifi: is for the wifi variant"]),
    (
        "wifi:\n- {ssid: home, password: secret}\n- {ssid: '', password: 12345678, country: GER}",
        &[
            "f:2:3: wifi[0]: lacks a valid ssid or password",
            "f:2:26: wifi[0].password: expected 8 to 63 letters",
            "f:3:3: wifi[1]: lacks a valid",
            "f:3:10: wifi[1].ssid: expected the name of a network",
            "f:3:43: wifi[1].country: expected a country",
        ],
    ),
    (
        "wifi: {ssid: home, password: \"1234\\n5678\"}",
        &["f:1:7: wifi: lacks", "f:1:30: wifi.password: expected 8"],
    ),
    ("ssh-keys: [command=x ssh-rsa AAAA]", &["f:1:12: ssh-keys[0]: expected a public key"]),
    ("ssh-keys: ssh-dss AAAA", &["f:1:11: ssh-keys: expected a public key"]),
    ("ssh-keys: \"ssh-rsa AAAA\\nssh-rsa AAAA\"", &["f:1:11: ssh-keys: expected a public key"]),
    ("ssh-keys: ssh-rsa secret", &["f:1:11: ssh-keys: expected a public key"]),
    ("labels: {'a b': c}", &["f:1:17: labels.a b: a b=c is no label"]),
    ("labels: [room]", &["f:1:10: labels[0]: expected key=value"]),
    ("taints:\n- a=b:Never\n- good:NoSchedule", &["f:2:3: taints[0]: expected key=value:effect"]),
    (
        "network:\n- interface: eth0\n  address: 10.0.0.300/24\n  gateway: 10.0.0.1",
        &[
            "f:2:3: network[0]: has no valid address; DHCP is used",
            "f:3:12: network[0].address: expected an IPv4 address with its prefix such as 192.168.1.5/24, found \"10.0.0.300/24\"",
        ],
    ),
    (
        "network: {address: 10.0.0.5}",
        &["f:1:10: network: has no", "f:1:20: network.address: expected an IPv4"],
    ),
    (
        "network: {address: 10.0.0.5/24, gateway: 10.0.1.1}",
        &["f:1:10: network: has a gateway outside"],
    ),
    ("network: {dhcp: yes}", &["f:1:17: network.dhcp: expected true or false"]),
    ("network: [{dhcp: true}, {interface: eth0}]", &["f:1:11: network[0]: lacks interface"]),
    (
        "network: [{interface: e}, {interface: e}]",
        &["f:1:27: network[1]: names an interface again"],
    ),
    ("network: text", &["f:1:10: network: expected a mapping, found text"]),
    ("dns: [dns.lan, 1.1.1.1]", &["f:1:7: dns[0]: expected an address"]),
    ("dns: {server: 1.1.1.1}", &["f:1:7: dns.server: is no setting; there are servers, search"]),
    ("ntp: ['a b']", &["f:1:7: ntp[0]: expected a name or an address"]),
    ("ntp: ['a:0', 'a:7', '[::1]:7']", &["f:1:7: ntp[0]: expected a name or an address"]),
    (
        "registries: {mirror: {}}",
        &["f:1:22: registries.mirror: is no setting; there are mirrors, configs"],
    ),
    (
        "registries: {mirrors: {a: {endpoint: [ftp://u:pw@b]}}}",
        &[
            "f:1:39: registries.mirrors.a.endpoint[0]: expected an address such as https://registry.lan:5000",
        ],
    ),
    ("- a\n- b", &["f:1:1: expected a line `key: value`, found a list"]),
    ("just text", &["f:1:1: expected a line `key: value`, found text"]),
    ("hostname: kept\nrole: 'server\nargs: []\n", &["f:3:1: role: this is not YAML"]),
    ("a: &x 1\nb: *x", &["f:1:1: a: is no", "f:2:4: b: this is not YAML"]),
    ("hostname: kept\n--- \nhostname: other", &["f:2:1: hostname: a second document is not read"]),
    ("build-epoch: 3", &["f:1:1: build-epoch: is no setting"]),
];

#[test]
fn mistakes_are_told_with_their_place() {
    let mut wrong = Vec::new();
    for (text, expected) in MISTAKES {
        let (_, mistakes) = both("", text);
        let fits = mistakes.len() == expected.len()
            && mistakes.iter().zip(*expected).all(|(found, begin)| found.starts_with(begin));
        if !fits {
            wrong.push((text, mistakes));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn who_the_board_is_changes_only_when_the_file_says_so() {
    const IMAGE: &str = "role: server\nhostname: copepod\n";
    const AGENT: &str = "role: agent\nserver: https://10.0.0.1:6443\nhostname: kitchen\n";
    let agent = "agent --data-dir /var/lib/copepod --server=https://10.0.0.1:6443";
    let server =
        "server --data-dir /var/lib/copepod --write-kubeconfig /var/lib/copepod/kubeconfig.yaml";
    // What the file was, what it is now, the node then and its host name, the keys of which something is said.
    let rows: &[(&str, &str, &str, &str, &[&str])] = &[
        (AGENT, AGENT, agent, "kitchen", &[]),
        (AGENT, "", agent, "kitchen", &["hostname", "role", "server"]),
        (
            AGENT,
            "role: agnt\nserver: https://10.0.0.1:6443\nhostname: kitchen\n",
            agent,
            "kitchen",
            &["role", "role"],
        ),
        (AGENT, "role: agent\nsever: x\nhostname: kitchen", agent, "kitchen", &["server", "sever"]),
        (AGENT, "role: server\nhostname: [", server, "kitchen", &["hostname", "hostname"]),
        (AGENT, "role: server\nhostname: copepod", server, "copepod", &[]),
        (
            "args: [--node-name=a.b]",
            "",
            &format!("{server} --node-name=a.b"),
            "copepod",
            &["node-name"],
        ),
        (
            "args: [--node-name, a.b]",
            "node-name: c",
            &format!("{server} --node-name=c"),
            "copepod",
            &[],
        ),
        ("", "", server, "copepod", &[]),
        ("args: [--with-node-id]", "", &format!("{server} --with-node-id"), "copepod", &["args"]),
        ("args: [--with-node-id]", "args: []", server, "copepod", &[]),
    ];
    for (before, now, node, hostname, keys) in rows {
        let last = Last::of(&both(IMAGE, before).0);
        let text = serde_json::to_string(&last).unwrap();
        let (settings, mistakes) = later(IMAGE, now, &Last::parse(&text));
        assert_eq!((&*settings.node.join(" "), &*settings.hostname), (*node, *hostname), "{now}");
        let mut about: Vec<&str> =
            mistakes.iter().map(|line| line.split(": ").nth(1).unwrap()).collect();
        about.sort_unstable();
        assert_eq!(about, *keys, "{now}: {mistakes:?}");
    }
    for broken in ["", "{", "7", r#"{"role":"king"}"#] {
        assert_eq!(Last::parse(broken), Last::default(), "{broken}");
    }
    let odd = Last::parse(r#"{"role":"agent","server":"x","hostname":"A","node_name":""}"#);
    assert_eq!((odd.server, odd.hostname, odd.node_name), (None, None, None));
}

/// Would not start with any of the words given.
fn proven_against(owner: &str, refused: &[&str]) -> (Settings, Vec<String>) {
    let (owner, mut mistakes) = parse_owner(owner);
    let (image, last) = (parse_image("").0, Last::default());
    let mut judge = |settings: &Settings| {
        let all = format!("{} {}", settings.node.join(" "), settings.registries.is_some());
        match refused.iter().find(|words| words.split('&').all(|word| all.contains(word))) {
            Some(word) => Err(format!("no {word}")),
            None => Ok(()),
        }
    };
    let owner = proven(&image, owner, &last, &mut judge, &mut mistakes);
    (resolve(image, owner, &last, &mut mistakes), shown(&mistakes, "f"))
}

#[test]
fn what_the_node_refuses_costs_its_key_only() {
    const OWNER: &str = "hostname: kitchen\nlabels: {room: kitchen}\nargs: [--debug]\n\
        registries: {mirrors: {a: {endpoint: 'https://b'}}}\n";
    let all = "--private-registry=/run/copepod/registries.yaml --node-label=room=kitchen --debug";
    let left_out = "the node would not start with it; it is left out: no";
    let rows: &[(&[&str], &str, &[String])] = &[
        (&[], all, &[]),
        (
            &["--debug"],
            "--private-registry=/run/copepod/registries.yaml --node-label=room=kitchen",
            &[format!("f:3:1: args: {left_out} --debug")],
        ),
        (
            &["true"],
            "--node-label=room=kitchen --debug",
            &[format!("f:4:1: registries: {left_out} true")],
        ),
        (
            &["--debug&room"],
            "--private-registry=/run/copepod/registries.yaml --node-label=room=kitchen",
            &[format!("f:3:1: args: {left_out} --debug&room")],
        ),
        (
            &["--debug", "true"],
            "--node-label=room=kitchen",
            &[
                format!("f:3:1: args: {left_out} --debug"),
                format!("f:4:1: registries: {left_out} true"),
            ],
        ),
        // It is none of the owner's keys.
        (&["server"], all, &[]),
    ];
    for (refused, node, expected) in rows {
        let (settings, mistakes) = proven_against(OWNER, refused);
        assert!(settings.node.join(" ").ends_with(node), "{refused:?}: {:?}", settings.node);
        assert_eq!((&*settings.hostname, mistakes), ("kitchen", expected.to_vec()), "{refused:?}");
    }
}

#[test]
fn an_owner_may_ask_for_the_kubeconfig() {
    assert!(good("kubeconfig: boot-partition").kubeconfig_for_owner);
    assert!(!good("").kubeconfig_for_owner);
    let text = "clusters:\n- cluster:\n    server: https://127.0.0.1:6443\n";
    for (address, server) in
        [("10.0.0.5", "https://10.0.0.5:6443"), ("fd00::5", "https://[fd00::5]:6443")]
    {
        let found = kubeconfig::reached_at(text, address.parse().unwrap());
        assert_eq!(found, format!("clusters:\n- cluster:\n    server: {server}\n"));
    }
}

#[test]
fn one_slip_costs_one_key() {
    let text = "hostname: kitchen\nrole: [server\nlabels:\n- room=a\n# a comment\n\tntp: x\ndns: 1.1.1.1\ntaints: 7\n";
    let (settings, mistakes) = both("", text);
    assert_eq!(settings.hostname, "kitchen");
    assert_eq!(settings.dns.servers.len(), 1, "{mistakes:?}");
    let begins: Vec<&str> = mistakes.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(begins.len(), 3, "{mistakes:?}");
}

#[test]
fn secrets_are_not_shown() {
    let text = "token: [hush-hush]\nregistries: {configs: {a: {auth: {password: [hush-hush]}}}}\nargs: {x: hush-hush}";
    let (settings, mistakes) = both("", text);
    assert_eq!(mistakes.len(), 3);
    let (whole, _) =
        both("", "token: hush-hush\nregistries: {configs: {a: {auth: {password: hush-hush}}}}");
    let shown = format!("{settings:?} {mistakes:?} {whole:?}");
    assert!(!shown.contains("hush"), "{shown}");
}

#[test]
fn any_bytes_give_settings() {
    let strange = [
        "\0",
        "\u{fffd}\u{fffd}",
        "{{{{{{",
        "[[[[[[[[[[[[[[[[[[[[[[[[",
        "? a\n: b",
        "!!x y",
        "a: |\n",
        "%YAML 9\n---\n",
        ": :",
        "'",
    ];
    for text in strange {
        both("", text);
        both("", &format!("hostname: kept\n{text}"));
    }
    both("", &"[".repeat(60_000));
    both("", &"a: {".repeat(15_000));
    let (_, mistakes) = both("", &"- x\n".repeat(10_000));
    assert!(mistakes.len() <= 21);
}

#[test]
fn many_mistakes_are_counted() {
    let text: String = (0..50).map(|number| format!("key{number}: x\n")).collect();
    let (_, mistakes) = both("", &text);
    assert_eq!(mistakes.len(), 21);
    assert_eq!(mistakes.last().unwrap(), "f:21:1: 30 more mistakes begin here");
}

#[test]
fn a_shell_is_the_images_to_give() {
    assert!(both("parts: [ssh, shell]", "").0.shell);
    let (settings, mistakes) = both("", "parts: [shell]");
    assert!(!settings.shell && mistakes[0].starts_with("f:1:1: parts: is no setting"));
}

#[test]
fn the_plan_of_the_network_survives_its_way_to_the_child() {
    let settings = good("network: {address: 10.0.0.5/24}\ndns: 1.1.1.1");
    let plan = network::Plan { links: settings.links, dns: settings.dns };
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<network::Plan>(&text).unwrap(), plan);
}

#[test]
fn notices_of_one_author_add_up() {
    let mut text = "{".to_owned();
    for (number, condition) in ["UpgradeSettled", "ConfirmedSlotRuns"].into_iter().enumerate() {
        let long = "x".repeat(5000);
        text = notices::added(&text, condition, "False", "Why", &long);
        let notice: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entry = &notice["conditions"][number];
        assert_eq!((&entry["type"], &entry["status"]), (&condition.into(), &"False".into()));
        assert_eq!(notice["events"][number]["type"], "Warning");
        assert_eq!(notice["events"][number]["message"].as_str().unwrap().len(), 1024);
    }
}

#[test]
fn notices_are_what_the_agent_reads() {
    let text = notices::text("InvalidSetting", &["copepod.yaml:1:1: \"x\"".to_owned()]);
    let expected = r#"{"conditions":[],"events":[{"message":"copepod.yaml:1:1: \"x\"","reason":"InvalidSetting","type":"Warning"}]}"#;
    assert_eq!(text, expected);
}
