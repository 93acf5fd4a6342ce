// SPDX-License-Identifier: Apache-2.0
/// Owners and groups: of what is made, and changed.
#include <cerrno>
#include <string>

#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

constexpr uid_t kSameUid = static_cast<uid_t>(-1);
constexpr gid_t kSameGid = static_cast<gid_t>(-1);

const Case kMade("owners.of-what-is-made", [](Trial& t) {
    t.make_directory("d");
    t.did("chmod", ::chmod("d", 0777));
    for (const Identity& who : {kAnna, kCleo}) {
        t.as(who, [&] {
            const std::string name = numbered("d/", who.uid);
            t.make(name);
            t.make_directory(name + "-d");
            t.did("symlink", ::symlink("x", (name + "-s").c_str()));
            t.did("mkfifo", ::mkfifo((name + "-p").c_str(), 0600));
            t.did("link", ::link(name.c_str(), (name + "-l").c_str()));
            for (const char* end : {"", "-d", "-s", "-p", "-l"}) {
                t.look(name + end);
            }
        });
    }
});

const Case kChown("owners.chown", [](Trial& t) {
    t.need_root();
    t.make("f");
    t.make_directory("d");
    t.did("symlink", ::symlink("f", "s"));
    t.did("both", ::chown("f", 41001, 41002));
    t.look("f");
    t.did("owner", ::chown("f", 41003, kSameGid));
    t.look("f");
    t.did("group", ::chown("f", kSameUid, 41003));
    t.look("f");
    t.did("neither", ::chown("f", kSameUid, kSameGid));
    t.look("f");
    t.did("directory", ::chown("d", 41001, 41001));
    t.look("d");
    t.did("lchown", ::lchown("s", 41001, 41001));
    t.look("s");
    t.look("f");
    t.did("through a link", ::chown("s", 1, 1));
    t.look("s");
    t.look("f");
    const File file = t.open("f", O_RDONLY);
    t.did("fchown", ::fchown(file.fd(), 2, 2));
    t.look("f");
    t.did("large", ::chown("f", 4'000'000'000U, 4'294'967'294U));
    t.look("f");
});

const Case kByOwner("owners.chown-by-the-owner", [](Trial& t) {
    t.make("f");
    t.did("chown", ::chown("f", kCleo.uid, kCleo.gid));
    t.as(kCleo, [&] {
        t.did("to a group of hers", ::chown("f", kSameUid, 41500));
        t.look("f");
        t.did("to another group", ::chown("f", kSameUid, 41002));
        t.did("to somebody", ::chown("f", 41001, kSameGid));
        t.did("to herself", ::chown("f", kCleo.uid, kCleo.gid));
        t.look("f");
    });
    t.as(kAnna, [&] {
        t.did("by a stranger", ::chown("f", kSameUid, 41001));
        t.did("of nothing, by a stranger", ::chown("f", kSameUid, kSameGid));
    });
    t.look("f");
});

const Case kFileSystemUser("owners.file-system-user", [](Trial& t) {
    t.need_root();
    t.did("chmod", ::chmod(".", 0777));
    ::setfsgid(41002);
    ::setfsuid(41001);
    t.make("f", "x", 0600);
    t.make_directory("d", 0700);
    t.look("f");
    t.look("d");
    ::setfsuid(41003);
    (void)t.open("f", O_RDONLY);
    ::setfsuid(0);
    ::setfsgid(0);
    t.content("f");
});

const Case kReadByOwner("owners.the-owner-comes-first", [](Trial& t) {
    t.make("f", "x", 0044);
    t.did("chmod", ::chmod("f", 0044));
    t.did("chown", ::chown("f", 41001, 41500));
    t.as(kAnna, [&] { (void)t.open("f", O_RDONLY); });
    t.as(kCleo, [&] { (void)t.open("f", O_RDONLY); });
    t.as(kBert, [&] { (void)t.open("f", O_RDONLY); });
    t.did("chmod", ::chmod("f", 0404));
    t.as(kCleo, [&] { (void)t.open("f", O_RDONLY); });
    t.as(kBert, [&] { (void)t.open("f", O_RDONLY); });
});

const Case kDeleteByParent("owners.removal-is-the-directorys", [](Trial& t) {
    t.make_directory("annas");
    t.make("annas/roots", "x", 0600);
    t.did("chown", ::chown("annas", 41001, 41001));
    t.as(kAnna, [&] { t.did("unlink", ::unlink("annas/roots")); });
    t.list("annas");
});

const Case kRootWithout("owners.root-reads-everything", [](Trial& t) {
    t.need_root();
    t.make("f", "x", 0);
    t.did("chown", ::chown("f", 41001, 41001));
    t.content("f");
    t.make_directory("d", 0);
    t.did("chown", ::chown("d", 41001, 41001));
    t.make("d/x", "inside");
    t.content("d/x");
});

}  // namespace
}  // namespace outrigger::posix
