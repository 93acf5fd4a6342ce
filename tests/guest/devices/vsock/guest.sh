# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox): the socket device. traffic.cc is the program at both ends.
# shellcheck shell=sh

vsock_connections=50
vsock_bytes=$(sed -n 's/.*outrigger\.vsock\.bytes=\([0-9]*\).*/\1/p' /proc/cmdline)

# vsock_result NAME LINE: what traffic printed.
vsock_result() {
    case $2 in
        ok*) pass "vsock.$1" "${2#ok }" ;;
        *) fail "vsock.$1" "${2#failed }" ;;
    esac
}

# vsock_receives NAME ARGUMENT...: lets the host send what traffic receives here.
vsock_receives() {
    name=$1
    shift
    /bin/traffic "$@" >"/tmp/$name" &
    pid=$!
    sleep 0.2
    ask "vsock.$name"
    wait $pid
    vsock_result "$name" "$(cat "/tmp/$name")"
}

prove_vsock() {
    prove_negotiated vsock vmw_vsock_virtio_transport
    vsock_result refused "$(/bin/traffic refused vsock:2:9 100)"
    # The calls of the full port wait for 2 s.
    vsock_result beside_full "$(/bin/traffic beside vsock:2:6004 vsock:2:6005 1000)"
    vsock_result echo "$(/bin/traffic echo vsock:2:6000 2000)"
    vsock_result to_host "$(/bin/traffic send vsock:2:6001 $vsock_connections $vsock_bytes)"
    vsock_result packets_to_host \
        "$(/bin/traffic send packet-vsock:2:6002 10 $((vsock_bytes / 10)))"
    vsock_receives from_host receive vsock-listen:5001 $vsock_connections
    vsock_receives packets_from_host receive packet-vsock-listen:5002 10
    vsock_receives echo_of_host answer vsock-listen:5003
    ask vsock.refused_by_guest
    sleep 0.3
    vsock_result refused_again "$(/bin/traffic refused vsock:2:9 100)"
    if take_again vmw_vsock_virtio_transport && sleep 0.2; then
        vsock_result reset "$(/bin/traffic echo vsock:2:6003 10)"
    else
        fail vsock.reset "the driver does not let go of the device"
    fi
}

show_vsock() {
    echo "  vsock try: traffic answer vsock-listen:5000 &   and on the host: socat - UNIX-CONNECT:V, CONNECT 5000"
}
