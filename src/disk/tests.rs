//! Checks of formats against bytes that the real tools write or read.

use crate::layout::Sizes;
use crate::mbr::{Mbr, Partition, grown};
use crate::slot::{Slot, Verity};
use crate::state::State;
use crate::{Error, environment};

#[test]
fn crc32_of_the_check_string() {
    assert_eq!(environment::crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn an_environment_survives_the_round_trip() {
    let image = environment::encode(&[("order", "a b"), ("a_left", "3")], 64).unwrap();
    assert_eq!(image.len(), 64);
    let expected = [("order".to_owned(), "a b".to_owned()), ("a_left".to_owned(), "3".to_owned())];
    assert_eq!(environment::decode(&image).unwrap(), expected);
}

#[test]
fn every_flipped_bit_of_an_environment_is_noticed() {
    let image = State::default().encode().unwrap();
    for bit in 0..256 {
        let mut broken = image.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(environment::decode(&broken), Err(Error::EnvironmentChecksum { .. })),
            "bit {bit}"
        );
    }
    assert_eq!(environment::decode(&[1, 2]), Err(Error::EnvironmentTooShort(2)));
}

#[test]
fn an_environment_that_does_not_fit_is_refused() {
    assert!(matches!(
        environment::encode(&[("a", "bcdef")], 8),
        Err(Error::EnvironmentTooLarge { .. })
    ));
    assert!(environment::encode(&[("a=b", "c")], 64).is_err());
}

#[test]
fn each_change_of_the_state_is_kept() {
    let state = |first, a_left, b_left, good| State { first, a_left, b_left, good };
    let (a, b) = (Slot::A, Slot::B);
    let tried = state(b, 3, 3, Some(a));
    // What was, what is done, what is then.
    let table = [
        (state(a, 0, 2, None), "confirm b", state(b, 0, 3, Some(b))),
        (state(a, 1, 0, None), "try b", tried.clone()),
        (tried.clone(), "reject b", state(a, 3, 0, Some(a))),
        (tried, "confirm b", state(b, 3, 3, Some(b))),
        (state(b, 2, 0, Some(b)), "a stands in", state(b, 3, 1, Some(b))),
    ];
    for (before, what, after) in table {
        let found = match what {
            "confirm b" => before.confirmed(b),
            "try b" => before.trying(b),
            "reject b" => before.rejected(b),
            _ => before.standing_in(a),
        };
        assert_eq!(found, after, "{what}");
        assert_eq!(State::decode(&found.encode().unwrap()).unwrap(), after);
    }
}

#[test]
fn a_state_with_nonsense_is_refused() {
    let check = |entries: &[(&str, &str)]| {
        State::decode(&environment::encode(entries, 128).unwrap()).unwrap_err()
    };
    assert_eq!(check(&[("order", "a b")]), Error::StateMissing("a_left"));
    let value = "12".to_owned();
    assert_eq!(
        check(&[("order", "b a"), ("a_left", "12"), ("b_left", "1")]),
        Error::StateValue { name: "a_left", value }
    );
    let value = "c".to_owned();
    assert_eq!(
        check(&[("order", "a b"), ("a_left", "1"), ("b_left", "1"), ("good", "c")]),
        Error::StateValue { name: "good", value: value.clone() }
    );
    assert_eq!(
        check(&[("order", "c"), ("a_left", "1"), ("b_left", "1")]),
        Error::StateValue { name: "order", value }
    );
}

#[test]
fn a_layout_becomes_a_table_and_comes_back() {
    let sizes = Sizes { boot: 128, root: 64, data: 256 };
    assert_eq!(sizes.total(), 516);
    let table = sizes.table(0x4350_4f44).unwrap();
    let boot = table.partitions[0].unwrap();
    assert_eq!(boot, Partition { start: 8192, sectors: 262_144, kind: 0x0c, bootable: true });
    assert_eq!(table.partitions[3].unwrap().start, 8192 + 262_144 + 2 * 131_072);
    let sector = table.encode().unwrap();
    assert_eq!(&sector[440..444], b"DOPC");
    assert_eq!(Mbr::decode(&sector).unwrap(), table);
}

#[test]
fn a_broken_table_is_refused() {
    assert_eq!(Mbr::decode(&[0; 512]), Err(Error::PartitionTable("no signature")));
    assert_eq!(Mbr::decode(&[0; 9]), Err(Error::PartitionTable("shorter than a sector")));
    let mut table = Sizes { boot: 1, root: 1, data: 1 }.table(1).unwrap();
    table.partitions[2] = table.partitions[1];
    assert_eq!(table.encode(), Err(Error::Partition { number: 3, reason: "overlaps another one" }));
    table.partitions[2] = Some(Partition { start: u32::MAX, sectors: 9, kind: 1, bootable: false });
    assert_eq!(table.encode(), Err(Error::Partition { number: 3, reason: "reaches beyond 2 TiB" }));
}

#[test]
fn a_verity_description_is_checked() {
    let text = format!("100,101,{},00ff", "ab".repeat(32));
    let verity: Verity = text.parse().unwrap();
    assert_eq!(verity.to_string(), text);
    assert_eq!(verity.sectors(), 800);
    let table = format!("1 /dev/x /dev/x 4096 4096 100 101 sha256 {} 00ff", "ab".repeat(32));
    assert_eq!(verity.table("/dev/x"), table);
    for wrong in [
        "",
        "1,2,3",
        "9,8,ab,00",
        "1,1,zz,00",
        &text.replace("00ff", ""),
        &text.replace("100,", "x,"),
    ] {
        assert!(wrong.parse::<Verity>().is_err(), "{wrong}");
    }
}

#[test]
fn a_partition_grows_to_the_end_of_a_larger_disk() {
    const MIB: u64 = 2048;
    let sizes = Sizes { boot: 16, root: 8, data: 32 };
    let mut sector = sizes.table(7).unwrap().encode().unwrap();
    sector[3] = 0xeb;
    let small = sizes.total() * MIB;
    for (number, disk, expected) in [
        (4, small, None),
        (4, small - 1, None),
        (4, small + MIB - 1, None),
        (4, small + MIB, Some(33)),
        (4, 100 * MIB + 5, Some(64)),
        (4, u64::MAX, Some((u64::from(u32::MAX) / MIB) - 36)),
        (1, 100 * MIB, None),
    ] {
        let found = grown(&sector, number, disk).unwrap();
        assert_eq!(found.map(|(_, new)| u64::from(new.sectors) / MIB), expected, "{number} {disk}");
        let Some((bytes, new)) = found else { continue };
        let table = Mbr::decode(&bytes).unwrap();
        assert_eq!(table.partitions[number - 1], Some(new));
        assert_eq!(table.partitions[..3], Mbr::decode(&sector).unwrap().partitions[..3]);
        assert_eq!((bytes[3], table.disk_id), (0xeb, 7));
        assert_eq!(grown(&bytes, number, disk).unwrap(), None);
    }
    assert!(grown(&sector, 5, small).is_err());
    assert!(grown(&sector, 0, small).is_err());
}
