# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox): starts the verifier as the kernel command line says, with the serial
# line of the results as its input and output.
# shellcheck shell=sh

# join_network WHERE: user, tap, or addresses of its own with commas between.
join_network() {
    prove_negotiated net virtio_net
    # shellcheck source=/dev/null
    . /proofs/net.sh
    ip link set lo up
    # A link that goes down shall keep its address of IPv6 as it does that of IPv4.
    echo 1 >/proc/sys/net/ipv6/conf/all/keep_addr_on_down
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 up
    case $1 in
        user | tap) net_backend=$1 && net_configure && net_configure6 ;;
        *)
            for address in $(echo "$1" | tr , ' '); do
                ip addr add "$address" dev eth0 || return
            done
            ;;
    esac
}

# change_link ROUNDS: what an operator may do to an interface under load. Each is looked at.
change_link() {
    /bin/link eth0 feature rx-gro-hw off
    round=0 changes=0 complaint=''
    while [ "$round" -lt "$1" ]; do
        round=$((round + 1))
        for change in "channels 4" "feature tx-tcp-segmentation off" "feature tx-tcp6-segmentation off" \
            "feature rx-gro-hw off" "channels 1" "feature tx-checksum-ip-generic off" "mtu 1280" "flap" \
            "feature tx-checksum-ip-generic on" "channels 3" "feature tx-tcp-segmentation on" \
            "feature tx-tcp6-segmentation on" "mtu 1500" "channels 2" "feature rx-gro-hw on" "flap"; do
            case $change in
                flap) said=$(ip link set eth0 down 2>&1 && sleep 0.2 && ip link set eth0 up 2>&1) ;;
                mtu*) said=$(ip link set eth0 mtu "${change#mtu }" 2>&1) ;;
                # shellcheck disable=SC2086
                *) said=$(/bin/link eth0 $change 2>&1) ;;
            esac || complaint="$change: $said"
            changes=$((changes + 1))
            [ ! "$complaint" ] || break 2
            sleep 0.3
        done
    done
    if [ "$complaint" ]; then
        fail survival.changes "$complaint"
    else
        pass survival.changes "$changes changes of eth0"
    fi
}

# follow_streams CONNECTIONS ADDRESS...: the other end of another guest's.
follow_streams() {
    count=$1 followed=''
    shift
    for address in "$@"; do
        /bin/streams follow "$count" "$address" >"/tmp/follow.${address##*:}" 2>&1 &
        followed="$followed ${address##*:}"
    done
    wait
    for port in $followed; do
        said=$(cat "/tmp/follow.$port")
        case $said in
            ok*) pass "survival.follow.$port" "$said" ;;
            *) fail "survival.follow.$port" "$said" ;;
        esac
    done
}

prove_survival() {
    disk=- source='' streams='' shared='' network='' follow='' calls='' rounds=''
    for word in $(cat /proc/cmdline); do
        case $word in
            survival.threads=*) threads=${word#*=} ;;
            survival.blocks=*) blocks=${word#*=} ;;
            survival.stuck=*) stuck=${word#*=} ;;
            survival.disk) disk=/dev/vda ;;
            survival.rng) source=hwrng ;;
            survival.share) shared=yes ;;
            survival.streams=*) streams=$(echo "${word#*=}" | tr , ' ') ;;
            survival.net=*) network=${word#*=} ;;
            survival.follow=*) follow=$(echo "${word#*=}" | tr , ' ') ;;
            survival.calls=*) calls=$(echo "${word#*=}" | tr , ' ') ;;
            survival.changes=*) rounds=${word#*=} ;;
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
    if [ "$network" ]; then
        join_network "$network" || fail survival.network "$(ip addr show dev eth0 2>&1 | tr '\n' ' ')"
        [ ! "$rounds" ] || change_link "$rounds" &
    fi
    if [ "$follow" ]; then
        # shellcheck disable=SC2086
        follow_streams $follow
        return
    fi
    if [ "$calls" ]; then
        /bin/calls serve 7010 >/dev/null 2>&1 &
        # shellcheck disable=SC2086
        if /bin/calls call "$stuck" $calls </dev/ttyS1 >/dev/ttyS1 2>&1; then
            pass survival.calls "all were answered"
        else
            fail survival.calls "status $?"
        fi
        return
    fi
    if [ "$streams" ]; then
        [ "$network" ] || prove_negotiated vsock vmw_vsock_virtio_transport
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
