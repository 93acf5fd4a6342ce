# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox): the disk. The host put the manifest into the initramfs, so it does not
# come through the device that it judges.
# shellcheck shell=sh

blk_bytes_written=67108864

prove_blk() {
    if ! wait_for test -b /dev/vda; then
        fail blk.found "no /dev/vda"
        return
    fi
    queues=$(ls /sys/block/vda/mq | wc -l)
    pass blk.found "$(cat /sys/block/vda/size) sectors, $queues queues"
    value blk.queues "$queues"
    prove_negotiated blk virtio_blk

    if ! mount -t ext4 /dev/vda /mnt; then
        fail blk.mount "mount failed"
        return
    fi
    pass blk.mount "ext4"

    start=$(now_cs)
    (cd /mnt && sha256sum -c /manifest) >/tmp/check.log 2>&1
    good=$(grep -c ': OK$' /tmp/check.log)
    listed=$(wc -l </manifest)
    if [ "$good" -eq "$listed" ] && [ "$good" -gt 0 ]; then
        pass blk.files "$good of $listed files have the checksum of the host's manifest"
        value blk.files "$good"
        value blk.read_rate "$(per_second "$(cat /manifest.bytes)" "$start")"
    else
        fail blk.files "$good of $listed: $(grep -v ': OK$' /tmp/check.log | head -n 3 | tr '\n' ' ')"
    fi

    # The bytes are made first, so that the time below is the disk's.
    head -c "$blk_bytes_written" /dev/urandom >/tmp/written
    sum=$(sha256sum </tmp/written | cut -d ' ' -f 1)
    start_sum=$(head -c 4194304 /tmp/written | sha256sum)
    start=$(now_cs)
    cp /tmp/written /mnt/written-by-guest && sync
    status=$?
    rate=$(per_second "$blk_bytes_written" "$start")
    rm -f /tmp/written
    size=$(stat -c %s /mnt/written-by-guest)
    if [ "$status" -eq 0 ] && [ "$size" -eq "$blk_bytes_written" ]; then
        pass blk.write "64 MiB"
        value blk.written_sha256 "$sum"
        value blk.write_rate "$rate"
    else
        fail blk.write "status $status, $size of $blk_bytes_written bytes"
    fi

    if umount /mnt; then
        pass blk.unmount clean
    else
        fail blk.unmount "umount failed"
        return
    fi

    [ ! -f /grown.sectors ] || prove_blk_growth "$(cat /grown.sectors)"

    # Nothing of the disk is cached any more, and its queues were stopped and started.
    if take_again virtio_blk && wait_for test -b /dev/vda && mount -t ext4 -o ro /dev/vda /mnt &&
        [ "$(head -c 4194304 /mnt/written-by-guest | sha256sum)" = "$start_sum" ] && umount /mnt; then
        pass blk.reset "after a reset the disk is there again, with what was written"
    else
        fail blk.reset "after a reset the disk is not there, or not the same"
    fi
}

# prove_blk_growth SECTORS: the host lets the disk grow, and the running driver sees that.
prove_blk_growth() {
    before=$(cat /sys/block/vda/size)
    ask blk.growth
    if ! wait_for grep -q "^$1\$" /sys/block/vda/size; then
        fail blk.growth "$(cat /sys/block/vda/size) sectors, $1 expected"
        return
    fi
    # The last block of the new part, past the guest's page cache in both directions.
    head -c 4096 /dev/urandom >/tmp/block
    if dd if=/tmp/block of=/dev/vda bs=4096 seek=$(($1 / 8 - 1)) conv=fsync 2>/dev/null &&
        echo 3 >/proc/sys/vm/drop_caches &&
        dd if=/dev/vda bs=4096 skip=$(($1 / 8 - 1)) count=1 2>/dev/null | cmp -s - /tmp/block; then
        pass blk.growth "from $before to $1 sectors while the guest ran"
    else
        fail blk.growth "the new part does not keep what is written"
    fi
}

show_blk() {
    wait_for test -b /dev/vda && mount -t ext4 /dev/vda /mnt
    echo "  blk   /dev/vda is mounted on /mnt; try: ls /mnt"
}
