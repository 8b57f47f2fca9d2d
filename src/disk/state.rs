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
}

impl Default for State {
    fn default() -> State {
        State { first: Slot::A, a_left: STARTS, b_left: STARTS }
    }
}

impl State {
    /// The state after `slot` started healthily: it is first and has all its starts again.
    #[must_use]
    pub fn confirmed(&self, slot: Slot) -> State {
        let mut state = State { first: slot, ..self.clone() };
        match slot {
            Slot::A => state.a_left = STARTS,
            Slot::B => state.b_left = STARTS,
        }
        state
    }

    /// The state in which `slot` is tried first, a bounded number of times; the other one is what follows.
    #[must_use]
    pub fn trying(&self, slot: Slot) -> State {
        self.confirmed(slot.other()).confirmed(slot)
    }

    /// The state in which `slot` is not taken, because what it holds is broken or incomplete.
    #[must_use]
    pub fn rejected(&self, slot: Slot) -> State {
        let mut state = self.confirmed(slot.other());
        match slot {
            Slot::A => state.a_left = 0,
            Slot::B => state.b_left = 0,
        }
        state
    }

    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let order = format!("{} {}", self.first, self.first.other());
        let (a, b) = (self.a_left.to_string(), self.b_left.to_string());
        environment::encode(&[("order", &order), ("a_left", &a), ("b_left", &b)], IMAGE_LEN)
    }

    pub fn decode(image: &[u8]) -> Result<State, Error> {
        let entries = environment::decode(image)?;
        let find = |name: &'static str| {
            let entry = entries.iter().find(|(entry, _)| entry == name);
            entry.map(|(_, value)| value.as_str()).ok_or(Error::StateMissing(name))
        };
        let order = find("order")?;
        let first = order.split(' ').next().unwrap_or_default().parse();
        Ok(State {
            first: first
                .map_err(|_| Error::StateValue { name: "order", value: order.to_owned() })?,
            a_left: count("a_left", find("a_left")?)?,
            b_left: count("b_left", find("b_left")?)?,
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
