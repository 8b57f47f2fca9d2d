//! The initramfs' /init.

fn main() {
    init::stage1::run()
}
