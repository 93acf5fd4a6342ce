// SPDX-License-Identifier: Apache-2.0
/// Hard links, symbolic links, files that have no name any more and those that never had one.
#include <cerrno>
#include <string>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

std::string by_descriptor(const File& file) {
    return numbered("/proc/self/fd/", file.fd());
}

bool same_file(const std::string& a, const std::string& b) {
    struct stat one {};

    struct stat two {};

    return ::lstat(a.c_str(), &one) == 0 && ::lstat(b.c_str(), &two) == 0 &&
           one.st_ino == two.st_ino && one.st_dev == two.st_dev;
}

const Case kHard("links.hard", [](Trial& t) {
    t.make("a", "one");
    t.make_directory("d");
    t.did("link", ::link("a", "b"));
    t.did("link elsewhere", ::link("a", "d/c"));
    t.look("a");
    t.look("d/c");
    t.say("same", static_cast<long>(same_file("a", "b") && same_file("a", "d/c")));
    t.did("chmod", ::chmod("b", 0600));
    t.look("d/c");
    t.did("truncate", ::truncate("d/c", 1));
    t.content("a");
    t.did("unlink", ::unlink("a"));
    t.look("b");
    t.content("d/c");
});

const Case kWrongHard("links.hard-to-the-wrong", [](Trial& t) {
    t.make("a");
    t.make_directory("d");
    t.did("to a directory", ::link("d", "e"));
    t.did("onto itself", ::link("a", "a"));
    t.did("onto a directory", ::link("a", "d"));
    t.did("below a file", ::link("a", "a/b"));
    t.did("below nothing", ::link("a", "no/b"));
});

const Case kHardOfOthers("links.hard-kinds", [](Trial& t) {
    t.did("mkfifo", ::mkfifo("p", 0644));
    t.did("link of a fifo", ::link("p", "q"));
    t.look("q");
    t.did("symlink", ::symlink("nowhere", "s"));
    t.did("link of a symlink", ::link("s", "s2"));
    t.look("s2");
    t.make("f");
    t.did("symlink", ::symlink("f", "to-f"));
    t.did("linkat that follows", ::linkat(AT_FDCWD, "to-f", AT_FDCWD, "f2", AT_SYMLINK_FOLLOW));
    t.look("f2");
});

const Case kMany("links.many", [](Trial& t) {
    t.make("f");
    int made = 0;
    for (int i = 0; i < 300; ++i) {
        made += ::link("f", numbered("l", i).c_str()) == 0;
    }
    t.say("made", made);
    t.look("f");
    for (int i = 0; i < 300; i += 3) {
        ::unlink(numbered("l", i).c_str());
    }
    t.look("l1");
});

const Case kSymbolic("links.symbolic", [](Trial& t) {
    for (const size_t length : {size_t{1},
                                size_t{59},
                                size_t{60},
                                size_t{255},
                                size_t{4000},
                                size_t{4095},
                                size_t{4096}}) {
        const std::string target(length, 't');
        const std::string name = numbered("s", length);
        t.did(numbered("symlink to ", length), ::symlink(target.c_str(), name.c_str()));
        std::string out(5000, '\0');
        const long count = t.did("readlink", ::readlink(name.c_str(), out.data(), out.size()));
        t.say("as written",
              static_cast<long>(count > 0 && out.substr(0, static_cast<size_t>(count)) == target));
        t.look(name);
    }
    t.did("empty", ::symlink("", "empty"));
    std::string out(3, '\0');
    t.did("readlink into little room", ::readlink("s255", out.data(), out.size()));
    t.make("f");
    t.did("readlink of a file", ::readlink("f", out.data(), out.size()));
});

