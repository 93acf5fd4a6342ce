# SPDX-License-Identifier: Apache-2.0
# Sourced by ./demo, ./test and tests/guest/run: shows long steps, installs packages, builds.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [[ -t 1 && -z ${CI:-} && ${TERM:-dumb} != dumb ]]; then
    on_terminal=yes
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' yellow=$'\e[33m' plain=$'\e[0m'
    clear_line=$'\r\e[K'
else
    on_terminal=
    bold='' dim='' green='' red='' yellow='' plain='' clear_line=''
fi

say() { printf '%s\n' "$*"; }

die() {
    printf '%s%s%s\n' "$red" "$*" "$plain" >&2
    exit 1
}

# Microseconds since the epoch. EPOCHREALTIME uses the locale's decimal sign.
now_us() { printf '%s' "${EPOCHREALTIME//[.,]/}"; }

# seconds_since START_US: one decimal, "12.3".
seconds_since() {
    local tenths=$((($(now_us) - $1) / 100000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# one_line_for_terminal TEXT: what of TEXT fits beside a step's title.
one_line_for_terminal() {
    local text=${1//[^[:print:]]/} room=$((${COLUMNS:-80} - 46))
    printf '%s' "${text:0:$((room > 0 ? room : 0))}"
}

# step TITLE LOG COMMAND...: runs COMMAND with its output in LOG. A terminal shows a spinner with
# the newest line of LOG; elsewhere the title is printed at once and the time at the end, with a
# sign of life each minute. Fails with COMMAND's status, after the end of LOG. With step_result=hidden
# nothing stays of a success: the caller has more to say about it.
step() {
    local title=$1 log=$2 started pid status=0 frame=0 newest quiet_since
    shift 2
    mkdir -p "$(dirname "$log")"
    started=$(now_us)
    quiet_since=$SECONDS
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    step_pid=$pid
    [[ $on_terminal ]] || say "  ... $title"
    while kill -0 "$pid" 2>/dev/null; do
        if [[ $on_terminal ]]; then
            newest=$(tail -n 1 "$log" 2>/dev/null)
            printf '%s  %s %-32s %s%5.5ss %s%s' "$clear_line" "${spinner:frame++%4:1}" "$title" "$dim" \
                "$(seconds_since "$started")" "$(one_line_for_terminal "$newest")" "$plain"
        elif ((SECONDS - quiet_since >= 60)); then
            quiet_since=$SECONDS
            say "      still at it: $(tail -n 1 "$log" 2>/dev/null | cut -c 1-100)"
        fi
        sleep 0.1
    done
    wait "$pid" || status=$?
    step_pid=
    if ((status == 0)) && [[ $step_result == hidden ]]; then
        printf '%s' "$clear_line"
    elif ((status == 0)); then
        printf '%s  %sok%s  %-32s %s%s s%s\n' "$clear_line" "$green" "$plain" "$title" "$dim" \
            "$(seconds_since "$started")" "$plain"
    else
        printf '%s  %sfailed%s  %s (status %s); the end of %s:\n' "$clear_line" "$red" "$plain" \
            "$title" "$status" "${log#"$root"/}"
        tail -n 60 "$log" | sed 's/^/      /'
    fi
    return "$status"
}
spinner='|/-\'
step_pid=
step_result=shown

# stop_step: ends the command of a step that was interrupted.
stop_step() {
    [[ $step_pid ]] || return 0
    kill "$step_pid" 2>/dev/null
    wait "$step_pid" 2>/dev/null
    step_pid=
}

# packages_of GROUP...: the names in .ci/packages.
packages_of() {
    local group
    for group in "$@"; do
        sed -n "s/^$group  *\([^ ]*\).*/\1/p" "$root/.ci/packages"
    done
}

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

# with_retries COMMAND...: package mirrors fail for moments; four attempts in about a minute.
with_retries() {
    local pause
    for pause in 5 15 30; do
        "$@" && return 0
        say "failed; again in $pause s: $*"
        sleep "$pause"
    done
    "$@"
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q \
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

update_and_install() { apt update && apt install --no-install-recommends "$@"; }

# install_packages GROUP...: installs what dpkg does not know as installed; touches nothing else.
install_packages() {
    local missing=() package
    command -v dpkg-query >/dev/null || die "this needs Debian 12 (dpkg and apt); see README.md for a build by hand"
    for package in $(packages_of "$@"); do
        is_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "run this as root, or install sudo; missing packages: ${missing[*]}"
        say "  these packages are missing, and sudo may ask for your password: ${missing[*]}"
        sudo -v || die "cannot install without root"
    fi
    step "installing ${#missing[@]} packages" "$root/build/log/apt.log" \
        with_retries update_and_install "${missing[@]}"
}

# archive_of RELEASE: the address that this machine's apt takes the release from.
archive_of() {
    apt-get indextargets --format "\$(RELEASE) \$(REPO_URI)" "Created-By: Packages" 2>/dev/null |
        sed -n "s/^$1 //p" | head -n 1
}

# find_archive RELEASE: the same, and where apt's lists were deleted it updates them first.
find_archive() {
    local archive
    archive=$(archive_of "$1")
    [[ $archive ]] || { apt update >&2 && archive=$(archive_of "$1"); }
    [[ $archive ]] || { echo "apt has no source for $1" >&2; return 1; }
    echo "$archive"
}

# make_sources_directory DIR: an empty place for sources, lists and packages that are not this
# machine's. The caller writes DIR/sources.list, and downloads into DIR/packages.
make_sources_directory() {
    rm -rf "$1"
    mkdir -p "$1"/{lists,cache/archives}/partial "$1/packages"
}

# with_sources_in DIR TOOL ARGUMENT...: apt-get or apt-cache, that knows DIR/sources.list and nothing
# else, and leaves apt's own lists and sources as they are.
with_sources_in() {
    local dir=$1 tool=$2
    shift 2
    "$tool" -q -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::SourceList="$dir/sources.list" \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 "$@"
}

# configure_build DIR OPTION...: `meson setup`, once; again when the tree was moved or copied since,
# because a build knows its place.
configure_build() {
    local dir=$1 place=$1/configured-in
    shift
    if [[ -f $dir/build.ninja && (! -f $place || $(<"$place") == "$dir") ]]; then
        return 0
    fi
    rm -rf "$dir"
    meson setup "$dir" "$@" && echo "$dir" >"$place"
}
