# SPDX-License-Identifier: Apache-2.0
# Sourced after .ci/steps.sh, prepare.sh and qemu.sh: boots the guest once, with our daemons behind its
# devices, and collects what it proves. A device is a folder in tests/guest/devices with
#   modules    the kernel modules it needs, one a line; NAME? where the kernel has that
#   guest.sh   prove_<device> and show_<device>, run in the guest by busybox
#   host.sh    <device>_title, _program (below the build directory), _setup (files in $work, and for
#              the guest in $guest_extra), _command SOCKET (sets daemon_command), _qemu_args SOCKET
#              (appends to qemu_args, -device last), _check (calls host_result), _report (says what
#              was proven); _asked WHAT, where the guest asks the host to act; where QEMU does not leave the choice, _rings prints what the guest sees
# and nothing else has to know it.
# shellcheck shell=bash

# What a boot is made with; the caller sets them.
build=$root/build/release  # where the daemons are
rings=split                # split, packed
queues=1                   # of the devices that have several
memory=memfd               # memfd, file
iommu=off                  # off, intel, intel-strict: what stands between devices and memory
accelerator=               # tcg, kvm; choose_accelerator sets it
guest_memory=512M
guest_archives=()          # uncompressed archives of more programs, which the guest has as well
boot_timeout_s=180
sandbox=on                 # of our daemons: on, log, none
daemon_wrapper=()          # runs the daemons, for example: setarch -R
reference=                 # yes: QEMU's daemons in place of ours
shell_console=             # yes: the shell's terminal is outrigger-console's; find_shell_console
console_program=devices/console/outrigger-console  # below the build directory

# What a boot leaves behind.
declare -A value=()  # figures: value[blk.write_rate]
declare -A proof=()  # details of what passed
failures=()          # "name: detail"
guest_devices=()

# on_result NAME STATUS DETAIL: called for each proof as it comes. The caller may replace it.
on_result() { :; }

host_result() {
    local name=$1 status=$2
    shift 2
    if [[ $status == ok ]]; then
        proof[$name]=$*
    else
        failures+=("$name: $*")
    fi
    on_result "$name" "$status" "$*"
}

