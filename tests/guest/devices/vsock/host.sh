# SPDX-License-Identifier: Apache-2.0
# Runs on the host: the socket device.
# shellcheck shell=bash

vsock_title="sockets"
vsock_program=devices/vsock/outrigger-vsock
vsock_traffic=$root/build/guest/traffic

# vsock_start NAME ARGUMENT...: an end of connections that runs while the guest does.
vsock_start() {
    local name=$1
    shift
    "$vsock_traffic" "$@" >"$work/vsock-$name.log" 2>&1 </dev/null &
    process_of[vsock-$name]=$!
}

vsock_build_traffic() {
    local source=$guest_source/devices/vsock/traffic.cc
    [[ ! -x $vsock_traffic || $source -nt $vsock_traffic || ${source%/*}/address.h -nt $vsock_traffic ]] || return 0
    "${CXX:-g++}" -std=c++20 -O2 -static -pthread -Wall -Wextra -I"$root" -o "$vsock_traffic.new" "$source" &&
        mv "$vsock_traffic.new" "$vsock_traffic"
}

vsock_setup() {
    vsock_build_traffic || return
    install -D -m 755 "$vsock_traffic" "$guest_extra/bin/traffic" || return
    vsock_start echo answer "unix-listen:$work/v_6000"
    vsock_start to_host receive "unix-listen:$work/v_6001" 50
    vsock_start packets_to_host receive "packet-unix-listen:$work/v_6002" 10
    vsock_start reset answer "unix-listen:$work/v_6003"
    vsock_start full full "unix-listen:$work/v_6004"
    vsock_start beside_full answer "unix-listen:$work/v_6005"
}

# Each way; ./test --long makes it 200 MiB.
vsock_bytes=${OUTRIGGER_VSOCK_BYTES:-33554432}

vsock_kernel_arguments() {
    echo " outrigger.vsock.bytes=$vsock_bytes"
}

# The guest listens.
vsock_asked() {
    case $1 in
        from_host) vsock_start "$1" send "hybrid:$work/v:5001" 50 "$vsock_bytes" ;;
        packets_from_host) vsock_start "$1" send "packet-hybrid:$work/v:5002" 10 $((vsock_bytes / 10)) ;;
        echo_of_host) vsock_start "$1" echo "hybrid:$work/v:5003" 2000 ;;
        refused_by_guest) vsock_start "$1" refused "hybrid:$work/v:4999" 5000 ;;
    esac
}

vsock_command() {
    daemon_command=("$build/$vsock_program" --socket-path="$1" --guest-cid=7 --uds-path="$work/v")
}

vsock_qemu_args() {
    local model=vhost-user-vsock-pci
    # Legacy drivers know of no IOMMU, so QEMU refuses a device that would serve them, too.
    [[ $iommu == off ]] || model+=-non-transitional
    qemu_args+=(-chardev "socket,id=vsock,path=$1" -device "$model,chardev=vsock,$virtio_options")
}

vsock_check() {
    local name line
    end_process vsock-full 1
    for name in echo beside_full to_host packets_to_host reset from_host packets_from_host echo_of_host refused_by_guest; do
        end_process "vsock-$name" 1
        line=$(tail -n 1 "$work/vsock-$name.log" 2>/dev/null)
        if [[ $line == ok* ]]; then
            host_result "vsock.host.$name" ok "${line#ok }"
        else
            host_result "vsock.host.$name" failed "${line:-no answer}"
        fi
    done
}

# What ./demo says about the proof.
vsock_report() {
    say "guest to host: ${proof[vsock.to_host]}, checksums equal"
    say "host to guest: ${proof[vsock.host.from_host]}, checksums equal"
    say "echo: ${proof[vsock.echo]}; from the host, ${proof[vsock.host.echo_of_host]}"
    say "a refused connection: ${proof[vsock.refused]}"
    say "beside a full port: ${proof[vsock.beside_full]}"
}
