# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox): the entropy device.
# shellcheck shell=sh

rng_is_current() { [ "$(cut -d . -f 1 /sys/class/misc/hw_random/rng_current)" = virtio_rng ]; }

# distinct_bytes FILE: how many of the 256 byte values occur.
distinct_bytes() { od -An -v -tx1 -w1 "$1" | sort -u | wc -l; }

prove_rng() {
    if wait_for rng_is_current; then
        pass rng.current "$(cat /sys/class/misc/hw_random/rng_current)"
    else
        fail rng.current "the kernel's source is '$(cat /sys/class/misc/hw_random/rng_current)'"
        return
    fi
    prove_negotiated rng virtio_rng

    start=$(now_cs)
    dd if=/dev/hwrng of=/tmp/entropy.1 bs=4096 count=16 iflag=fullblock 2>/tmp/dd.log
    rate=$(per_second 65536 "$start")
    dd if=/dev/hwrng of=/tmp/entropy.2 bs=4096 count=16 iflag=fullblock 2>>/tmp/dd.log
    got=$(cat /tmp/entropy.1 /tmp/entropy.2 | wc -c)
    if [ "$got" -eq 131072 ]; then
        pass rng.read "128 KiB from /dev/hwrng"
        value rng.rate "$rate"
    else
        fail rng.read "$got of 131072 bytes: $(tail -n 1 /tmp/dd.log)"
        return
    fi

    # Random bytes do not compress, use every value, and do not come twice. A device that returns
    # unwritten buffers fails the first two.
    packed=$(gzip -c /tmp/entropy.1 | wc -c)
    if [ "$(distinct_bytes /tmp/entropy.1)" -eq 256 ] && [ "$packed" -ge 65536 ]; then
        pass rng.random "all 256 byte values, and gzip cannot shrink them"
    else
        fail rng.random "$(distinct_bytes /tmp/entropy.1) byte values; gzip makes 65536 bytes $packed"
    fi
    if cmp -s /tmp/entropy.1 /tmp/entropy.2; then
        fail rng.fresh "two reads gave the same bytes"
    else
        pass rng.fresh "two reads differ"
    fi
    rm -f /tmp/entropy.1 /tmp/entropy.2

    if take_again virtio_rng && wait_for rng_is_current &&
        [ "$(dd if=/dev/hwrng bs=64 count=1 iflag=fullblock 2>/dev/null | wc -c)" -eq 64 ]; then
        pass rng.reset "after a reset the device gives bytes again"
    else
        fail rng.reset "after a reset the device gives nothing"
    fi
}

show_rng() { echo "  rng   try: head -c 16 /dev/hwrng | xxd"; }