all_devices() {
    local folder
    for folder in "$guest_source"/devices/*/; do
        basename "$folder"
    done
}

for device in $(all_devices); do
    # shellcheck source=/dev/null
    source "$guest_source/devices/$device/host.sh"
done

# available_devices: those whose program is built (with --reference: those that QEMU can serve).
available_devices() {
    local device program
    for device in $(all_devices); do
        if [[ $reference ]]; then
            declare -F "${device}_reference_command" >/dev/null && echo "$device"
        else
            program=${device}_program
            [[ -x $build/${!program} ]] && echo "$device"
        fi
    done
    return 0
}

# Millions of guest instructions a second below which KVM is no virtualisation; TCG reaches hundreds.
kvm_speed_min=1000

# choose_accelerator: sets accelerator and accelerator_reason. A /dev/kvm may be an interpreter.
choose_accelerator() {
    local speed
    if [[ ! -e /dev/kvm ]]; then
        accelerator=tcg accelerator_reason="this machine has no /dev/kvm"
    elif [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
        accelerator=tcg accelerator_reason="this user may not open /dev/kvm"
    elif ! speed=$(timeout -k 1 10 python3 "$guest_source/kvm_speed.py" 2>/dev/null); then
        accelerator=tcg accelerator_reason="/dev/kvm does not run a short loop"
    elif ((${speed%.*} < kvm_speed_min)); then
        accelerator=tcg
        accelerator_reason="/dev/kvm runs a short loop at $speed million instructions a second, too slow"
    else
        accelerator=kvm
        accelerator_reason="/dev/kvm runs a short loop at $speed million instructions a second"
    fi
}

# find_shell_console: sets shell_console where QEMU has a device for a console of ours (10.2 and later).
# The QEMU of sid counts, if tests/guest/console has left it here.
find_shell_console() {
    shell_console=
    ! has_sid_qemu || use_sid_qemu || return
    "${qemu_command[@]}" -machine none -device vhost-user-test-device-pci,help 2>&1 |
        grep -q '^vhost-user-test-device-pci options' && shell_console=yes
}

# Every process started here, to end them whatever happens.
declare -A process_of=()

# end_process NAME SECONDS: SIGTERM, then SIGKILL. Sets ended_status: the exit status, or "killed".
end_process() {
    local pid=${process_of[$1]:-} deadline=$((SECONDS + $2 + 1))
    ended_status=0
    [[ $pid ]] || return 0
    unset "process_of[$1]"
    kill -TERM "$pid" 2>/dev/null
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do
        sleep 0.02
    done
    if kill -KILL "$pid" 2>/dev/null; then
        wait "$pid" 2>/dev/null
        ended_status=killed
        return
    fi
    wait "$pid" 2>/dev/null || ended_status=$?
}

# clean_up_guest: for the caller's EXIT trap, too.
clean_up_guest() {
    local name
    for name in "${!process_of[@]}"; do
        end_process "$name" 2
    done
    [[ ! ${work:-} ]] || rm -rf "$work"
    work=
}

# wait_for_socket PROCESS SOCKET...: until all are there; a failure when the process ends before that.
wait_for_socket() {
    local process=$1 socket tries
    for socket in "${@:2}"; do
        for ((tries = 0; tries < 1000; tries++)); do
            [[ -S $socket ]] && continue 2
            kill -0 "$process" 2>/dev/null || break
            sleep 0.01
        done
        return 1
    done
}

# start_daemon DEVICE: and waits until its socket is there.
start_daemon() {
    local device=$1 socket=$work/$1.sock daemon_command=()
    if [[ $reference ]]; then
        "${device}_reference_command" "$socket"
    else
        "${device}_command" "$socket"
        daemon_command+=(--sandbox="$sandbox")
    fi
    "${daemon_wrapper[@]}" "${daemon_command[@]}" >"$work/$device.log" 2>&1 </dev/null &
    process_of[$device]=$!
    wait_for_socket "${process_of[$device]}" "$socket" && return
    host_result "$device.start" failed "$(tail -n 1 "$work/$device.log")"
    return 1
}

# Ends the daemon as an operator would. It must exit with 0; sanitizers and the sandbox must have been
# silent.
stop_daemon() {
    local device=$1 report
    end_process "$device" 5
    report=$(grep -m 1 -E 'ERROR: [A-Za-z]+Sanitizer|WARNING: ThreadSanitizer|runtime error:|the sandbox does not allow' "$work/$device.log")
    if [[ $report ]]; then
        host_result "$device.exit" failed "$report"
    elif ((ended_status > 128)) 2>/dev/null; then
        host_result "$device.exit" failed "ended by SIG$(kill -l "$ended_status"): $(tail -n 1 "$work/$device.log")"
    elif [[ $ended_status != 0 ]]; then
        host_result "$device.exit" failed "status $ended_status after SIGTERM: $(tail -n 1 "$work/$device.log")"
    elif [[ -e $work/$device.sock && ! $reference ]]; then
        host_result "$device.exit" failed "the socket is still there"
    else
        host_result "$device.exit" ok "left cleanly on SIGTERM"
    fi
}

make_qemu_args() {
    local mode=$1 ram processors=$((queues > 2 ? queues : 2)) device cpu=max
    # An emulator that is short of time fails the kernel's check of its timer.
    local append='panic=-1 no_timer_check'
    local virtio_options=packed=off port=0
    [[ $rings == packed ]] && virtio_options=packed=on
    [[ $accelerator == kvm ]] && cpu=host
    if [[ $iommu != off ]]; then
        virtio_options+=,iommu_platform=on
        append+=" intel_iommu=on iommu.strict=$([[ $iommu == intel ]] && echo 0 || echo 1)"
    fi
    [[ $iommu != intel ]] || virtio_options+=,ats=on
    case $memory in
        memfd) ram=memory-backend-memfd,id=ram,size=$guest_memory,share=on ;;
        file) ram=memory-backend-file,id=ram,size=$guest_memory,share=on,discard-data=on,mem-path=$work/ram ;;
    esac
    append+=" console=ttyS0 outrigger.rings=$rings outrigger.iommu=$iommu outrigger.devices=$(IFS=,; echo "${guest_devices[*]}")"
    qemu_args=(-nodefaults -no-user-config -no-reboot -display none
        -machine q35,memory-backend=ram -accel "$accelerator" -cpu "$cpu" -smp "$processors"
        -m "$guest_memory" -object "$ram"
        -kernel "$(guest_kernel)" -initrd "$work/initramfs")
    for device in "${guest_devices[@]}"; do
        declare -F "${device}_rings" >/dev/null && append+=" outrigger.rings.$device=$("${device}_rings")"
        declare -F "${device}_kernel_arguments" >/dev/null && append+=$("${device}_kernel_arguments")
    done
    # A single processor would not do: QEMU 7.2 translates cmpxchg16b wrongly for one.
    if [[ $mode == shell && $shell_console ]]; then
        qemu_args+=(-append "$append quiet outrigger.shell=hvc0" -serial "file:$work/console.log"
            -serial null -chardev "socket,id=console,path=$work/console.sock"
            -device vhost-user-test-device-pci,chardev=console,virtio-id=3,num_vqs=4,config_size=12,vq_size=128)
    elif [[ $mode == shell ]]; then
        qemu_args+=(-append "$append quiet outrigger.shell" -serial mon:stdio -serial null)
    else
        qemu_args+=(-append "$append loglevel=5" -serial "file:$work/console.log"
            -serial "file:$work/results.log")
    fi
    # Before the devices whose memory it translates. QEMU's log then counts translations.
    case $iommu in
        off) ;;
        intel) qemu_args+=(-device intel-iommu,device-iotlb=on) ;;
        intel-strict) qemu_args+=(-device intel-iommu) ;;
    esac
    [[ $iommu == off ]] || qemu_args+=(-trace enable=vhost_iotlb_miss)
    for device in "${guest_devices[@]}"; do
        if [[ $iommu == intel ]]; then
            # Only a device behind a port has the PCI Express capability of ATS. Without ATS the guest
            # flushes whole domains, and QEMU 7.2 does not pass all of that on.
            port=$((port + 1))
            qemu_args+=(-device "pcie-root-port,id=port$port,chassis=$port")
            "${device}_qemu_args" "$work/$device.sock"
            qemu_args[-1]+=,bus=port$port
        else
            "${device}_qemu_args" "$work/$device.sock"
        fi
    done
}

# Each device must have had far more of its addresses translated than QEMU looks up by itself, which
# is one a queue when the device starts.
translations_min=32
check_translations() {
    local counts device_count=${#guest_devices[@]}
    counts=$(sed -n 's/.*vhost_iotlb_miss \(0x[0-9a-f]*\) step 2$/\1/p' "$work/qemu.log" | sort | uniq -c |
        awk -v min="$translations_min" '$1 >= min { printf "%s%d", separator, $1; separator = " " }')
    if (($(wc -w <<<"$counts") == device_count)); then
        host_result boot.translations ok "$counts addresses of the devices were translated"
    else
        host_result boot.translations failed "of $device_count devices only these had addresses translated: ${counts:-none}"
    fi
}

# follow_results: hands over each line of the guest's results while QEMU runs, within the timeout.
follow_results() {
    local deadline=$((SECONDS + boot_timeout_s)) running=yes kind name rest status detail descriptor device
    : >>"$work/results.log"
    exec {descriptor}<"$work/results.log"
    local line='' part
    while :; do
        # Looks before reading, so that lines from QEMU's last moment are still read.
        kill -0 "${process_of[qemu]}" 2>/dev/null || running=
        while IFS= read -r -u "$descriptor" part || { line+=$part; false; }; do
            line=${line}${part%$'\r'}
            read -r kind name rest <<<"$line"
            line=''
            case $kind in
                OUTRIGGER-TEST)
                    read -r status detail <<<"$rest"
                    [[ $name == all ]] && guest_finished=yes || host_result "$name" "$status" "$detail"
                    ;;
                OUTRIGGER-VALUE) value[$name]=$rest ;;
                OUTRIGGER-ASK) "${name%%.*}_asked" "${name#*.}" ;;
            esac
        done
        [[ $running ]] || break
        if ((SECONDS >= deadline)); then
            host_result boot.timeout failed "the guest is not done after $boot_timeout_s s"
            end_process qemu 2
            break
        fi
        # Without its device the guest would wait until the timeout. stop_daemon says how it ended.
        for device in "${guest_devices[@]}"; do
            kill -0 "${process_of[$device]}" 2>/dev/null && continue
            host_result "$device.daemon" failed "ended while the guest ran"
            end_process qemu 2
            break 2
        done
        sleep 0.05
        on_tick
    done
    exec {descriptor}<&-
}

# on_tick: called while waiting; the caller may replace it to show that time passes.
on_tick() { :; }

# attach_to_guest: this terminal is the guest's, until its user or the guest ends.
attach_to_guest() {
    local watcher
    "$build/$console_program" --socket-path="$work/console.sock" \
        --port="name=hvc0,backend=unix,path=$work/terminal" >"$work/console-daemon.log" 2>&1 </dev/null &
    process_of[console]=$!
    wait_for_socket "${process_of[console]}" "$work/console.sock" "$work/terminal" || {
        cat "$work/console-daemon.log" >&2
        return 1
    }
    "${qemu_command[@]}" "${qemu_args[@]}" >"$work/qemu.log" 2>&1 </dev/null &
    process_of[qemu]=$!
    # A guest that has ended ends its console.
    {
        tail --pid="${process_of[qemu]}" -f /dev/null
        kill "${process_of[console]}"
    } 2>/dev/null &
    watcher=$!
    "$build/$console_program" --attach="$work/terminal"
    kill "$watcher" 2>/dev/null
    [[ ! -s $work/qemu.log ]] || cat "$work/qemu.log"
    end_process qemu 2
    end_process console 2
}

# boot_guest [shell]: one whole round. Fails when anything did not hold; $work is kept until
# clean_up_guest or the next boot.
boot_guest() {
    local mode=${1:-proof} device complaint
    clean_up_guest
    value=() proof=() failures=() guest_finished=''
    work=$(mktemp -d "${TMPDIR:-/tmp}/outrigger-guest.XXXXXX") || return
    guest_extra=$work/extra
    mkdir "$guest_extra"
    for device in "${guest_devices[@]}"; do
        "${device}_setup" || { host_result "$device.setup" failed "cannot prepare"; return 1; }
    done
    pack_cpio "$guest_extra" "$work/extra.cpio" || return
    cat "${guest_archives[@]}" "$guest_initramfs" "$work/extra.cpio" >"$work/initramfs" || return
    for device in "${guest_devices[@]}"; do
        start_daemon "$device" || return
    done
    make_qemu_args "$mode"
    if [[ $mode == shell && $shell_console ]]; then
        attach_to_guest
    elif [[ $mode == shell ]]; then
        "${qemu_command[@]}" "${qemu_args[@]}"
    else
        "${qemu_command[@]}" "${qemu_args[@]}" >"$work/qemu.log" 2>&1 </dev/null &
        process_of[qemu]=$!
        follow_results
        if [[ ! $guest_finished && ${#failures[@]} == 0 ]]; then
            host_result boot.end failed "the guest ended early: $(tail -qn 1 "$work/qemu.log" "$work/console.log" | tr '\n' ' ')"
        fi
        complaint=$(grep -a -m 1 -E 'BUG:|WARNING:|Oops|Call Trace|I/O error|is not a head|blocked for more|EXT4-fs error|Kernel panic' "$work/console.log")
        [[ ! $complaint ]] || host_result boot.console failed "the kernel says: ${complaint%$'\r'}"
        [[ $iommu == off ]] || check_translations
    fi
    end_process qemu 2
    for device in "${guest_devices[@]}"; do
        stop_daemon "$device"
    done
    [[ $mode == shell ]] && return 0
    for device in "${guest_devices[@]}"; do
        "${device}_check"
    done
    ((${#failures[@]} == 0))
}

# keep_logs DIR: after a failure.
keep_logs() {
    mkdir -p "$1"
    cp "$work"/*.log "$1"/ 2>/dev/null
    printf '%s\n' "${failures[@]}" >"$1/failures"
    printf '%q ' "${qemu_command[@]}" "${qemu_args[@]}" >"$1/qemu-command"
}