const Case kFollowed("links.symbolic-followed", [](Trial& t) {
    t.make_directory("d");
    t.make("d/f", "found");
    t.did("symlink", ::symlink("d", "to-d"));
    t.did("symlink", ::symlink("../d/f", "d/up-and-down"));
    t.did("symlink", ::symlink("nowhere", "dangling"));
    t.content("to-d/f");
    t.content("to-d/up-and-down");
    t.content("dangling");
    (void)t.open("dangling", O_WRONLY | O_CREAT | O_EXCL);
    const File made = t.open("dangling", O_WRONLY | O_CREAT);
    t.look("nowhere");
    (void)t.open("to-d/up-and-down", O_RDONLY | O_NOFOLLOW);
    (void)t.open("to-d", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    (void)t.open("to-d", O_PATH | O_NOFOLLOW);
    t.did("rmdir of a link", ::rmdir("to-d"));
    t.did("unlink of a link", ::unlink("to-d"));
    t.list("d");
});

const Case kLoops("links.symbolic-loops", [](Trial& t) {
    t.did("symlink", ::symlink("self", "self"));
    t.did("symlink", ::symlink("b", "a"));
    t.did("symlink", ::symlink("a", "b"));
    (void)t.open("self", O_RDONLY);
    (void)t.open("a", O_RDONLY);
    (void)t.open("a", O_WRONLY | O_CREAT);
    t.look("a");
    t.look("a/x");
});

const Case kUnlinkedOpen("links.unlinked-and-open", [](Trial& t) {
    t.make("f", "still here");
    const File file = t.open("f", O_RDWR);
    t.did("unlink", ::unlink("f"));
    t.look("f");
    struct stat status {};
    t.did("fstat", ::fstat(file.fd(), &status));
    t.say("links", static_cast<long>(status.st_nlink));
    t.say("size", status.st_size);
    t.say("content", read_all(file.fd()));
    t.did("pwrite", ::pwrite(file.fd(), "more", 4, 10));
    t.say("content", read_all(file.fd()));
    t.did("ftruncate", ::ftruncate(file.fd(), 5));
    t.did("fchmod", ::fchmod(file.fd(), 0600));
    t.did("fstat", ::fstat(file.fd(), &status));
    t.say("mode", static_cast<long>(status.st_mode & 0777));
    t.say("content", read_all(file.fd()));
    t.make("f", "another");
    t.content("f");
    t.say("content", read_all(file.fd()));
    t.did("fsync", ::fsync(file.fd()));
    t.list(".");
});

const Case kUnlinkedByRename("links.renamed-over-and-open", [](Trial& t) {
    t.make("old", "old content");
    t.make("new", "new content");
    const File file = t.open("old", O_RDWR);
    t.did("rename", ::rename("new", "old"));
    t.say("content", read_all(file.fd()));
    t.content("old");
    struct stat status {};
    t.did("fstat", ::fstat(file.fd(), &status));
    t.say("links", static_cast<long>(status.st_nlink));
    t.did("write", ::write(file.fd(), "X", 1));
    t.content("old");
});

const Case kUnlinkedDirectory("links.removed-and-open-directory", [](Trial& t) {
    t.make_directory("d");
    const File directory = t.open("d", O_RDONLY | O_DIRECTORY);
    t.did("rmdir", ::rmdir("d"));
    struct stat status {};
    t.did("fstat", ::fstat(directory.fd(), &status));
    t.say("mode", static_cast<long>(status.st_mode & 0777));
    t.did("fchmod", ::fchmod(directory.fd(), 0700));
});

const Case kTemporary("links.temporary-file", [](Trial& t) {
    {
        const File file(::open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
        t.did("O_TMPFILE", file.fd() < 0 ? -1 : 0);
        t.did("write", ::write(file.fd(), "nameless", 8));
        struct stat status {};
        t.did("fstat", ::fstat(file.fd(), &status));
        t.say("links", static_cast<long>(status.st_nlink));
        t.say("mode", static_cast<long>(status.st_mode));
        t.list(".");
        t.did(
            "linkat by /proc",
            ::linkat(AT_FDCWD, by_descriptor(file).c_str(), AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
        t.look("named");
        t.content("named");
    }
    t.content("named");
});

const Case kTemporaryExclusive("links.temporary-file-that-stays-nameless", [](Trial& t) {
    const File file(::open(".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
    t.did("O_TMPFILE", file.fd() < 0 ? -1 : 0);
    t.did("linkat",
          ::linkat(AT_FDCWD, by_descriptor(file).c_str(), AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    t.list(".");
});

const Case kTemporaryWrong("links.temporary-file-wrong", [](Trial& t) {
    t.make("f");
    t.did("read-only", ::open(".", O_TMPFILE | O_RDONLY | O_CLOEXEC, 0600) < 0 ? -1 : 0);
    t.did("in a file", ::open("f", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) < 0 ? -1 : 0);
    t.did("in nothing", ::open("no", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) < 0 ? -1 : 0);
});

const Case kByEmptyPath("links.linkat-by-descriptor", [](Trial& t) {
    t.make("f", "x");
    const File file = t.open("f", O_RDONLY);
    t.did("linkat", ::linkat(file.fd(), "", AT_FDCWD, "g", AT_EMPTY_PATH));
    t.look("g");
    t.did("unlink", ::unlink("f"));
    t.did("unlink", ::unlink("g"));
    t.did("linkat of a file without links", ::linkat(file.fd(), "", AT_FDCWD, "h", AT_EMPTY_PATH));
});

const Case kSpecial("links.device-nodes", [](Trial& t) {
    t.need_root();
    t.did("mknod char", ::mknod("null", S_IFCHR | 0666, makedev(1, 3)));
    t.did("mknod block", ::mknod("block", S_IFBLK | 0600, makedev(240, 17)));
    t.did("mknod fifo", ::mknod("fifo", S_IFIFO | 0600, 0));
    t.did("mknod socket", ::mknod("socket", S_IFSOCK | 0600, 0));
    t.did("mknod file", ::mknod("file", S_IFREG | 0600, 0));
    t.did("mknod directory", ::mknod("directory", S_IFDIR | 0700, 0));
    for (const char* name : {"null", "block", "fifo", "socket", "file", "directory"}) {
        t.look(name);
    }
    (void)t.open("socket", O_RDONLY);
    t.as(kAnna, [&] { t.did("mknod by others", ::mknod("x", S_IFCHR | 0666, makedev(1, 3))); });
});

}  // namespace
}  // namespace outrigger::posix
