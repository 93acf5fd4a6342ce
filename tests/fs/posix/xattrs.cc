// SPDX-License-Identifier: Apache-2.0
/// Extended attributes of each namespace and access control lists.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

long set(const std::string& path,
         const std::string& name,
         const std::string& value,
         int flags = 0) {
    return ::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), flags);
}

void get(const Trial& t, const std::string& path, const std::string& name) {
    std::string value(70000, '\0');
    const long count = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    if (count < 0) {
        t.did("get " + name, count);
        return;
    }
    value.resize(static_cast<size_t>(count));
    t.say("get " + name, value.size() < 50 ? "'" + value + "'" : checksum(value));
}

void list_names(const Trial& t, const std::string& path) {
    std::string names(70000, '\0');
    const long count = ::llistxattr(path.c_str(), names.data(), names.size());
    if (count < 0) {
        t.did("listxattr", count);
        return;
    }
    std::vector<std::string> sorted;
    for (size_t at = 0; at < static_cast<size_t>(count); at += sorted.back().size() + 1) {
        sorted.emplace_back(names.c_str() + at);
    }
    std::ranges::sort(sorted);
    std::string line;
    for (const std::string& name : sorted) {
        // The host's security modules have names of their own.
        line += name.starts_with("security.selinux") ? "" : name + " ";
    }
    t.say("names of " + path, line);
}

const Case kUser("xattrs.user", [](Trial& t) {
    t.make("f");
    t.make_directory("d");
    for (const char* name : {"f", "d"}) {
        t.did("set", set(name, "user.one", "1"));
        t.did("set", set(name, "user.two", "22"));
        t.did("set empty", set(name, "user.empty", ""));
        list_names(t, name);
        get(t, name, "user.one");
        get(t, name, "user.empty");
        get(t, name, "user.no");
        t.did("replace", set(name, "user.one", "another"));
        get(t, name, "user.one");
        t.did("remove", ::removexattr(name, "user.one"));
        t.did("remove again", ::removexattr(name, "user.one"));
        list_names(t, name);
    }
});

const Case kFlags("xattrs.create-and-replace", [](Trial& t) {
    t.make("f");
    t.did("replace what is not there", set("f", "user.a", "1", XATTR_REPLACE));
    t.did("create", set("f", "user.a", "1", XATTR_CREATE));
    t.did("create again", set("f", "user.a", "2", XATTR_CREATE));
    t.did("replace", set("f", "user.a", "3", XATTR_REPLACE));
    t.did("wrong flags", set("f", "user.a", "4", 0x40));
    get(t, "f", "user.a");
});

const Case kSizes("xattrs.sizes", [](Trial& t) {
    t.make("f");
    t.did("set", set("f", "user.value", "0123456789"));
    std::array<char, 10> room{};
    t.did("probe", ::getxattr("f", "user.value", nullptr, 0));
    t.did("too little room", ::getxattr("f", "user.value", room.data(), 9));
    t.did("just room", ::getxattr("f", "user.value", room.data(), 10));
    t.did("probe of names", ::listxattr("f", nullptr, 0));
    t.did("too little room for names", ::listxattr("f", room.data(), 3));
    for (const size_t size :
         {size_t{100}, size_t{1000}, size_t{3000}, size_t{65536}, size_t{65537}}) {
        t.did(numbered("set of ", size), set("f", "user.large", pattern(size)));
        get(t, "f", "user.large");
    }
});

const Case kNames("xattrs.names", [](Trial& t) {
    t.make("f");
    t.did("255", set("f", "user." + std::string(250, 'n'), "1"));
    t.did("256", set("f", "user." + std::string(251, 'n'), "1"));
    t.did("empty", set("f", "", "1"));
    t.did("only a namespace", set("f", "user.", "1"));
    t.did("no namespace", set("f", "nothing", "1"));
    t.did("another namespace", set("f", "strange.name", "1"));
    t.did("get of another namespace", ::getxattr("f", "strange.name", nullptr, 0));
    t.did("odd bytes", set("f", "user.\xff\n", "1"));
    get(t, "f", "user." + std::string(250, 'n'));
    get(t, "f", "user.\xff\n");
});

const Case kKinds("xattrs.kinds-of-files", [](Trial& t) {
    t.did("symlink", ::symlink("nowhere", "s"));
    t.did("mkfifo", ::mkfifo("p", 0644));
    t.did("user of a symlink", set("s", "user.a", "1"));
    t.did("user of a fifo", set("p", "user.a", "1"));
    get(t, "s", "user.a");
    get(t, "p", "user.a");
    list_names(t, "p");
});

const Case kOpenFiles("xattrs.by-descriptor", [](Trial& t) {
    t.make("f");
    const File file = t.open("f", O_RDONLY);
    t.did("fsetxattr", ::fsetxattr(file.fd(), "user.a", "1", 1, 0));
    t.did("unlink", ::unlink("f"));
    t.did("fgetxattr of an unlinked file", ::fgetxattr(file.fd(), "user.a", nullptr, 0));
    t.did("fsetxattr of an unlinked file", ::fsetxattr(file.fd(), "user.b", "22", 2, 0));
    t.did("fremovexattr", ::fremovexattr(file.fd(), "user.a"));
    t.did("fgetxattr", ::fgetxattr(file.fd(), "user.b", nullptr, 0));
    t.did("flistxattr", ::flistxattr(file.fd(), nullptr, 0));
});

