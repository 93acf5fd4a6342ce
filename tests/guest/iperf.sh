# SPDX-License-Identifier: Apache-2.0
# Sourced after .ci/steps.sh and prepare.sh: iperf3, which is not installed, for guests and beside them.
# shellcheck shell=bash

network_dir=$guest_dir/network
iperf_packages=(iperf3 libiperf0 libsctp1)

# iperf_libraries: where the libraries are that come with it.
iperf_libraries() {
    local name folder libraries=''
    for name in "${iperf_packages[@]}"; do
        folder=$(compgen -G "$network_dir/$name/usr/lib/*-linux-gnu") && libraries+=:$folder
    done
    echo "${libraries#:}"
}

# pack_network INIT: iperf3 with its libraries and those of this machine that they need, and its first program.
pack_network() {
    local tree=$network_dir/tree name status
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,lib,lib64} || return
    for name in "${iperf_packages[@]}"; do
        unpack_package "$name" "$network_dir/$name" || return
    done
    while read -r name; do
        install "$(realpath "$name")" "$tree/lib/$(basename "$name")" || return
    done < <(LD_LIBRARY_PATH=$(iperf_libraries) ldd "$network_dir/iperf3/usr/bin/iperf3" |
        sed -n 's/.*=> \(\/[^ ]*\) (0x.*/\1/p')
    install -m 755 "$network_dir/iperf3/usr/bin/iperf3" "$tree/bin/" &&
        install "$(realpath /lib64/ld-linux-x86-64.so.2)" "$tree/lib64/ld-linux-x86-64.so.2" &&
        install -m 755 "$guest_source/$1" "$tree/init" &&
        pack_cpio "$tree" "$network_dir/extra" &&
        cat "$guest_dir/initramfs" "$network_dir/extra" >"$network_dir/$1.new" &&
        mv "$network_dir/$1.new" "$network_dir/$1"
    status=$?
    rm -rf "$tree"
    return "$status"
}

# prepare_network INIT: $network_dir/INIT becomes an initramfs whose first program is that one.
prepare_network() {
    local inputs
    mkdir -p "$network_dir"
    inputs=$(sha256sum "$guest_dir/initramfs" "$guest_source"/{iperf.sh,"$1"} | sha256sum)
    if [[ ! -s $network_dir/$1 || $(cat "$network_dir/$1.inputs" 2>/dev/null) != "$inputs" ]]; then
        step "packing iperf3 for the guest" "$root/build/log/guest-network.log" pack_network "$1" || return
        echo "$inputs" >"$network_dir/$1.inputs"
    fi
}
