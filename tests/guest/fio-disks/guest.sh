# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox and Debian's fio): three disks at once, each written and verified until the
# time is over, while the host changes them. A disk begins with a part that is written once and has to
# keep what it holds until the end; the overlay's has another behind it that only its base holds.
# shellcheck shell=sh

mib=1048576
kept_bytes=$((4 * mib))
untouched_bytes=$((4 * mib))  # of the overlay, behind what is kept
mixed_bytes=$((8 * mib))
last_bytes=$((4 * mib))
kept_seed=20261

disk_bytes() { echo $(($(cat /sys/block/"$1"/size) * 512)); }
# On a slow machine the time is over early: two rounds there are in any case.
time_is_over() { [ -e /tmp/stop ] || { [ "$round" -ge 2 ] && [ "$(now_cs)" -ge "$deadline_cs" ]; }; }

# device_of SERIAL: its name in /dev.
device_of() {
    for entry in /sys/block/vd*; do
        [ "$(cat "$entry/serial")" != "$1" ] || basename "$entry"
    done
}

# The parts of a round. A sequence of fio's follows from the seed and the number of the job: what is
# read again later must have the place that it had when it was written.
mixed_job() { echo "--name=mixed --rw=randwrite --bsrange=512-64k --offset=$1 --size=$mixed_bytes --randseed=$2"; }
kept_job() { echo "--name=kept --rw=randwrite --bsrange=512-32k --offset=0 --size=$kept_bytes --randseed=$kept_seed"; }

# The end of the disk, so what grew last. Where the disk can it is trimmed in small pieces first, beside the
# mixed part; the same blocks are written when all that has ended.
last_jobs() {
    discard_max=$(cat /sys/block/"$disk"/queue/discard_max_bytes)
    [ "$discard_max" -eq 0 ] ||
        echo "--name=trim --rw=randtrim --bsrange=4k-64k --offset=$1 --size=$last_bytes --randseed=$2"
    echo "--name=last --stonewall --rw=randwrite --bs=4k --offset=$1 --size=$last_bytes --randseed=$2"
}

# run_fio OPTION...: on $disk. Appends to the log; sets read_kib and written_kib.
run_fio() {
    timeout 400 fio --output-format=terse --terse-version=3 --output=/tmp/"$kind".terse --eta=never \
        --thread --filename=/dev/"$disk" --direct=1 --ioengine="$engine" --iodepth=16 --fsync=32 \
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 "$@" >/tmp/"$kind".log 2>&1
    fio_status=$?
    read_kib=$(awk -F ';' '{ sum += $6 } END { print sum + 0 }' /tmp/"$kind".terse)
    written_kib=$(awk -F ';' '{ sum += $47 } END { print sum + 0 }' /tmp/"$kind".terse)
    read_kib_total=$((read_kib_total + read_kib))
    written_kib_total=$((written_kib_total + written_kib))
    return "$fio_status"
}

# stop_all PART: a mismatch, or an error. Nothing is written after it.
stop_all() {
    touch /tmp/stop
    fail "fio.$kind" "$1 of round $round, status $fio_status, $read_kib KiB verified, $written_kib KiB written,\
 seed $seed at $mixed_at: $(cat /tmp/"$kind".terse \
        /tmp/"$kind".log | grep -E 'verify|error|bad|fio:' | head -n 3 | tr '\n' ' ')"
    return 1
}

# write_parts BYTES JOB...: writes and verifies so much. The first job's blocks are verified among its
# writes, too.
write_parts() {
    expected_kib=$(($1 / 1024))
    shift
    # shellcheck disable=SC2086  # a job is several words
    run_fio $1 --verify_backlog=64 $2 && [ "$read_kib" -ge "$expected_kib" ] &&
        [ "$written_kib" -ge "$expected_kib" ]
}

# verify_parts: what the round before wrote at $mixed_at, and what is kept.
verify_parts() {
    # shellcheck disable=SC2046
    run_fio --verify_only $(mixed_job "$mixed_at" "$seed") $(kept_job) &&
        [ "$read_kib" -ge $(((mixed_bytes + kept_bytes) / 1024)) ]
}

untouched_is_whole() {
    [ "$kind" = overlay ] || return 0
    sum=$(dd if=/dev/"$disk" iflag=direct bs=$mib skip=$((kept_bytes / mib)) count=$((untouched_bytes / mib)) \
        2>/dev/null | sha256sum | cut -d ' ' -f 1)
    [ "$sum" = "$(cat /fio.untouched)" ]
}

# choose_places: for the next round: anywhere for the mixed part, the end for the last one.
choose_places() {
    bytes=$(disk_bytes "$disk")
    last_at=$((bytes - last_bytes))
    sectors=$(((last_at - first_at - mixed_bytes) / 512))
    mixed_at=$((first_at + (RANDOM * 32768 + RANDOM) % (sectors + 1) * 512))
    seed=$((RANDOM + 1))
}

