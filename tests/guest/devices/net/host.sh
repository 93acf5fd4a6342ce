# SPDX-License-Identifier: Apache-2.0
# Runs on the host: the network, whose servers are those of servers.py.
# shellcheck shell=bash

net_title="network"
net_program=devices/net/outrigger-net
net_servers=$guest_source/devices/net/servers.py

# Downloaded over each of IPv4 and IPv6, and fetched by the host over each.
net_bytes=${OUTRIGGER_NET_BYTES:-16777216}

# user, or tap: an interface in a network namespace that is the servers' and the daemon's.
net_backend=user
net_tap=outrigger0

# net_ports: those of the servers, and two that the daemon is to listen at.
net_setup() {
    local tries apart=() tap=()
    if [[ $net_backend == tap ]]; then
        apart=(unshare --net) tap=("$net_tap")
    fi
    "${apart[@]}" python3 "$net_servers" serve "$work/net-ports" "$net_bytes" "${tap[@]}" >"$work/net-servers.log" 2>&1 </dev/null &
    process_of[net-servers]=$!
    for ((tries = 0; tries < 200; tries++)); do
        [[ -s $work/net-ports ]] && break
        kill -0 "${process_of[net-servers]}" 2>/dev/null || break
        sleep 0.05
    done
    # http dns forward forward6 sha256
    read -r -a net_ports <"$work/net-ports"
}

# net_pairs: that the guest has. QEMU 7.2 aborts (address_space_write_cached) in a control queue of its own
# that is packed; without one there is one pair. Behind a virtual IOMMU four take minutes, which those of split
# rings do already.
net_pairs() { [[ $rings == packed && ($qemu_version == 7.* || $iommu != off) ]] && echo 1 || echo "$queues"; }

net_kernel_arguments() {
    echo " outrigger.net.http=${net_ports[0]} outrigger.net.sha256=${net_ports[4]} outrigger.net.backend=$net_backend" \
        "outrigger.net.pairs=$(net_pairs)"
}

net_command() {
    if [[ $net_backend == tap ]]; then
        daemon_command=(nsenter "--net=/proc/${process_of[net-servers]}/ns/net" "$build/$net_program"
            --socket-path="$1" --backend=tap --tap="$net_tap" --queue-pairs="$queues")
        return
    fi
    daemon_command=("$build/$net_program" --socket-path="$1" --backend=user --queue-pairs="$queues"
        --host-loopback=on --dns="127.0.0.1:${net_ports[1]}" --search=outrigger.test
        --forward="tcp:${net_ports[2]}-8080" --forward="tcp:[::1]:${net_ports[3]}-[fec0::20]:8080")
}

net_qemu_args() {
    # On the root bus QEMU would make a transitional device of it, which takes no IOMMU.
    local more=,disable-legacy=on pairs
    pairs=$(net_pairs)
    # QEMU 7.2 crashes with any such device when it emulates the processor and the guest uses MSI-X.
    [[ $accelerator == tcg && $qemu_version == 7.* ]] && more+=,vectors=0
    if [[ $rings == packed && $qemu_version == 7.* ]]; then
        # Nothing that drivers must not be offered without that queue.
        more+=,ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off
        more+=,ctrl_guest_offloads=off,guest_announce=off
    fi
    ((pairs == 1)) || more+=,mq=on
    qemu_args+=(-chardev "socket,id=net,path=$1" -netdev "vhost-user,id=net,chardev=net,queues=$pairs"
        -device "virtio-net-pci,netdev=net,mac=52:54:00:00:00:20,romfile=,$virtio_options$more")
}

# The guest serves.
net_asked() {
    local host=127.0.0.1 port=${net_ports[2]} apart=()
    [[ $1 == fetch ]] || host=::1 port=${net_ports[3]}
    if [[ $net_backend == tap ]]; then
        apart=(nsenter "--net=/proc/${process_of[net-servers]}/ns/net") host=10.9.0.2 port=8080
        [[ $1 == fetch ]] || host=fd09::2
    fi
    "${apart[@]}" python3 "$net_servers" fetch "$host" "$port" "${net_ports[4]}" "$work/net-fetched${1#fetch}" \
        >"$work/net-$1.log" 2>&1 </dev/null &
    process_of[net-$1]=$!
}

net_check() {
    local name line
    for name in fetch fetch6; do
        end_process "net-$name" 1
        line=$(tail -n 1 "$work/net-$name.log" 2>/dev/null)
        if [[ $line == ok* ]]; then
            host_result "net.host.$name" ok "${line#ok }"
        else
            host_result "net.host.$name" failed "${line:-no answer}"
        fi
    done
    end_process net-servers 1
}

# What ./demo says about the proof.
net_report() {
    say "address: ${proof[net.dhcp]}; name: ${proof[net.name]}"
    say "download: ${proof[net.download]}; over IPv6 ${proof[net.download6]}; checksums equal"
    say "the guest's server at a forwarded port: ${proof[net.host.fetch]}"
}
