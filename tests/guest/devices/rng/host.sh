# SPDX-License-Identifier: Apache-2.0
# Runs on the host: the entropy device.
# shellcheck shell=bash

rng_title="entropy"
rng_program=devices/rng/outrigger-rng

rng_setup() { :; }

rng_command() { daemon_command=("$build/$rng_program" --socket-path="$1"); }

rng_qemu_args() {
    qemu_args+=(-chardev "socket,id=rng,path=$1"
        -device "vhost-user-rng-pci,chardev=rng,$virtio_options")
}

# Since 9.0 QEMU hands this device every feature bit that the daemon offers, whatever packed= says.
rng_rings() {
    if ((${qemu_version%.*} >= 9)); then
        echo packed
    else
        echo "$rings"
    fi
}

rng_check() { :; }

# What ./demo says about the proof.
rng_report() {
    say "the guest's kernel draws its randomness from outrigger-rng (${proof[rng.current]})"
    say "128 KiB of /dev/hwrng: all 256 byte values, incompressible, never twice the same"
    say "at ${value[rng.rate]}"
}
