# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox): starts the verifier as the kernel command line says, with the serial
# line of the results as its input and output.
# shellcheck shell=sh

prove_survival() {
    disk=- source='' streams='' shared=''
    for word in $(cat /proc/cmdline); do
        case $word in
            survival.threads=*) threads=${word#*=} ;;
            survival.blocks=*) blocks=${word#*=} ;;
            survival.stuck=*) stuck=${word#*=} ;;
            survival.disk) disk=/dev/vda ;;
            survival.rng) source=hwrng ;;
            survival.share) shared=yes ;;
            survival.streams=*) streams=$(echo "${word#*=}" | tr , ' ') ;;
        esac
    done
    if [ "$disk" != - ]; then
        wait_for test -b "$disk" || fail survival.found "no $disk"
        prove_negotiated blk virtio_blk
        # Neither merged nor sorted: the requests are those of the verifier.
        echo none >/sys/block/vda/queue/scheduler
        echo 2 >/sys/block/vda/queue/nomerges
    fi
    if [ "$source" ]; then
        wait_for grep -q virtio_rng /sys/class/misc/hw_random/rng_current || fail survival.found "no virtio_rng"
        prove_negotiated rng virtio_rng
    fi
    stty -F /dev/ttyS1 raw -echo
    if [ "$streams" ]; then
        prove_negotiated vsock vmw_vsock_virtio_transport
        # shellcheck disable=SC2086
        if /bin/streams lead "$stuck" $streams </dev/ttyS1 >/dev/ttyS1 2>&1; then
            pass survival.streams "all came as it was sent"
        else
            fail survival.streams "status $?"
        fi
        return
    fi
    if [ "$shared" ]; then
        mkdir -p /mnt/share
        wait_for mount -t virtiofs share /mnt/share || fail survival.found "cannot mount the tag 'share'"
        prove_negotiated fs virtiofs
        if /bin/files /mnt/share "$threads" "$stuck" </dev/ttyS1 >/dev/ttyS1 2>&1 && umount /mnt/share; then
            pass survival.share "all was as it was left"
        else
            fail survival.share "status $?"
        fi
        return
    fi
    # shellcheck disable=SC2086
    if /bin/verifier "$disk" "$threads" "$blocks" "$stuck" $source </dev/ttyS1 >/dev/ttyS1 2>&1; then
        pass survival.verifier "all was as acknowledged"
    else
        fail survival.verifier "status $?"
    fi
}
