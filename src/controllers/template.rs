//! What the workload controllers do with pod templates, and with settings that are numbers or shares.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Names a template by ten letters and digits that spell no words.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // Types of ours have string keys only, so writing them as JSON cannot fail.
    let text = serde_json::to_string(template).unwrap_or_default();
    let salt = if collisions > 0 { collisions.to_string() } else { String::new() };
    let sum = text
        .bytes()
        .chain(salt.bytes())
        .fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let letter = |byte: u8| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]);
    sum.to_string().bytes().map(letter).collect()
}

/// A number of pods, given as such or as a share of `total`.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(count) => (*count).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent.saturating_mul(total.into()).max(0);
            let count =
                if round_up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 };
            i32::try_from(count).unwrap_or(i32::MAX)
        }
    }
}
