# Takes a slot and starts its kernel. The image tool fills in the words in capitals from the board's facts.
#
# order names the slots in the order of preference, a_left and b_left how many starts each still gets, good the slot that
# was confirmed last. They lie in two checksummed copies; the counter is lowered and written before anything of the slot is
# loaded, and the started system sets it back when it is healthy. A slot that hangs, panics or lacks files so gives way to
# the other one. Where the counter cannot be written, good is started: another slot would be tried for ever.

setenv part "${devtype} ${devnum}:${distro_bootpart}"
setenv order "a b"
setenv a_left 3
setenv b_left 3
setenv good
setenv known
for copy in st0.env st1.env; do
  if test "${known}" = ""; then
    if load ${part} @SCRATCH@ ${copy}; then
      if env import -c @SCRATCH@ ${filesize} order a_left b_left good; then setenv known ${copy}; fi
    fi
  fi
done
if test "${known}" = ""; then echo "copepod: no valid slot state, starting from the defaults"; fi

setenv slot
for name in ${order}; do
  if test "${slot}" = ""; then
    if test "${name}" = "a"; then setenv left ${a_left}; else setenv left ${b_left}; fi
    if test ${left} -gt 0; then
      setexpr left ${left} - 1
      setenv ${name}_left ${left}
      setenv slot ${name}
    fi
  fi
done
if test "${slot}" = ""; then
  echo "copepod: both slots have used up their starts, counting anew"
  setenv a_left 3
  setenv b_left 3
fi

# Which copy is read first decides: the other one does not matter while that is whole.
env export -c -s 0x1000 @SCRATCH@ order a_left b_left good
setenv stored
if fatwrite ${part} @SCRATCH@ st0.env 0x1000; then setenv stored yes; fi
fatwrite ${part} @SCRATCH@ st1.env 0x1000
if test "${stored}" = ""; then
  echo "copepod: the starts cannot be counted"
  if test "${good}" != ""; then setenv slot ${good}; fi
  if test "${slot}" = ""; then setenv slot a; fi
fi
if test "${slot}" = ""; then reset; fi
echo "copepod: slot ${slot}, starts left: a ${a_left}, b ${b_left}"

setenv kernel_comp_addr_r @UNPACK@
setenv kernel_comp_size 0x4000000
setenv verity
if load ${part} @SCRATCH@ ${slot}/slot.env; then env import -t @SCRATCH@ ${filesize}; fi
setenv bootargs "${extra} copepod.slot=${slot} copepod.disk=@DISK@ copepod.medium=${devtype} copepod.verity=${verity} panic=10"
if load ${part} @KERNEL@ ${slot}/kernel; then
  if load ${part} @INITRD@ ${slot}/initrd; then
    @BOOT@ @KERNEL@ @INITRD@:${filesize} @FDT@
  fi
fi
echo "copepod: slot ${slot} does not start"
sleep 1
reset
