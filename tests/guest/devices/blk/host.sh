# SPDX-License-Identifier: Apache-2.0
# Runs on the host: the disk.
# shellcheck shell=bash

blk_title="disk"
blk_program=devices/blk/outrigger-blk
blk_file_count=100
blk_grown_bytes=$((256 << 20))

# A fresh ext4 image with random files of 0 bytes to 256 KiB in a few directories, and their manifest.
# mke2fs fills it without mounting, so this needs no root.
blk_setup() {
    local files=$work/files index size directory
    mkdir -p "$files"
    for ((index = 0; index < blk_file_count; index++)); do
        # Sizes around block and page borders first, then anything.
        case $index in
            0) size=0 ;;
            1) size=1 ;;
            2) size=511 ;;
            3) size=512 ;;
            4) size=4095 ;;
            5) size=4097 ;;
            *) size=$((RANDOM * 8 + RANDOM % 8)) ;;
        esac
        directory=$files/directory-$((index % 7))
        mkdir -p "$directory"
        head -c "$size" /dev/urandom >"$directory/$(printf 'file-%03d' "$index")"
    done
    mkdir -p "$guest_extra"
    (cd "$files" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$guest_extra/manifest"
    find "$files" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }' >"$guest_extra/manifest.bytes"
    truncate -s 192M "$work/disk.img"
    mke2fs -q -F -t ext4 -L outrigger -d "$files" "$work/disk.img" || return
    rm -rf "$files"
    # QEMU's own daemon is not asked for it.
    [[ $reference ]] || echo $((blk_grown_bytes / 512)) >"$guest_extra/grown.sectors"
}

# Called while the guest runs: an operator lets the disk grow.
blk_asked() {
    local complaint
    if ! complaint=$("$build/tools/outriggerctl/outriggerctl" --socket="$work/blk.control" \
        resize "$blk_grown_bytes" 2>&1 >/dev/null); then
        host_result "blk.$1" failed "$complaint"
    fi
}

blk_command() {
    daemon_command=("$build/$blk_program" --socket-path="$1" --blk-file="$work/disk.img"
        --num-queues="$queues" --control-socket="$work/blk.control")
}

# The same disk behind QEMU's own daemon, for tests/guest/run --reference.
blk_reference_command() {
    daemon_command=(qemu-storage-daemon
        --blockdev "driver=file,node-name=disk,filename=$work/disk.img"
        --export "type=vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path=$1,writable=on,num-queues=$queues")
}

blk_qemu_args() {
    local model=vhost-user-blk-pci
    # Legacy drivers know of no IOMMU, so QEMU refuses a device that would serve them, too.
    [[ $iommu == off ]] || model+=-non-transitional
    qemu_args+=(-chardev "socket,id=blk,path=$1"
        -device "$model,chardev=blk,num-queues=$queues,$virtio_options")
}

# After the daemon has gone: what the guest left on the image.
blk_check() {
    local sum problems
    if [[ ${value[blk.queues]:-} == "$queues" ]]; then
        host_result blk.all_queues ok "the guest drives $queues"
    else
        host_result blk.all_queues failed "the guest drives ${value[blk.queues]:-none} of $queues queues"
    fi
    if problems=$(e2fsck -fn "$work/disk.img" 2>&1); then
        host_result blk.e2fsck ok "e2fsck -fn is clean"
    else
        host_result blk.e2fsck failed "$(tail -n 3 <<<"$problems" | tr '\n' ' ')"
    fi
    sum=$(debugfs -R "dump /written-by-guest $work/written" "$work/disk.img" 2>/dev/null >/dev/null
        sha256sum "$work/written" 2>/dev/null | cut -d ' ' -f 1)
    if [[ $sum && $sum == "${value[blk.written_sha256]:-}" ]]; then
        host_result blk.written ok "the image holds the guest's 64 MiB"
    else
        host_result blk.written failed "sha256 ${sum:-none} on the image, ${value[blk.written_sha256]:-none} in the guest"
    fi
}

blk_report() {
    say "${value[blk.files]} files of an ext4 image match the manifest the host made (${value[blk.read_rate]})"
    say "64 MiB written by the guest (${value[blk.write_rate]}), sha256 ${value[blk.written_sha256]:0:16}..."
    say "afterwards on the host: e2fsck -fn is clean, and the image holds those 64 MiB"
}
