//! The network of several machines itself: what the tests on it rely on.

use testkit::{Fault, Lab, OUTSIDE};

#[test]
fn machines_reach_each_other_and_hide_behind_a_router() {
    let mut lab = Lab::default();
    let mut one = lab.machine("one");
    let two = lab.machine("two");
    let hidden = lab.machine_behind_nat("hidden");
    let ping = |from: &testkit::Machine, to: &str| {
        from.run("busybox", &["ping", "-c1", "-W1", to]).is_ok()
    };
    assert!(ping(&one, two.address()) && ping(&one, OUTSIDE));
    assert!(ping(&hidden, one.address()) && !ping(&one, hidden.address()));
    two.fault(Some(Fault::Drop));
    assert!(!ping(&one, two.address()));
    two.fault(None);
    assert!(ping(&one, two.address()));
    one.change_address("192.168.77.77");
    assert!(ping(&two, "192.168.77.77"));
    let boot = |m: &testkit::Machine| {
        m.enter(&["--mount"])
            .args(["cat", "/proc/sys/kernel/random/boot_id"])
            .output()
            .expect("cat")
            .stdout
    };
    let before = boot(&one);
    one.cut_power();
    one.power_on();
    assert!(ping(&two, "192.168.77.77"));
    assert_ne!(boot(&one), before);
}
