# SPDX-License-Identifier: Apache-2.0
# Runs on the host: one daemon with three disks, a raw file past the page cache, an overlay on a qcow2
# image that has a backing file, and the export of an NBD server; and what an operator does with them
# while the guest writes. The caller sets
#   fio_seconds    how long the guest writes and verifies
#   fio_event_us   the time between two of the operator's acts
#   fio_packed     the disks with packed rings, of raw, overlay and nbd
#   fio_io         --io of the daemon
#   fio_fixed      yes: the raw disk's I/O uses the guest's memory as registered buffers
#   fio_corrupt    yes: also changes a bit half-way, which has to end the run
# shellcheck shell=bash

fio_title="disks under fio"
fio_program=devices/blk/outrigger-blk
fio_kinds=(raw overlay nbd)
fio_mib=$((1 << 20))
fio_raw_bytes=$((48 * fio_mib))
fio_raw_bytes_max=$((192 * fio_mib))
fio_grow_bytes=$((6 * fio_mib + 4608))  # not whole pages
fio_base_bytes=$((48 * fio_mib))
fio_kept_bytes=$((4 * fio_mib))
fio_flipped_at=$((3 * fio_mib + 1234))

# What the operator does, in this order and then again.
fio_acts=(
    'grow'
    'limit raw --write-ops=600:60'
    'ctl raw cache writethrough'
    'limit overlay --bytes=24M --read-ops=900'
    'ctl overlay fill stop'
    'kill-server'
    'start-server'
    'pause nbd'
    'limit nbd --ops=700'
    'ctl overlay fill start --rate=1M'
    'resume nbd'
    'grow'
    'limit raw --write-ops=0 --read-bytes=40M:8M'
    'ctl overlay cache writethrough'
    'pause raw'
    'grow'
    'resume raw'
    'ctl raw cache writeback --force'
    'limit nbd --ops=0 --write-bytes=30M'
    'pause overlay'
    'resume overlay'
    'ctl overlay cache writeback --force'
    'ctl nbd cache writethrough'
    'limit overlay --bytes=0 --read-ops=0'
    'limit raw --read-bytes=0'
    'ctl nbd cache writeback --force'
    'limit nbd --write-bytes=0'
    'ctl overlay fill --rate=256K'
)

fio_setup() {
    fio_next_act=0 fio_acting='' fio_began_us=0 fio_grown=0 fio_kills=0 fio_done=0 fio_flipped_midway='' fio_registered=''
    fio_size=$fio_raw_bytes
    head -c "$fio_base_bytes" /dev/urandom >"$work/base.raw"
    mkdir -p "$guest_extra/proofs"
    cp "$guest_source/fio-disks/guest.sh" "$guest_extra/proofs/fio.sh"
    echo "$fio_seconds" >"$guest_extra/fio.seconds"
    truncate -s "$fio_raw_bytes" "$work/raw.img" &&
        truncate -s "$fio_base_bytes" "$work/nbd.img" &&
        qemu-img convert -c -f raw -O qcow2 "$work/base.raw" "$work/backing.qcow2" &&
        qemu-img create -q -f qcow2 -F qcow2 -b "$work/backing.qcow2" "$work/base.qcow2" &&
        fio_write_into_base && fio_start_server || return
    fio_base_sum=$(sha256sum <"$work/base.qcow2")
}

# The upper image has clusters of its own, also one of zeroes, and reads through to the other for the rest.
fio_write_into_base() {
    local at commands=()
    for ((at = 0; at < fio_base_bytes; at += 2 * fio_mib)); do
        commands+=(-c "write -q -P $((at / fio_mib + 1)) $at 1M")
    done
    commands+=(-c "write -q -z 5M 64k")
    qemu-io -f qcow2 "${commands[@]}" "$work/base.qcow2" >/dev/null &&
        qemu-img convert -f qcow2 -O raw "$work/base.qcow2" "$work/base.raw" &&
        tail -c +$((fio_kept_bytes + 1)) "$work/base.raw" | head -c $((4 * fio_mib)) | sha256sum |
        cut -d ' ' -f 1 >"$guest_extra/fio.untouched"
}

# A server that is killed loses nothing that it answered: it writes to the page cache.
fio_start_server() {
    local tries
    qemu-nbd --persistent --shared=8 --socket="$work/nbd.socket" --export-name=disk --format=raw \
        --cache=writeback --discard=unmap "$work/nbd.img" >>"$work/nbd-server.log" 2>&1 </dev/null &
    process_of[nbd-server]=$!
    for ((tries = 0; tries < 500; tries++)); do
        [[ -S $work/nbd.socket ]] && return 0
        sleep 0.01
    done
    return 1
}

