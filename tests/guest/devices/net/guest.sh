# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox): an address, a name, downloads, and a server that the host reaches.
# shellcheck shell=sh

net_http=$(sed -n 's/.*outrigger\.net\.http=\([0-9]*\).*/\1/p' /proc/cmdline)
net_sha256=$(sed -n 's/.*outrigger\.net\.sha256=\([0-9a-f]*\).*/\1/p' /proc/cmdline)

net_backend=$(sed -n 's/.*outrigger\.net\.backend=\([a-z]*\).*/\1/p' /proc/cmdline)
net_pairs=$(sed -n 's/.*outrigger\.net\.pairs=\([0-9]*\).*/\1/p' /proc/cmdline)
net_host=10.0.2.2 net_host6=fec0::2
[ "$net_backend" != tap ] || net_host=10.9.0.1 net_host6=fd09::1

# What DHCP said, as udhcpc hands it to a script.
cat >/tmp/dhcp <<'SCRIPT'
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router" dev "$interface"
for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
echo "$ip router $router dns $dns search $search mtu $(cat "/sys/class/net/$interface/mtu")" >/tmp/lease
SCRIPT
chmod 755 /tmp/dhcp

# net_fetch NAME HOST: downloads, and compares.
net_fetch() {
    began=$(now_cs)
    sum=$(wget -q -O - "http://$2:$net_http/file" | tee /tmp/file.part | sha256sum | cut -d ' ' -f 1)
    bytes=$(wc -c </tmp/file.part)
    if [ "$sum" = "$net_sha256" ]; then
        pass "net.$1" "$((bytes / 1048576)) MiB at $(per_second "$bytes" "$began")"
    else
        fail "net.$1" "sha256 $sum of $bytes bytes, expected $net_sha256"
    fi
}

# net_fetched: has the host fetched all of it, within a minute?
net_fetched() {
    for _ in 1 2 3 4 5 6; do
        wait_for wget -q -O /dev/null "http://$net_host:$net_http/fetched" && return 0
    done
    return 1
}

# net_configure: by DHCP, or where nobody answers that by hand.
net_configure() {
    if [ "$net_backend" = tap ]; then
        echo "nameserver $net_host" >/etc/resolv.conf
        ip addr add 10.9.0.2/24 dev eth0 && echo "10.9.0.2 by hand" >/tmp/lease
    else
        udhcpc -q -n -t 10 -T 2 -i eth0 -s /tmp/dhcp >/tmp/udhcpc.log 2>&1
    fi
}

# net_configure6: from a router advertisement; the other address is where the host reaches us.
net_configure6() {
    if [ "$net_backend" = tap ]; then
        echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
        ip -6 addr add fd09::2/64 dev eth0
        return
    fi
    if wait_for sh -c 'ip -6 addr show dev eth0 | grep -q "inet6 fec0"'; then
        pass net.address6 "$(ip -6 addr show dev eth0 | sed -n 's/.*inet6 \(fec0[^ ]*\).*/\1/p')"
    else
        fail net.address6 "no router advertised a prefix"
    fi
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    ip -6 addr add fec0::20/64 dev eth0
}

prove_net() {
    prove_negotiated net virtio_net
    # Linux takes as many as it has processors, which are no fewer.
    if [ "$(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)" = "$net_pairs" ]; then
        pass net.pairs "$net_pairs"
    else
        fail net.pairs "$(ls /sys/class/net/eth0/queues | tr '\n' ' '), expected $net_pairs of each"
    fi
    ip link set lo up
    ip link set eth0 up
    if net_configure; then
        pass net.dhcp "$(cat /tmp/lease)"
    else
        fail net.dhcp "$(tail -n 1 /tmp/udhcpc.log)"
    fi
    if answer=$(nslookup -type=a server.outrigger.test 2>&1 | sed -n 's/^Address: *//p' | tail -n 1) &&
        [ "$answer" = "$net_host" ]; then
        pass net.name "server.outrigger.test is $answer"
    else
        fail net.name "server.outrigger.test is '$answer'"
    fi
    net_fetch download server.outrigger.test
    net_configure6
    net_fetch download6 "[$net_host6]"
    mkdir -p /tmp/www && ln -s /tmp/file.part /tmp/www/file
    httpd -p '[::]:8080' -h /tmp/www
    ask net.fetch
    ask net.fetch6
    # The host says when it has both.
    if net_fetched; then
        pass net.served "the host fetched what was downloaded"
    else
        fail net.served "the host has not fetched it"
    fi
    if take_again virtio_net && sleep 0.2 && ip link set eth0 up && ip addr flush dev eth0 &&
        net_configure && wget -q -O /dev/null "http://$net_host:$net_http/"; then
        pass net.reset "a driver that begins anew is in the network again"
    else
        fail net.reset "a driver that begins anew is not: $(tail -n 1 /tmp/udhcpc.log)"
    fi
}

show_net() {
    ip link set eth0 up && net_configure
    echo "  network try: ip addr; wget -O - http://$net_host:$net_http/"
}
