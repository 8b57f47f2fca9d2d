//! Wi-Fi: what wpa_supplicant is told, and how it is started. It keeps the connection, the network child the address.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use ring::pbkdf2::{self, PBKDF2_HMAC_SHA1};

use crate::Error;
use crate::service::Description;
use crate::settings::{Secret, Wifi, WifiNetwork};

/// Name of the service.
pub(crate) const NAME: &str = "wifi";
/// What the kernel calls the first wireless interface.
pub(crate) const INTERFACE: &str = "wlan0";
const PROGRAM: &str = "/usr/bin/wpa_supplicant";
const CONFIG: &str = "/run/copepod/wifi.conf";
const GRACE: Duration = Duration::from_secs(2);
const HEX_DIGITS: usize = 64;
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// Writes the networks and their keys where only root reads them.
pub(crate) fn prepare(wifi: Option<&Wifi>) -> Result<(), Error> {
    let Some(wifi) = wifi else { return Ok(()) };
    let path = Path::new(CONFIG);
    sys::replace_file(path, config(wifi).as_bytes(), 0o600).map_err(Error::file("write", path))
}

pub(crate) fn supplicant() -> Description {
    let arguments = ["-D", "nl80211", "-i", INTERFACE, "-c", CONFIG];
    Description {
        name: NAME,
        program: PROGRAM.into(),
        called: "wpa_supplicant",
        arguments: arguments.map(str::to_owned).into(),
        oom_score: -950,
        grace: GRACE,
        makes_session: false,
    }
}

/// The networks by the numbers that the supplicant gives them: in the order of its configuration.
pub(crate) fn names(wifi: Option<&Wifi>) -> Vec<String> {
    let networks = wifi.into_iter().flat_map(|wifi| &wifi.networks);
    networks.map(|network| network.ssid.clone()).collect()
}

/// The text of wpa_supplicant.conf(5), without a socket to change it by.
pub(crate) fn config(wifi: &Wifi) -> String {
    let country = wifi.country.iter().map(|country| format!("country={country}\n"));
    let ranked = (1..=wifi.networks.len()).rev().zip(&wifi.networks);
    country.chain(ranked.map(|(priority, network)| block(network, priority))).collect()
}

fn block(network: &WifiNetwork, priority: usize) -> String {
    // As hexadecimal digits a name can hold what it likes.
    let ssid = hex(network.ssid.as_bytes());
    let key = key(network);
    let hidden = u8::from(network.hidden);
    format!(
        "network={{\n\tssid={ssid}\n\tpsk={key}\n\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tieee80211w=1\n\
         \tscan_ssid={hidden}\n\tpriority={priority}\n}}\n"
    )
}

/// The key of IEEE 802.11, annex J.4.1, as hexadecimal digits: of what the password may hold, nothing is left to be read
/// as something else.
fn key(WifiNetwork { ssid, password: Secret(password), .. }: &WifiNetwork) -> String {
    if password.len() == HEX_DIGITS {
        return password.clone();
    }
    let mut key = [0; HEX_DIGITS / 2];
    pbkdf2::derive(PBKDF2_HMAC_SHA1, ROUNDS, ssid.as_bytes(), password.as_bytes(), &mut key);
    hex(&key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
