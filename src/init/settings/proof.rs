//! What only the node itself can judge: whether it would start with the owner's settings. What it refuses is left out, key
//! by key, for a node that does not start is worse than one without a mirror.

use super::mistakes::Mistake;
use super::{Last, Raw, Settings, resolve};

/// Answers what is wrong when a node would not start with these settings.
pub(crate) type Judge<'a> = &'a mut dyn FnMut(&Settings) -> Result<(), String>;

/// A key whose value reaches the node, and how to move it from one file's settings to another's.
type Suspect = (&'static str, fn(&mut Raw, &mut Raw));

const SUSPECTS: &[Suspect] = &[
    ("server", |from, to| to.server = from.server.take()),
    ("node-name", |from, to| to.node_name = from.node_name.take()),
    ("labels", |from, to| to.labels = std::mem::take(&mut from.labels)),
    ("taints", |from, to| to.taints = std::mem::take(&mut from.taints)),
    ("registries", |from, to| to.registries = from.registries.take()),
    ("args", |from, to| to.args = std::mem::take(&mut from.args)),
];

/// The owner's settings without those keys that the node would refuse.
pub(crate) fn proven(
    image: &Raw,
    owner: Raw,
    last: &Last,
    judge: Judge<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Raw {
    let mut verdict =
        |owner: &Raw| judge(&resolve(image.clone(), owner.clone(), last, &mut Vec::new()));
    if verdict(&owner).is_ok() {
        return owner;
    }
    let (whole, mut rest, mut good) = (owner.clone(), owner.clone(), owner);
    for (_, take) in SUSPECTS {
        take(&mut good, &mut Raw::default());
    }
    if verdict(&good).is_err() {
        // It is none of these.
        return whole;
    }
    // One after the other, so that those which do not fit together show too.
    for (key, take) in SUSPECTS {
        let mut more = good.clone();
        take(&mut rest, &mut more);
        match verdict(&more) {
            Ok(()) => good = more,
            Err(why) => {
                let at = good.places.iter().find(|(name, _)| name == key).map(|(_, at)| *at);
                let text = format!("the node would not start with it; it is left out: {why}");
                mistakes.push(Mistake::of_key(at, key, &text));
                // As if it were not in the file: what held last may hold in its place.
                good.places.retain(|(name, _)| name != key);
            }
        }
    }
    good
}
