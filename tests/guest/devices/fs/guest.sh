# SPDX-License-Identifier: Apache-2.0
# Runs in the guest (busybox): the shared directory.
# shellcheck shell=sh

share=/mnt/share

mount_share() { mkdir -p "$share" && mount -t virtiofs share "$share"; }

# boot_from_share: goes on in the share, which has an init of its own and says the rest.
boot_from_share() {
    mkdir /newroot
    if ! wait_for mount -t virtiofs share /newroot; then
        fail root.mount "cannot mount the tag 'share'"
        return
    fi
    pass root.mount "the share is the root"
    umount /proc /sys /tmp
    mount --move /dev /newroot/dev
    exec switch_root /newroot /lib/systemd/systemd
}

prove_fs() {
    if grep -q outrigger.root /proc/cmdline; then
        boot_from_share
        return
    fi
    if wait_for mount_share; then
        pass fs.mount "$(grep " $share " /proc/mounts | cut -d ' ' -f 1,3)"
    else
        fail fs.mount "cannot mount the tag 'share'"
        return
    fi
    prove_negotiated fs virtiofs

    # What the host put there.
    start=$(now_cs)
    if (cd "$share/from-host" && sha256sum -c -s ../manifest); then
        bytes=$(du -s "$share/from-host" | cut -f 1)
        pass fs.read "$(wc -l <"$share/manifest") files are as the host made them"
        value fs.read_rate "$(per_second "$((bytes * 1024))" "$start")"
        value fs.files "$(wc -l <"$share/manifest")"
    else
        fail fs.read "$(cd "$share/from-host" && sha256sum -c ../manifest 2>&1 | grep -v OK | head -n 3)"
    fi

    # What the host will find.
    start=$(now_cs)
    if dd if=/dev/urandom of="$share/written" bs=1M count=16 conv=fsync 2>/tmp/dd.log; then
        value fs.write_rate "$(per_second 16777216 "$start")"
        value fs.written_sha256 "$(sha256sum "$share/written" | cut -d ' ' -f 1)"
    else
        fail fs.write "$(tail -n 1 /tmp/dd.log)"
    fi
    prove_fs_names
    [ ! -x "$share/suite/fs-posix" ] || prove_fs_posix

    if umount "$share" && take_again virtiofs && wait_for mount_share && [ -s "$share/written" ]; then
        pass fs.reset "after a reset the share is there again"
    else
        fail fs.reset "after a reset there is no share"
    fi
    umount "$share"
}

# prove_fs_names: names, links, owners and modes, as the host will look for them.
prove_fs_names() {
    made=$share/made-by-guest
    if mkdir "$made" && echo text >"$made/file" && ln "$made/file" "$made/hard" &&
        ln -s file "$made/soft" && chmod 2750 "$made" && chown 41001:41002 "$made/file" &&
        mkfifo "$made/fifo" && mv "$made/hard" "$made/renamed" && rm -r "$share/to-remove" &&
        [ "$(cat "$made/soft")" = text ] && [ "$(stat -c %h "$made/file")" = 2 ]; then
        pass fs.names "made, linked, renamed, removed"
    else
        fail fs.names "$(ls -la "$made" 2>&1 | tr '\n' ' ')"
    fi
}

# prove_fs_posix: the POSIX suite, against what it saw in a directory of the host.
prove_fs_posix() {
    mkdir -p "$share/posix"
    "$share/suite/fs-posix" --subject="$share/posix" --expected="$share/suite/record" \
        --known="$share/suite/known" --seconds=120 >"$share/posix.tap" 2>&1
    status=$?
    counts=$(grep -c '^ok' "$share/posix.tap")
    if [ "$status" = 0 ]; then
        pass fs.posix "$counts cases as on the host"
        value fs.posix "$(tail -n 1 "$share/posix.tap")"
    else
        fail fs.posix "$(grep '^not ok' "$share/posix.tap" | tr '\n' ';') $(tail -n 1 "$share/posix.tap")"
    fi
}

show_fs() { mount_share && echo "  fs    $share is a directory of the host"; }
