//! The slot state the boot loader keeps: order of the slots and how many starts each has left.
//!
//! The boot script lowers the counter of the slot it takes *before* it loads the kernel; user space sets it back
//! after a healthy start. Two checksummed copies of this state lie on the boot partition.

use crate::Error;
use crate::environment;
use crate::slot::Slot;

/// File names of the two copies.
pub const FILES: [&str; 2] = ["st0.env", "st1.env"];
/// Size of each copy.
pub const IMAGE_LEN: usize = 4096;
/// Starts a slot gets before the other one is taken.
pub const STARTS: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The slot tried first.
    pub first: Slot,
    pub a_left: u8,
    pub b_left: u8,
    /// The slot that was confirmed last. The boot script takes it when it cannot store the counters.
    pub good: Option<Slot>,
}

impl Default for State {
    fn default() -> State {
        State { first: Slot::A, a_left: STARTS, b_left: STARTS, good: None }
    }
}

impl State {
    fn with(mut self, slot: Slot, left: u8) -> State {
        match slot {
            Slot::A => self.a_left = left,
            Slot::B => self.b_left = left,
        }
        self
    }

    /// The state after `slot` started healthily: it is first and has all its starts again.
    #[must_use]
    pub fn confirmed(&self, slot: Slot) -> State {
        State { first: slot, good: Some(slot), ..self.clone() }.with(slot, STARTS)
    }

    /// The state in which `slot` is tried first, a bounded number of times; the other one is what follows.
    #[must_use]
    pub fn trying(&self, slot: Slot) -> State {
        State { first: slot, ..self.confirmed(slot.other()) }.with(slot, STARTS)
    }

    /// The state in which `slot` is not taken, because what it holds is broken or incomplete.
    #[must_use]
    pub fn rejected(&self, slot: Slot) -> State {
        self.confirmed(slot.other()).with(slot, 0)
    }

    /// The state after `slot` started healthily although the other one was confirmed: that one stays first, and gets one
    /// more start.
    #[must_use]
    pub fn standing_in(&self, slot: Slot) -> State {
        let state = State { first: slot.other(), good: Some(slot.other()), ..self.clone() };
        state.with(slot, STARTS).with(slot.other(), 1)
    }

    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let order = format!("{} {}", self.first, self.first.other());
        let (a, b) = (self.a_left.to_string(), self.b_left.to_string());
        let mut entries = vec![("order", order.as_str()), ("a_left", &a), ("b_left", &b)];
        entries.extend(self.good.map(|slot| ("good", slot.name())));
        environment::encode(&entries, IMAGE_LEN)
    }

    pub fn decode(image: &[u8]) -> Result<State, Error> {
        let entries = environment::decode(image)?;
        let find = |name: &'static str| {
            let entry = entries.iter().find(|(entry, _)| entry == name);
            entry.map(|(_, value)| value.as_str()).ok_or(Error::StateMissing(name))
        };
        let order = find("order")?;
        let first = order.split(' ').next().unwrap_or_default().parse();
        let good = match find("good") {
            Ok(value) => Some(
                value
                    .parse()
                    .map_err(|_| Error::StateValue { name: "good", value: value.to_owned() })?,
            ),
            Err(_) => None,
        };
        Ok(State {
            first: first
                .map_err(|_| Error::StateValue { name: "order", value: order.to_owned() })?,
            a_left: count("a_left", find("a_left")?)?,
            b_left: count("b_left", find("b_left")?)?,
            good,
        })
    }
}

/// Counters are hexadecimal to the boot loader, decimal to us: one digit means the same to both.
fn count(name: &'static str, value: &str) -> Result<u8, Error> {
    match value.parse() {
        Ok(number) if number <= 9 => Ok(number),
        _ => Err(Error::StateValue { name, value: value.to_owned() }),
    }
}
