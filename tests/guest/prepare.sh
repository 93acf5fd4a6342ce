# SPDX-License-Identifier: Apache-2.0
# Sourced: makes the guest. Debian's cloud kernel and static busybox are taken out of their packages,
# which are not installed; an initramfs is packed from them, tests/guest/init and the devices'
# proofs. Everything is kept in build/guest and made again only when what it is made of changes.
# shellcheck shell=bash

guest_source=$root/tests/guest
guest_dir=$root/build/guest
# use_sid_kernel changes both.
guest_kernel_dir=$guest_dir/kernel
guest_initramfs=$guest_dir/initramfs

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

# Where it is: newer packages have it beside its modules, which are below /usr.
guest_kernel() { compgen -G "$guest_kernel_dir/boot/vmlinuz-*" || compgen -G "$guest_kernel_dir/usr/lib/modules/*/vmlinuz"; }
guest_modules() { compgen -G "$guest_kernel_dir/lib/modules/*" || compgen -G "$guest_kernel_dir/usr/lib/modules/*"; }
guest_kernel_release() { basename "$(guest_modules)"; }

# --- The kernel of Debian sid ----------------------------------------------------------------------

sid_kernel_dir=$guest_dir/kernel-sid

has_sid_kernel() { [[ -s $sid_kernel_dir/source-package ]] && compgen -G "$sid_kernel_dir/usr/lib/modules/*/vmlinuz" >/dev/null; }

# open_sid DIR: the lists of sid's packages there; in_sid DIR TOOL ARGUMENT...: apt-get or apt-cache that
# knows these.
open_sid() {
    local archive
    archive=$(find_archive "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)") || return
    make_sources_directory "$1" || return
    printf 'deb %s sid main\n' "$archive" >"$1/sources.list"
    in_sid "$1" apt-get update
}

in_sid() { with_sources_in "$@"; }

# fetch_sid_kernel DIR: of the lists there; and notes the name of the package of its source.
fetch_sid_kernel() {
    local image parts package new=$sid_kernel_dir.new
    image=$(in_sid "$1" apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    # It is an empty package that names those which have the kernel and its modules.
    mapfile -t parts < <(in_sid "$1" apt-cache depends "$image" | sed -n 's/.*Depends: \(linux-\(base\|binary\|modules\)-[0-9].*\)/\1/p')
    rm -rf "$new"
    mkdir "$new" || return
    in_sid "$1" apt-cache depends linux-source | sed -n 's/.*Depends: \(linux-source-[0-9].*\)/\1/p' | head -n 1 >"$new/source-package"
    [[ $image && -s $new/source-package ]] || { echo "sid's lists name no kernel"; return 1; }
    (cd "$1/packages" && rm -f ./*.deb && in_sid "$1" apt-get download "$image" "${parts[@]}") || return
    for package in "$1"/packages/*.deb; do
        dpkg -x "$package" "$new" || return
    done
    rm -rf "$sid_kernel_dir"
    mv "$new" "$sid_kernel_dir"
}

download_sid_kernel() {
    open_sid "$guest_dir/apt-sid" && fetch_sid_kernel "$guest_dir/apt-sid" || return
    rm -rf "$guest_dir/apt-sid"
}

# use_sid_kernel: it takes the place of the other. Before prepare_guest, or for what packs its own.
use_sid_kernel() {
    guest_kernel_dir=$sid_kernel_dir
    guest_initramfs=$guest_dir/initramfs-sid
}

# --- What the guest boots --------------------------------------------------------------------------

# unpacked_module FILE: the ELF object of FILE.ko, .ko.xz, .ko.gz or .ko.zst on stdout.
unpacked_module() {
    case $1 in
        *.ko) cat "$1" ;;
        *.ko.xz) xz -dc "$1" ;;
        *.ko.gz) gzip -dc "$1" ;;
        *.ko.zst) zstd -dcq "$1" ;;
    esac
}

# module_file NAME: "" when the kernel has none of that name.
module_file() { find "$modules_from/kernel" -name "${1//[-_]/[-_]}.ko*" | head -n 1; }

# copy_module NAME: copies NAME and, before it, what it depends on into $modules_to, and appends
# the names in loading order to its list. The package has no modules.dep (that is made when it is
# installed), so the dependencies come from each module's own .modinfo section.
copy_module() {
    local name=${1//-/_} file needs need
    [[ " $modules_copied " == *" $name "* ]] && return 0
    modules_copied+=" $name"
    tr - _ <"$modules_from/modules.builtin" | grep -q "/$name\.ko$" && return 0
    file=$(module_file "$name")
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
    modules_from=$(guest_modules) || return
    modules_to=$tree/modules
    for module in $(modules_of_guest); do
        [[ $module != *\? || $(module_file "${module%?}") ]] || continue
        module=${module%\?}
        copy_module "$module" || return
    done
    pack_cpio "$tree" "$guest_initramfs.new" && mv "$guest_initramfs.new" "$guest_initramfs"
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
    if [[ $guest_kernel_dir == "$sid_kernel_dir" ]] && ! has_sid_kernel; then
        step "fetching the kernel of sid" "$root/build/log/guest-sid-kernel.log" with_retries download_sid_kernel || return
    fi
    inputs=$(initramfs_inputs)
    if [[ ! -s $guest_initramfs || $(cat "$guest_initramfs.inputs" 2>/dev/null) != "$inputs" ]]; then
        step "packing the guest" "$root/build/log/guest-pack.log" pack_initramfs || return
        echo "$inputs" >"$guest_initramfs.inputs"
    fi
}
