# SPDX-License-Identifier: Apache-2.0
# Sourced after .ci/steps.sh and prepare.sh: which QEMU runs the guest. Beside the installed one there
# is that of the distribution's backports, taken out of its packages into build/guest. Nothing of it
# is installed, and apt's own lists and sources stay as they are.
# shellcheck shell=bash

qemu_command=(qemu-system-x86_64)  # what runs the guest
qemu_version=                      # of qemu_command, "7.2"; choose_qemu sets it

backports_dir=$guest_dir/qemu-backports
backports_packages=(qemu-system-x86 qemu-system-common qemu-system-data seabios)

# in_backports TOOL ARGUMENT...: apt-get or apt-cache, that knows the backports as well.
in_backports() { with_sources_in "$backports_dir" "$@"; }

# Downloads what apt would install to have the backports' QEMU here, and unpacks it to $1.
download_backports() {
    local release archive package packages new=$1
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    archive=$(find_archive "$release") || return
    make_sources_directory "$backports_dir" || return
    printf 'deb %s %s main\n' "$archive" "$release" "$archive" "$release-backports" \
        >"$backports_dir/sources.list"
    in_backports apt-get update || return
    # The libraries that the newer QEMU needs and this machine lacks, as far as there are any.
    in_backports apt-get -s -t "$release-backports" --no-install-recommends install \
        "${backports_packages[@]}" >"$backports_dir/plan" || return
    mapfile -t packages < <({
        printf '%s\n' "${backports_packages[@]}"
        sed -n 's/^Inst \([^ ]*\).*/\1/p' "$backports_dir/plan"
    } | sort -u)
    (cd "$backports_dir/packages" &&
        in_backports apt-get -t "$release-backports" download "${packages[@]}") || return
    for package in "$backports_dir"/packages/*.deb; do
        dpkg -x "$package" "$new" || return
    done
}

fetch_backports_qemu() {
    local new=$guest_dir/qemu-10.new status
    mkdir -p "$guest_dir"
    rm -rf "$new"
    with_retries download_backports "$new" &&
        use_unpacked_qemu "$new" &&
        "${qemu_command[@]}" --version &&
        rm -rf "$guest_dir/qemu-10" &&
        mv "$new" "$guest_dir/qemu-10"
    status=$?
    rm -rf "$backports_dir" "$new"
    return "$status"
}

# use_unpacked_qemu DIR: qemu_command becomes the QEMU that was unpacked there, with its own libraries,
# modules and firmware.
use_unpacked_qemu() {
    local libraries
    libraries=$(compgen -G "$1/usr/lib/*-linux-gnu*") || return
    qemu_command=(env "LD_LIBRARY_PATH=$libraries" "QEMU_MODULE_DIR=$libraries/qemu"
        "$1/usr/bin/qemu-system-x86_64" -L "$1/usr/share/qemu" -L "$1/usr/share/seabios")
}

# The newest QEMU there is, in a system of its own.
sid_dir=$guest_dir/sid

has_sid_qemu() { [[ -x $sid_dir/usr/bin/qemu-system-x86_64 ]]; }

download_sid() {
    local archive
    archive=$(find_archive "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)") || return
    as_root rm -rf "$sid_dir" "$sid_dir.new"
    as_root debootstrap --variant=minbase --include=qemu-system-x86 sid "$sid_dir.new" "$archive" &&
        as_root mv "$sid_dir.new" "$sid_dir"
}

# use_sid_qemu: qemu_command becomes it, with its own loader and libraries; the modules are in the
# environment.
use_sid_qemu() {
    local libraries
    libraries=$(compgen -G "$sid_dir/usr/lib/*-linux-gnu") || return
    qemu_command=("$libraries/ld-linux-x86-64.so.2" --library-path "$libraries"
        "$sid_dir/usr/bin/qemu-system-x86_64" -L "$sid_dir/usr/share/qemu" -L "$sid_dir/usr/share/seabios")
    export QEMU_MODULE_DIR=$libraries/qemu
}

# choose_qemu WHICH: 7.2 or "" (the installed one), 10 (the backports'), or the path of one.
choose_qemu() {
    case $1 in
        '' | 7.2) qemu_command=(qemu-system-x86_64) ;;
        10)
            [[ -x $guest_dir/qemu-10/usr/bin/qemu-system-x86_64 ]] ||
                step "fetching QEMU 10" "$root/build/log/qemu-10.log" fetch_backports_qemu || return
            use_unpacked_qemu "$guest_dir/qemu-10"
            ;;
        *) qemu_command=("$1") ;;
    esac
    qemu_version=$("${qemu_command[@]}" --version | sed -n 's/^QEMU emulator version \([0-9]*\.[0-9]*\).*/\1/p')
    case $1:$qemu_version in
        *:) say "  ${red}failed${plain}  ${qemu_command[*]} is no QEMU that runs here"; return 1 ;;
        :* | 7.2:7.2 | 10:10.* | /*) ;;
        *) say "  ${red}failed${plain}  this is QEMU $qemu_version and not $1"; return 1 ;;
    esac
}