fio_command() {
    local cache=none
    # Not every file system can be read past the page cache.
    dd if="$work/raw.img" of=/dev/null iflag=direct bs=4096 count=1 2>/dev/null || cache=writeback
    [[ ! $fio_fixed || $cache != none ]] || cache+=,fixed-buffers=on
    daemon_command=("$build/$fio_program" --control-socket="$work/fio.control" --num-queues=2 --io="$fio_io"
        --device "socket-path=$1,name=raw,serial=raw,blk-file=$work/raw.img,cache=$cache,blk-size=512,queue-threads=2"
        --device "socket-path=$1.overlay,name=overlay,serial=overlay,blk-file=$work/base.qcow2,image-format=qcow2,allow-backing=$work,overlay=$work/disk.layer,overlay-create,overlay-copy-on-read,overlay-fill,overlay-fill-rate=512K"
        --device "socket-path=$1.nbd,name=nbd,serial=nbd,blk-nbd=nbd+unix:///disk?socket=$work/nbd.socket,nbd-timeout=60,nbd-unflushed=kept")
}

fio_socket_of() {
    case $1 in
        raw) echo "$2" ;;
        *) echo "$2.$1" ;;
    esac
}

fio_is_packed() { [[ " $fio_packed " == *" $1 "* ]]; }

fio_qemu_args() {
    local kind packed
    for kind in "${fio_kinds[@]}"; do
        fio_is_packed "$kind" && packed=on || packed=off
        qemu_args+=(-chardev "socket,id=$kind,path=$(fio_socket_of "$kind" "$1")"
            -device "vhost-user-blk-pci,chardev=$kind,num-queues=2,packed=$packed")
    done
}

fio_kernel_arguments() {
    local kind
    for kind in "${fio_kinds[@]}"; do
        fio_is_packed "$kind" && printf ' outrigger.rings.fio.%s=packed' "$kind" ||
            printf ' outrigger.rings.fio.%s=split' "$kind"
    done
}

# fio_ctl DISK COMMAND...: an act that fails is a failure of the run.
fio_ctl() {
    local disk=$1 complaint
    shift
    if ! complaint=$("$build/tools/outriggerctl/outriggerctl" --socket="$work/fio.control" \
        --device="$disk" "$@" 2>&1 >/dev/null); then
        host_result "fio.$disk.operator" failed "$*: $complaint"
    fi
}

# fio_flip_bit FILE OFFSET
fio_flip_bit() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059  # the byte is written by its octal number
    printf "\\$(printf %o $((byte ^ 4)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

fio_flip() {
    case $1 in
        raw) fio_flip_bit "$work/raw.img" "$fio_flipped_at" ;;
        nbd) fio_flip_bit "$work/nbd.img" "$fio_flipped_at" ;;
        overlay)
            # The disk lies at the end of the layer, byte for byte.
            fio_flip_bit "$work/disk.layer" \
                $(($(stat -c %s "$work/disk.layer") - fio_base_bytes + fio_flipped_at))
            ;;
    esac
}

# The guest asks.
fio_asked() {
    case $1 in
        begin)
            fio_acting=yes
            fio_began_us=$(now_us)
            fio_act_at_us=$fio_began_us
            ;;
        quiet)
            fio_registered=$("$build/tools/outriggerctl/outriggerctl" --socket="$work/fio.control" \
                --device=raw show | grep 'memory registered')
            fio_acting=''
            fio_leave_alone
            ;;
        flip.*) fio_flip "${1#flip.}" ;;
    esac
}

# Called while the guest runs: one act at a time, each when its time has come. The guest has to see a new
# size before there is the next.
fio_tick() {
    [[ $fio_acting ]] && (($(now_us) >= fio_act_at_us)) || return 0
    if ((fio_grown > 0 && ${value[fio.raw.sectors]:-0} * 512 != fio_size)); then
        (($(now_us) < fio_act_at_us + 30000000)) ||
            { fio_acting='' host_result fio.raw.growth failed \
                "the guest sees ${value[fio.raw.sectors]:-no} sectors of $((fio_size / 512))"; }
        return 0
    fi
    local act=${fio_acts[fio_next_act]}
    fio_next_act=$(((fio_next_act + 1) % ${#fio_acts[@]}))
    fio_act "$act"
    fio_done=$((fio_done + 1))
    fio_act_at_us=$(($(now_us) + fio_event_us))
    if [[ $fio_corrupt && ! $fio_flipped_midway ]] &&
        (($(now_us) - fio_began_us > fio_seconds * 500000)); then
        fio_flipped_midway=yes
        fio_flip raw
    fi
}

# fio_leave_alone: after the last act, whatever it was.
fio_leave_alone() {
    local kind
    kill -0 "${process_of[nbd-server]}" 2>/dev/null || fio_act start-server
    for kind in "${fio_kinds[@]}"; do
        fio_act "resume $kind"
        fio_act "limit $kind --bytes=0 --read-bytes=0 --write-bytes=0 --ops=0 --read-ops=0 --write-ops=0"
    done
}

fio_act() {
    local -a words
    read -ra words <<<"$1"
    case ${words[0]} in
        grow)
            ((fio_size + fio_grow_bytes <= fio_raw_bytes_max)) || return 0
            fio_size=$((fio_size + fio_grow_bytes)) fio_grown=$((fio_grown + 1))
            fio_ctl raw resize "$fio_size"
            ;;
        limit) fio_ctl "${words[1]}" limit "${words[@]:2}" ;;
        pause | resume) fio_ctl "${words[1]}" "${words[0]}" ;;
        ctl) fio_ctl "${words[@]:1}" ;;
        kill-server)
            kill -KILL "${process_of[nbd-server]}" && fio_kills=$((fio_kills + 1))
            wait "${process_of[nbd-server]}" 2>/dev/null
            rm -f "$work/nbd.socket"
            ;;
        start-server) fio_start_server || host_result fio.nbd.server failed "does not start again" ;;
    esac
}

