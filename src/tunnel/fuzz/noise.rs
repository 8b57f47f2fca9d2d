//! Guided noise for the tunnel's state machine: `make fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tunnel::noise(input));