const Case kRights("xattrs.rights", [](Trial& t) {
    t.make("f", "", 0644);
    t.make("closed", "", 0600);
    t.did("set", set("f", "user.a", "1"));
    t.did("set", set("closed", "user.a", "1"));
    t.as(kAnna, [&] {
        get(t, "f", "user.a");
        get(t, "closed", "user.a");
        t.did("set by a stranger", set("f", "user.b", "1"));
        t.did("remove by a stranger", ::removexattr("f", "user.a"));
        t.did("trusted by a stranger", set("f", "trusted.a", "1"));
        get(t, "f", "trusted.a");
        list_names(t, "f");
    });
    t.did("chmod", ::chmod("f", 01666));
    t.as(kAnna, [&] { t.did("set by a writer", set("f", "user.b", "1")); });
    t.make_directory("d");
    t.did("chmod", ::chmod("d", 01777));
    t.as(kAnna, [&] { t.did("set of a sticky directory", set("d", "user.b", "1")); });
});

const Case kTrusted("xattrs.trusted", [](Trial& t) {
    t.need_root();
    t.make("f");
    t.did("set", set("f", "trusted.overlay.opaque", "y"));
    get(t, "f", "trusted.overlay.opaque");
    list_names(t, "f");
    t.did("remove", ::removexattr("f", "trusted.overlay.opaque"));
    t.did("symlink", ::symlink("nowhere", "s"));
    t.did("mkfifo", ::mkfifo("p", 0644));
    t.did("of a symlink", set("s", "trusted.a", "1"));
    t.did("of a fifo", set("p", "trusted.a", "1"));
    get(t, "s", "trusted.a");
    get(t, "p", "trusted.a");
});

/// struct vfs_cap_data of revision 2 with CAP_NET_RAW permitted and effective.
std::string capability() {
    const std::array<uint32_t, 5> words = {0x02000001, 1U << 13, 0, 0, 0};
    std::string out(sizeof words, '\0');
    std::memcpy(out.data(), words.data(), sizeof words);
    return out;
}

const Case kCapability("xattrs.capabilities-and-who-clears-them", [](Trial& t) {
    t.need_root();
    t.make("f", "x");
    t.did("chmod", ::chmod("f", 0777));
    t.did("set", set("f", "security.capability", capability()));
    get(t, "f", "security.capability");
    t.did("chmod keeps it", ::chmod("f", 0776));
    t.did("probe", ::getxattr("f", "security.capability", nullptr, 0));
    t.as(kAnna, [&] {
        const File file = t.open("f", O_WRONLY);
        t.did("write", ::write(file.fd(), "y", 1));
    });
    t.did("after a write", ::getxattr("f", "security.capability", nullptr, 0));
    t.did("set", set("f", "security.capability", capability()));
    t.did("chown", ::chown("f", 41001, 41001));
    t.did("after a chown", ::getxattr("f", "security.capability", nullptr, 0));
    t.did("set", set("f", "security.capability", capability()));
    t.did("truncate", ::truncate("f", 0));
    t.did("after a truncation", ::getxattr("f", "security.capability", nullptr, 0));
});

const Case kTimes("xattrs.survive", [](Trial& t) {
    t.make("f", "x");
    t.did("set", set("f", "user.a", "stays"));
    t.did("rename", ::rename("f", "g"));
    t.did("link", ::link("g", "h"));
    get(t, "h", "user.a");
    t.did("truncate", ::truncate("g", 0));
    get(t, "g", "user.a");
});

/// An access control list as the kernel stores it: version 2, then entries of tag, rights and id.
std::string acl(std::initializer_list<std::array<uint32_t, 3>> entries) {
    std::string out = {2, 0, 0, 0};
    for (const auto& [tag, rights, id] : entries) {
        for (const uint32_t value : {tag, rights}) {
            out.push_back(static_cast<char>(value & 0xff));
            out.push_back(static_cast<char>(value >> 8));
        }
        for (int shift = 0; shift < 32; shift += 8) {
            out.push_back(static_cast<char>((id >> shift) & 0xff));
        }
    }
    return out;
}

constexpr uint32_t kNobody = 0xffffffff;

std::string acl_for_anna() {
    return acl({{0x01, 6, kNobody},
                {0x02, 6, kAnna.uid},
                {0x04, 4, kNobody},
                {0x10, 6, kNobody},
                {0x20, 0, kNobody}});
}

const Case kAcl("xattrs.access-control-list", [](Trial& t) {
    t.need_root();
    t.make("f", "x", 0640);
    if (set("f", "system.posix_acl_access", acl_for_anna()) != 0 && errno == EOPNOTSUPP) {
        t.skip("no access control lists here");
    }
    t.look("f");
    get(t, "f", "system.posix_acl_access");
    t.as(kAnna, [&] { (void)t.open("f", O_RDWR); });
    t.as(kBert, [&] { (void)t.open("f", O_RDONLY); });
    t.did("chmod", ::chmod("f", 0600));
    t.as(kAnna, [&] { (void)t.open("f", O_RDWR); });
    get(t, "f", "system.posix_acl_access");
});

const Case kDefaultAcl("xattrs.default-access-control-list", [](Trial& t) {
    t.need_root();
    t.make_directory("d", 0755);
    if (set("d", "system.posix_acl_default", acl_for_anna()) != 0 && errno == EOPNOTSUPP) {
        t.skip("no access control lists here");
    }
    ::umask(077);
    t.make("d/f", "x", 0666);
    t.make_directory("d/sub", 0777);
    t.make("outside", "x", 0666);
    t.look("d/f");
    t.look("d/sub");
    t.look("outside");
    get(t, "d/f", "system.posix_acl_access");
    get(t, "d/sub", "system.posix_acl_default");
    t.did("on a file", set("d/f", "system.posix_acl_default", acl_for_anna()));
});

}  // namespace
}  // namespace outrigger::posix
