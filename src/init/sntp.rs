//! The Simple Network Time Protocol of RFC 4330: the request, what makes an answer believable, which answer is taken.
//! No sockets and no clock here.

use std::time::Duration;

pub(crate) const PACKET_LEN: usize = 48;
/// Seconds between 1900, where the protocol's count begins, and 1970.
const EPOCH: u64 = 2_208_988_800;
/// The protocol's seconds have 32 bits and begin again every 136 years.
const ERA: u64 = 1 << 32;
/// Version 4, client.
const REQUEST: u8 = 0x23;
const MODE_SERVER: u8 = 4;
const LEAP_UNKNOWN: u8 = 3;
const STRATUM_MAX: u8 = 15;
/// Root delay and dispersion beyond this make a server useless (RFC 5905, MAXDISP).
const ROOT_MAX: Duration = Duration::from_secs(16);
/// Answers are the same when they say the same within this, in nanoseconds.
const SAME: u128 = 10_000_000_000;
/// So many answers make a time before the last one known believable: two rounds of four servers, eight of one.
pub(crate) const VOUCHES_MIN: usize = 8;

/// A request; the answer must repeat `nonce`, so that nobody who has not seen the request can answer it.
pub(crate) fn request(nonce: u64) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    let [first, .., _] = &mut packet;
    *first = REQUEST;
    for (target, source) in packet.iter_mut().skip(40).zip(nonce.to_be_bytes()) {
        *target = source;
    }
    packet
}

/// What an answer says about our clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// What is to be added to our clock, in nanoseconds.
    pub(crate) offset: i128,
    /// How long the answer was under way: at most half of it is the error of the offset.
    pub(crate) delay: Duration,
}

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the answer is no answer to our request")]
    Foreign,
    #[error("the server asks not to be asked")]
    Unwelcome,
    #[error("the server does not know the time itself")]
    Unsynchronized,
    #[error("the server's time is before this image was built")]
    TooEarly,
    #[error("the server's time is too far ahead")]
    TooFarAhead,
}

/// When the request went and the answer came, by our clock since 1970. The clock must not have been set in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) nonce: u64,
    pub(crate) sent: Duration,
    pub(crate) received: Duration,
    /// No true time is earlier, none later.
    pub(crate) earliest: Duration,
    pub(crate) latest: Duration,
}

/// Checks an answer by RFC 4330, section 5.
pub(crate) fn judge(packet: &[u8], asked: Asked) -> Result<Sample, Refusal> {
    let packet = packet.first_chunk::<PACKET_LEN>().ok_or(Refusal::Foreign)?;
    let [flags, stratum, ..] = *packet;
    let (leap, version, mode) = (flags >> 6, (flags >> 3) & 7, flags & 7);
    if mode != MODE_SERVER || !(3..=4).contains(&version) || number(packet, 24) != asked.nonce {
        return Err(Refusal::Foreign);
    }
    if stratum == 0 {
        return Err(Refusal::Unwelcome);
    }
    let (arrived, left) = (number(packet, 32), number(packet, 40));
    let (delay, dispersion) = (short(packet, 4), short(packet, 8));
    let knows = leap != LEAP_UNKNOWN && stratum <= STRATUM_MAX && arrived != 0 && left != 0;
    if !knows || delay.max(dispersion) >= ROOT_MAX {
        return Err(Refusal::Unsynchronized);
    }
    let (arrived, left) = (time(arrived, asked.earliest), time(left, asked.earliest));
    if left < nanos(asked.earliest) {
        return Err(Refusal::TooEarly);
    }
    if left > nanos(asked.latest) {
        return Err(Refusal::TooFarAhead);
    }
    let (sent, received) = (nanos(asked.sent), nanos(asked.received));
    let delay = u64::try_from((received - sent) - (left - arrived)).unwrap_or_default();
    Ok(Sample {
        offset: ((arrived - sent) + (left - received)) / 2,
        delay: Duration::from_nanos(delay),
    })
}

