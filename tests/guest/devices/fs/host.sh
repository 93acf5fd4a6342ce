# SPDX-License-Identifier: Apache-2.0
# Runs on the host: the shared directory.
# shellcheck shell=bash

fs_title="shared directory"
fs_program=devices/fs/outrigger-fs
fs_suite=''    # a built fs-posix, to be run in the guest as well; a caller may set it
fs_options=()  # more of the daemon's

# A directory with files of many sizes and their manifest, and one that the guest removes.
fs_setup() {
    local share=$work/share index size
    mkdir -p "$share/from-host/a/b" "$share/to-remove/full" || return
    chmod 755 "$share"
    echo x >"$share/to-remove/full/file"
    for ((index = 0; index < 60; index++)); do
        case $index in
            0) size=0 ;;
            1) size=4095 ;;
            2) size=4097 ;;
            3) size=1048577 ;;
            *) size=$((RANDOM * 4 + RANDOM % 4)) ;;
        esac
        head -c "$size" /dev/urandom >"$share/from-host/a/b/file-$index" || return
    done
    (cd "$share/from-host" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$share/manifest"
    [[ ! $fs_suite ]] || fs_setup_suite "$share"
}

# What the suite sees in a directory of the host beside the share is what it must see in the guest.
fs_setup_suite() {
    local share=$1
    mkdir "$share/suite" "$work/oracle" || return
    chmod 755 "$work" "$work/oracle"
    cp "$fs_suite" "$share/suite/fs-posix" &&
        cat "$root/tests/fs/posix/known/"{sandbox,guest-6.1} >"$share/suite/known" &&
        { [[ ${fs_options[*]} != *--cache=[nm]* ]] ||
            cat "$root/tests/fs/posix/known/guest-6.1-uncached" >>"$share/suite/known"; } &&
        "$fs_suite" --subject="$work/oracle" --record="$share/suite/record"
}

fs_command() {
    daemon_command=("$build/$fs_program" --socket-path="$1" --shared-dir="$work/share" --tag=share
        --xattr "${fs_options[@]}")
}

fs_qemu_args() {
    # The transport's own features are not among QEMU's choices for this device before 8.
    qemu_args+=(-chardev "socket,id=fs,path=$1"
        -device "vhost-user-fs-pci,chardev=fs,tag=share,queue-size=1024,num-request-queues=$queues,$virtio_options")
}

fs_check() {
    local made=$work/share/made-by-guest sum
    sum=$(sha256sum "$work/share/written" 2>/dev/null | cut -d ' ' -f 1)
    if [[ $sum && $sum == "${value[fs.written_sha256]:-}" ]]; then
        host_result fs.written ok "the host has the guest's 16 MiB"
    else
        host_result fs.written failed "sha256 ${sum:-none} on the host, ${value[fs.written_sha256]:-none} in the guest"
    fi
    if [[ $(stat -c %a "$made") == 2750 && $(cat "$made/renamed") == text && $(readlink "$made/soft") == file &&
        -p $made/fifo && ! -e $work/share/to-remove && ! -e $made/hard &&
        ($(stat -c %u:%g "$made/file") == 41001:41002 || $EUID != 0) ]]; then
        host_result fs.on_host ok "names, links, modes and owners are as the guest made them"
    else
        host_result fs.on_host failed "$(find "$made" -printf '%P %m %u:%g; ')"
    fi
}

fs_report() {
    say "a directory of the host, mounted by the guest: ${value[fs.files]} files as the host made them (${value[fs.read_rate]})"
    say "16 MiB written by the guest (${value[fs.write_rate]}), sha256 ${value[fs.written_sha256]:0:16}..."
    say "names, links, modes and owners that the guest made are those on the host"
}