# Less than the first piece of memory that the daemon would register.
fio_locks_little() {
    local limit
    limit=$(ulimit -H -l)
    [[ $limit != unlimited ]] && ((limit < 16384))
}

# After the daemon has gone.
fio_check() {
    local kind
    end_process nbd-server 5
    for kind in "${fio_kinds[@]}"; do
        [[ -v proof[fio.$kind] ]] || host_result "fio.$kind.end" failed "fio in the guest did not end well"
        if [[ ${value[fio.$kind.queues]:-} != 2 || ${value[fio.$kind.block]:-} != 512 ]]; then
            host_result "fio.$kind.shape" failed \
                "${value[fio.$kind.queues]:-no} queues, blocks of ${value[fio.$kind.block]:-no} bytes"
        fi
    done
    # The operator's limit of locked memory (where root may not raise it) is the one good reason.
    if [[ $fio_fixed && ! $fio_registered =~ [1-9][0-9]*\ bytes ]] &&
        ! { [[ $fio_registered == *refused* ]] && fio_locks_little; }; then
        host_result fio.raw.fixed-buffers failed "no memory was registered: ${fio_registered:-nothing is said of it}"
    fi
    if ((fio_grown < 2 || fio_kills < 1 || fio_done < ${#fio_acts[@]})); then
        host_result fio.operator failed "only $fio_done acts, grown $fio_grown times, $fio_kills kills of the server"
    fi
    fio_compare raw "$work/raw.img" "$fio_size"
    fio_compare nbd "$work/nbd.img" "$fio_base_bytes"
    fio_check_layer
}

# fio_compare DISK FILE BYTES: that FILE is what the guest read to the end.
fio_compare() {
    local sum
    sum=$(sha256sum <"$2" | cut -d ' ' -f 1)
    if [[ $(stat -c %s "$2") == "$3" && ${value[fio.$1.bytes]:-} == "$3" && ${value[fio.$1.sha256]:-} == "$sum" ]]; then
        host_result "fio.$1.image" ok "$3 bytes, sha256 $sum"
    else
        host_result "fio.$1.image" failed "$(stat -c %s "$2") bytes with sha256 $sum here;\
 ${value[fio.$1.bytes]:-no} bytes with ${value[fio.$1.sha256]:-none} in the guest; $3 bytes expected"
    fi
}

# The layer is whole, its base is as it was, and both together are the disk.
fio_check_layer() {
    local complaint
    if ! complaint=$("$build/$fio_program" overlay check "$work/disk.layer" 2>&1); then
        host_result fio.overlay.check failed "$complaint"
    fi
    if [[ $(sha256sum <"$work/base.qcow2") != "$fio_base_sum" ]]; then
        host_result fio.overlay.base failed "the base was written to"
    fi
    if complaint=$(python3 "$guest_source/fio-disks/read_layer.py" "$work/disk.layer" "$work/base.raw" \
        2>&1 >"$work/overlay.img"); then
        fio_compare overlay "$work/overlay.img" "$fio_base_bytes"
    else
        host_result fio.overlay.layer failed "$complaint"
    fi
}

fio_report() {
    local kind
    for kind in "${fio_kinds[@]}"; do
        say "$kind ($(fio_is_packed "$kind" && echo packed || echo split)):\
 ${value[fio.$kind.rounds]:-0} rounds, ${value[fio.$kind.written_mib]:-0} MiB written,\
 ${value[fio.$kind.read_mib]:-0} MiB verified"
    done
    [[ ! $fio_fixed ]] || say "raw with --fixed-buffers=on: ${fio_registered#"${fio_registered%%[![:space:]]*}"}; the\
 limit of locked memory is $(ulimit -H -l) KiB"
    say "meanwhile $fio_done acts of the operator: the raw disk grew $fio_grown times to\
 $((fio_size / fio_mib)) MiB, the NBD server was killed $fio_kills times"
}