/// Of several servers' answers: the middle one when there are three or more, so that one liar changes nothing; else the
/// one that came fastest.
pub(crate) fn choose(samples: &[Sample]) -> Option<Sample> {
    let mut samples = samples.to_vec();
    if samples.len() < 3 {
        return samples.into_iter().min_by_key(|sample| sample.delay);
    }
    samples.sort_by_key(|sample| sample.offset);
    samples.get(samples.len() / 2).copied()
}

/// How often a time before the last one known has been told.
///
/// Such a time is a lie, or what was taken for the last time known was one. One answer shows neither, many do: a wrong
/// time that was once believed must not keep the true one away for ever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doubt {
    vouches: usize,
    offset: i128,
}

impl Doubt {
    /// Whether the answer chosen among those of one round is to be believed; `now` is our time, `floor` the last one known.
    pub(crate) fn believes(
        &mut self,
        chosen: Sample,
        samples: &[Sample],
        now: Duration,
        floor: Duration,
    ) -> bool {
        if nanos(now) + chosen.offset >= nanos(floor) {
            *self = Doubt::default();
            return true;
        }
        let same = |offset: i128| offset.abs_diff(chosen.offset) <= SAME;
        let agreeing = samples.iter().filter(|sample| same(sample.offset)).count();
        if !same(self.offset) || 2 * agreeing <= samples.len() {
            self.vouches = 0;
        }
        self.offset = chosen.offset;
        self.vouches += agreeing;
        self.vouches >= VOUCHES_MIN
    }
}

pub(crate) fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

/// A time stamp as nanoseconds since 1970, in the era that puts it at or after the day before `earliest`.
fn time(stamp: u64, earliest: Duration) -> i128 {
    let (seconds, fraction) = (stamp >> 32, stamp & (ERA - 1));
    let earliest = (earliest.as_secs() + EPOCH).saturating_sub(86_400);
    let era = earliest.saturating_sub(seconds).div_ceil(ERA);
    let seconds = i128::from(seconds + era * ERA) - i128::from(EPOCH);
    seconds * 1_000_000_000 + ((i128::from(fraction) * 1_000_000_000) >> 32)
}