# write_cache MODE: the driver switches it where the device allows.
write_cache() { echo "$1" >/sys/block/"$disk"/cache_type 2>/dev/null || true; }

# fio_disk KIND ENGINE: rounds on one disk until the time is over.
fio_disk() {
    kind=$1 engine=$2 disk=$(device_of "$1") round=0 read_kib_total=0 written_kib_total=0
    first_at=$kept_bytes
    [ "$kind" != overlay ] || first_at=$((kept_bytes + untouched_bytes))
    RANDOM=$((round + ${#kind} + $(date +%s) % 30000))
    choose_places
    write_parts $((mixed_bytes + kept_bytes)) "$(mixed_job "$mixed_at" "$seed")" "$(kept_job)" ||
        stop_all "the first part" || return
    until time_is_over; do
        round=$((round + 1))
        verify_parts || stop_all "what was kept before" || return
        untouched_is_whole || stop_all "the base" || return
        choose_places
        case $((round % 4)) in
            1) write_cache "write through" ;;
            2) write_cache "write back" ;;
        esac
        write_parts $((mixed_bytes + last_bytes)) "$(mixed_job "$mixed_at" "$seed")" \
            "$(last_jobs "$last_at" "$seed")" || stop_all "the writes" || return
    done
    value "fio.$kind.rounds" "$round"
    value "fio.$kind.read_mib" $((read_kib_total / 1024))
    value "fio.$kind.written_mib" $((written_kib_total / 1024))
    [ ! -e /tmp/stop ] || return
    verify_parts || stop_all "what was kept to the end" || return
    untouched_is_whole || stop_all "the base" || return
    prove_detection
    pass "fio.$kind" "$round rounds"
}

# prove_detection: the host is asked to change one bit of what is kept, and fio must see that; then all
# is as before. The answer of the host is that the disk's own bytes change.
prove_detection() {
    kept_is_whole() {
        # shellcheck disable=SC2046
        run_fio --verify_only $(mixed_job "$mixed_at" "$seed") $(kept_job)
    }
    ask "fio.flip.$kind"
    until_seen ! kept_is_whole || fail "fio.$kind.detection" "a changed bit of the image went unnoticed"
    if ! grep -q 'verify failed at' /tmp/"$kind".log /tmp/"$kind".terse; then
        fail "fio.$kind.detection" "not a mismatch: $(head -n 1 /tmp/"$kind".log)"
    fi
    ask "fio.flip.$kind"
    until_seen kept_is_whole || fail "fio.$kind.detection" "the bit is back, and fio still complains"
}

# until_seen [!] COMMAND: some tries, because the host takes a moment.
until_seen() {
    wanted=0
    [ "$1" != ! ] || { wanted=1; shift; }
    tries=0
    while :; do
        status=0
        "$@" || status=1
        [ "$status" -ne "$wanted" ] || return 0
        tries=$((tries + 1))
        [ "$tries" -lt 10 ] || return 1
        sleep 0.3
    done
}

# Tells the host each size that the driver sees.
watch_sizes() {
    last=''
    while [ ! -e /tmp/ended ]; do
        read -r sectors </sys/block/"$1"/size
        [ "$sectors" = "$last" ] || value fio.raw.sectors "$sectors"
        last=$sectors
        sleep 0.2
    done
}

prove_fio() {
    for kind in raw overlay nbd; do
        if ! wait_for test -n "$(device_of $kind)"; then
            fail "fio.$kind" "the disk is not there"
            return
        fi
        disk=$(device_of $kind)
        bits=$(cat /sys/block/"$disk"/device/features)
        prove_rings "fio.$kind"
        value "fio.$kind.queues" "$(ls /sys/block/"$disk"/mq | wc -l)"
        value "fio.$kind.block" "$(cat /sys/block/"$disk"/queue/logical_block_size)"
    done
    watch_sizes "$(device_of raw)" &
    deadline_cs=$(($(now_cs) + 100 * $(cat /fio.seconds)))
    ask fio.begin
    fio_disk raw libaio &
    raw=$!
    fio_disk overlay io_uring &
    overlay=$!
    fio_disk nbd libaio &
    wait $raw $overlay $!
    # From here on the host leaves the disks alone.
    ask fio.quiet
    [ ! -e /tmp/stop ] || return
    sleep 1
    for kind in raw overlay nbd; do
        disk=$(device_of $kind)
        value "fio.$kind.bytes" "$(disk_bytes "$disk")"
        value "fio.$kind.sha256" "$(dd if=/dev/"$disk" iflag=direct bs=$mib 2>/dev/null | sha256sum | cut -d ' ' -f 1)"
    done
    touch /tmp/ended
}
