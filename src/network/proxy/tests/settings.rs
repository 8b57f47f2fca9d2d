//! Settings of the kernel.

use crate::proxy::settings::reserved;

#[test]
fn ports_are_reserved_where_ranges_overlap() {
    let text = |own: &str, list: &str| reserved(own, list, &(30_000..=32_767));
    assert_eq!(text("32768\t60999\n", "\n"), None);
    assert_eq!(text("1024\t60999\n", "\n").as_deref(), Some("30000-32767"));
    assert_eq!(text("1024\t60999\n", "8080,9000-9100\n").unwrap(), "8080,9000-9100,30000-32767");
    assert_eq!(text("1024\t60999\n", "8080,30000-32767\n"), None);
    assert_eq!(text("nonsense", ""), None);
}
