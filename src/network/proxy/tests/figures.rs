//! What many Services cost.

use nix::sched::{CloneFlags, unshare};

use crate::proxy::measure;

#[test]
fn a_change_costs_the_same_among_many() {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        [10, 1_000].map(|services| measure(services, 3).unwrap())
    };
    let figures = std::thread::spawn(run).join().unwrap();
    for figure in &figures {
        println!("{figure:?}");
    }
    assert_eq!(figures[0].change_bytes, figures[1].change_bytes);
    assert_eq!(figures[0].scale_bytes, figures[1].scale_bytes);
    assert!(figures[1].full_bytes > figures[0].full_bytes * 5);
}

/// Prints the figures of 10, 1,000 and 10,000 Services.
#[test]
#[ignore = "a measurement, not a test"]
fn figures() {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        for services in [10, 1_000, 10_000] {
            println!("{:?}", measure(services, 3).unwrap());
        }
    };
    std::thread::spawn(run).join().unwrap();
}
