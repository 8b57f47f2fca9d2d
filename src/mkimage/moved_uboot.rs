//! Lets QEMU start a 32-bit U-Boot that is linked for another address than the one QEMU loads it to.
//!
//! The real firmware loads it to 0x8000, QEMU to 0x10000. The file gets a jump in front, to code behind it that copies
//! it down and starts it. The copy ends before that code begins, and the registers with the machine's number and device
//! tree (r0 to r2) stay as they are.

use anyhow::{Context, Result};

const LINKED: u32 = 0x8000;
const WORD: usize = 4;
/// The word after these is where the copy ends.
const MOVER: [u32; 13] = [
    0xe3a0_3801, // mov r3, #0x10000
    0xe283_3004, // add r3, r3, #4       behind the jump
    0xe3a0_4c80, // mov r4, #0x8000
    0xe59f_5020, // ldr r5, end
    0xe493_6004, // copy: ldr r6, [r3], #4
    0xe484_6004, // str r6, [r4], #4
    0xe154_0005, // cmp r4, r5
    0x3aff_fffb, // bcc copy
    0xe3a0_6000, // mov r6, #0
    0xee07_6f15, // mcr p15, 0, r6, c7, c5, 0   drop cached instructions
    0xee07_6f95, // mcr p15, 0, r6, c7, c5, 4   and what the pipeline holds
    0xe3a0_6c80, // mov r6, #0x8000
    0xe12f_ff16, // bx r6
];
/// An unconditional jump; its target is counted in words from two words behind it.
const JUMP: u32 = 0xea00_0000;
const JUMP_AHEAD: usize = 2;

/// The file to give QEMU in place of `uboot`.
pub(crate) fn for_qemu(uboot: &[u8]) -> Result<Vec<u8>> {
    let words = uboot.len().div_ceil(WORD);
    let distance = u32::try_from(1 + words - JUMP_AHEAD).context("U-Boot is too large")?;
    let end = u32::try_from(words * WORD).context("U-Boot is too large")? + LINKED;
    let mut image = (JUMP | distance).to_le_bytes().to_vec();
    image.extend_from_slice(uboot);
    image.resize(WORD * (1 + words), 0);
    for word in MOVER.iter().chain([&end]) {
        image.extend_from_slice(&word.to_le_bytes());
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jump_leads_behind_the_file() {
        let image = for_qemu(&[7; 10]).unwrap();
        let word = |index: usize| {
            u32::from_le_bytes(image[index * WORD..(index + 1) * WORD].try_into().unwrap())
        };
        // One word of jump, three of file: the code begins at word 4, which is 4 - 2 ahead.
        assert_eq!(word(0), JUMP | 2);
        assert_eq!(word(4), MOVER[0]);
        assert_eq!(word(4 + MOVER.len()), LINKED + 12);
        assert_eq!(image.len(), WORD * (4 + MOVER.len() + 1));
    }
}