fn number(packet: &[u8; PACKET_LEN], offset: usize) -> u64 {
    packet.iter().skip(offset).take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Seconds with 16 bits before and after the point.
fn short(packet: &[u8; PACKET_LEN], offset: usize) -> Duration {
    Duration::from_nanos(((number(packet, offset) >> 32) * 1_000_000_000) >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 0x0123_4567_89ab_cdef;
    const FLOOR: u64 = 1_780_000_000;

    /// A server's answer at this time, and the bytes that the case changes.
    fn answer(seconds: u64, changes: &[(usize, u8)]) -> Vec<u8> {
        let stamp = ((seconds + EPOCH) % ERA) << 32 | 1 << 31;
        let mut packet = vec![0x24, 2, 6, 0xec];
        packet.extend([0; 20]);
        for stamp in [NONCE, stamp, stamp] {
            packet.extend(stamp.to_be_bytes());
        }
        for (index, byte) in changes {
            packet[*index] = *byte;
        }
        packet
    }

    fn judged(packet: &[u8]) -> Result<Sample, Refusal> {
        let second = Duration::from_secs;
        let asked = Asked {
            nonce: NONCE,
            sent: second(100),
            received: second(102),
            earliest: second(FLOOR),
            latest: second(FLOOR + 20 * 365 * 86_400),
        };
        judge(packet, asked)
    }

    #[test]
    fn an_answer_tells_the_offset() {
        let sample = judged(&answer(FLOOR + 101, &[])).unwrap();
        assert_eq!(sample.offset, i128::from(FLOOR) * 1_000_000_000 + 500_000_000);
        assert_eq!(sample.delay, Duration::from_secs(2));
        let later = judged(&answer(4_000_000_000 - 2 * FLOOR + FLOOR, &[])).unwrap();
        assert!(later.offset > 0, "the next era, which begins in 2036");
    }

    #[test]
    fn what_is_not_believable_is_refused() {
        let cases: &[(&str, Vec<u8>, Refusal)] = &[
            ("short", answer(FLOOR, &[])[..47].to_vec(), Refusal::Foreign),
            ("a client", answer(FLOOR, &[(0, 0x23)]), Refusal::Foreign),
            ("version 1", answer(FLOOR, &[(0, 0x0c)]), Refusal::Foreign),
            ("another's answer", answer(FLOOR, &[(31, 0)]), Refusal::Foreign),
            ("kiss of death", answer(FLOOR, &[(1, 0)]), Refusal::Unwelcome),
            ("leap 3", answer(FLOOR, &[(0, 0xe4)]), Refusal::Unsynchronized),
            ("stratum 16", answer(FLOOR, &[(1, 16)]), Refusal::Unsynchronized),
            ("root delay", answer(FLOOR, &[(5, 16)]), Refusal::Unsynchronized),
            ("root dispersion", answer(FLOOR, &[(9, 16)]), Refusal::Unsynchronized),
            ("long ago", answer(FLOOR - 1, &[]), Refusal::TooEarly),
            ("in 30 years", answer(FLOOR + 30 * 365 * 86_400, &[]), Refusal::TooFarAhead),
        ];
        for (name, packet, refusal) in cases {
            assert_eq!(judged(packet), Err(*refusal), "{name}");
        }
        let mut silent = answer(FLOOR, &[]);
        silent[40..].fill(0);
        assert_eq!(judged(&silent), Err(Refusal::Unsynchronized));
    }

    #[test]
    fn a_request_carries_its_number() {
        let packet = request(NONCE);
        assert_eq!((packet[0], &packet[40..]), (0x23, NONCE.to_be_bytes().as_slice()));
    }

    #[test]
    fn a_time_before_the_last_one_known_must_be_told_often() {
        const NOW: u64 = 2_000_000_000;
        let second = |seconds: i128| seconds * 1_000_000_000;
        // How many rounds of which answers (offsets in seconds), and whether the last one is believed; our clock is at the
        // floor.
        type Rounds = &'static [(usize, &'static [i128])];
        let rows: &[(&str, Rounds, bool)] = &[
            ("later", &[(1, &[5])], true),
            ("once", &[(1, &[-90_000])], false),
            ("one server, seven times", &[(7, &[-90_000])], false),
            ("one server, eight times", &[(8, &[-90_000])], true),
            ("four servers, twice", &[(2, &[-90_000, -90_001, -90_002, -89_999])], true),
            ("four that differ", &[(9, &[-90_000, -80_000, -70_000, -60_000])], false),
            ("half of them", &[(9, &[-90_000, -90_000, -7, -7_000])], false),
            ("most of them", &[(4, &[-90_000, -90_000, 7])], true),
            ("another one in between", &[(7, &[-90_000]), (1, &[-50_000]), (1, &[-90_000])], false),
            ("a later one in between", &[(7, &[-90_000]), (1, &[1]), (1, &[-90_000])], false),
        ];
        for (name, rounds, expected) in rows {
            let mut doubt = Doubt::default();
            let mut believed = false;
            for offsets in rounds.iter().flat_map(|(times, offsets)| vec![*offsets; *times]) {
                let sample =
                    |offset: &i128| Sample { offset: second(*offset), delay: Duration::ZERO };
                let samples: Vec<Sample> = offsets.iter().map(sample).collect();
                let now = Duration::from_secs(NOW);
                believed = doubt.believes(choose(&samples).unwrap(), &samples, now, now);
            }
            assert_eq!(believed, *expected, "{name}");
        }
    }

    #[test]
    fn one_liar_among_three_changes_nothing() {
        let sample = |offset, delay| Sample { offset, delay: Duration::from_millis(delay) };
        for (samples, chosen) in [
            (vec![], None),
            (vec![sample(5, 20), sample(9, 10)], Some(9)),
            (vec![sample(1_000_000, 1), sample(5, 20), sample(9, 10)], Some(9)),
        ] {
            assert_eq!(choose(&samples).map(|sample| sample.offset), chosen);
        }
    }
}
