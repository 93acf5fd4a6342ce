# SPDX-License-Identifier: Apache-2.0
# Sourced: makes the guest. Debian's cloud kernel and static busybox are taken out of their packages,
# which are not installed; an initramfs is packed from them, tests/guest/init and the devices'
# proofs. Everything is kept in build/guest and made again only when what it is made of changes.
# shellcheck shell=bash

guest_source=$root/tests/guest
guest_dir=$root/build/guest

# newest_package NAME: the version that apt would download, "" when the lists do not know it.
newest_package() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \([^(].*\)/\1/p'; }

# The package that linux-image-cloud-amd64 stands for: it changes with every kernel update.
kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

# unpack_package NAME DIR: downloads and unpacks without installing.
unpack_package() {
    local name=$1 dir=$2 download
    download=$(mktemp -d "$guest_dir/download.XXXXXX") || return
    (cd "$download" && with_retries apt-get -q -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Retries=3 download "$name") &&
        rm -rf "$dir" "$dir.new" &&
        dpkg -x "$download"/*.deb "$dir.new" &&
        mv "$dir.new" "$dir"
    local status=$?
    rm -rf "$download"
    return "$status"
}

download_guest() {
    mkdir -p "$guest_dir"
    local package
    if [[ -z $(kernel_package) || -z $(newest_package busybox-static) ]]; then
        with_retries apt update || return
    fi
    package=$(kernel_package)
    [[ $package ]] || { echo "apt knows no linux-image-cloud-amd64"; return 1; }
    unpack_package "$package" "$guest_dir/kernel" || return
    unpack_package busybox-static "$guest_dir/busybox"
}

has_guest_downloads() {
    [[ -x $guest_dir/busybox/bin/busybox ]] && compgen -G "$guest_dir/kernel/boot/vmlinuz-*" >/dev/null
}

guest_kernel() { compgen -G "$guest_dir/kernel/boot/vmlinuz-*"; }
guest_kernel_release() { basename "$(guest_kernel)" | sed 's/^vmlinuz-//'; }

# unpacked_module FILE: the ELF object of FILE.ko, .ko.xz, .ko.gz or .ko.zst on stdout.
unpacked_module() {
    case $1 in
        *.ko) cat "$1" ;;
        *.ko.xz) xz -dc "$1" ;;
        *.ko.gz) gzip -dc "$1" ;;
        *.ko.zst) zstd -dcq "$1" ;;
    esac
}

# copy_module NAME: copies NAME and, before it, what it depends on into $modules_to, and appends
# the names in loading order to its list. The package has no modules.dep (that is made when it is
# installed), so the dependencies come from each module's own .modinfo section.
copy_module() {
    local name=${1//-/_} file needs need
    [[ " $modules_copied " == *" $name "* ]] && return 0
    modules_copied+=" $name"
    tr - _ <"$modules_from/modules.builtin" | grep -q "/$name\.ko$" && return 0
    file=$(find "$modules_from/kernel" -name "${name//_/[-_]}.ko*" | head -n 1)
    [[ $file ]] || { echo "the kernel has no module $name"; return 1; }
    unpacked_module "$file" >"$modules_to/$name.ko" || return
    needs=$(tr '\0' '\n' <"$modules_to/$name.ko" | sed -n 's/^depends=//p' | head -n 1)
    for need in ${needs//,/ }; do
        copy_module "$need" || return
    done
    echo "$name" >>"$modules_to/order"
}

# Modules that every virtio device of the guest needs; each device names its own.
modules_of_guest() {
    local file
    echo virtio_pci
    echo virtio_console  # of the prompt, see boot.sh
    for file in "$guest_source"/devices/*/modules; do
        sed 's/ *#.*//; /^$/d' "$file"
    done
}

pack_initramfs() {
    local tree=$guest_dir/initramfs.tree modules_from modules_to modules_copied='' module applet device
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,proc,sys,mnt,tmp,modules,proofs,etc} || return
    cp "$guest_dir/busybox/bin/busybox" "$tree/bin/" || return
    for applet in $("$tree/bin/busybox" --list); do
        [[ $applet == busybox ]] || ln -s busybox "$tree/bin/$applet"
    done
    install -m 755 "$guest_source/init" "$tree/init" || return
    for device in "$guest_source"/devices/*/; do
        install -m 644 "$device/guest.sh" "$tree/proofs/$(basename "$device").sh" || return
    done
    modules_from=$guest_dir/kernel/lib/modules/$(guest_kernel_release)
    modules_to=$tree/modules
    for module in $(modules_of_guest); do
        copy_module "$module" || return
    done
    pack_cpio "$tree" "$guest_dir/initramfs.new" && mv "$guest_dir/initramfs.new" "$guest_dir/initramfs"
    local status=$?
    rm -rf "$tree"
    return "$status"
}

# pack_cpio DIR FILE: the kernel accepts several such archives one after the other.
pack_cpio() {
    (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null -o -H newc -R 0:0 | gzip -1) >"$2"
}

# What the initramfs is made of, as one checksum.
initramfs_inputs() {
    {
        guest_kernel_release
        sha256sum "$guest_dir/busybox/bin/busybox" "$guest_source"/{prepare.sh,init} \
            "$guest_source"/devices/*/{guest.sh,modules}
    } | sha256sum | cut -d ' ' -f 1
}

# prepare_guest: shows its steps only when there is something to do.
prepare_guest() {
    local inputs
    has_guest_downloads ||
        step "fetching the guest's kernel" "$root/build/log/guest-download.log" download_guest || return
    inputs=$(initramfs_inputs)
    if [[ ! -s $guest_dir/initramfs || $(cat "$guest_dir/initramfs.inputs" 2>/dev/null) != "$inputs" ]]; then
        step "packing the guest" "$root/build/log/guest-pack.log" pack_initramfs || return
        echo "$inputs" >"$guest_dir/initramfs.inputs"
    fi
}
