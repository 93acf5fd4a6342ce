// SPDX-License-Identifier: Apache-2.0
/// rename and renameat2 with each flag.
#include <cerrno>
#include <cstdio>
#include <string>

#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

int rename_with(const char* from, const char* to, unsigned flags) {
    return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

const Case kPlain("rename.files", [](Trial& t) {
    t.make("a", "a");
    t.make("b", "b");
    t.make_directory("d");
    t.did("to a new name", ::rename("a", "c"));
    t.did("over a file", ::rename("c", "b"));
    t.content("b");
    t.did("into a directory", ::rename("b", "d/e"));
    t.content("d/e");
    t.did("onto itself", ::rename("d/e", "d/e"));
    t.list(".");
    t.list("d");
});

const Case kKinds("rename.kinds", [](Trial& t) {
    for (const char* from : {"file", "empty", "full", "link", "fifo"}) {
        for (const char* to : {"file", "empty", "full", "link", "fifo"}) {
            const std::string under = std::string(from) + "-" + to;
            t.make_directory(under);
            for (const char* end : {"1", "2"}) {
                const std::string at = under + "/" + end;
                t.make_directory(at);
                t.make(at + "/file", end);
                t.make_directory(at + "/empty");
                t.make_directory(at + "/full");
                t.make(at + "/full/x");
                t.did("symlink", ::symlink("file", (at + "/link").c_str()));
                t.did("mkfifo", ::mkfifo((at + "/fifo").c_str(), 0644));
            }
            t.did(std::string(from) + " over " + to,
                  ::rename((under + "/1/" + from).c_str(), (under + "/2/" + to).c_str()));
            t.list(under + "/1");
            t.list(under + "/2");
        }
    }
});

const Case kHardLinks("rename.hard-links-of-one-file", [](Trial& t) {
    t.make("a", "x");
    t.did("link", ::link("a", "b"));
    t.did("rename", ::rename("a", "b"));
    t.list(".");
    t.did("exchange", rename_with("a", "b", RENAME_EXCHANGE));
    t.did("noreplace", rename_with("a", "b", RENAME_NOREPLACE));
    t.look("a");
});

const Case kIntoItself("rename.directory-into-itself", [](Trial& t) {
    t.make_directory("d");
    t.make_directory("d/e");
    t.did("into itself", ::rename("d", "d/x"));
    t.did("into its child", ::rename("d", "d/e/x"));
    t.did("over its parent", ::rename("d/e", "d"));
    t.did("exchange with its child", rename_with("d", "d/e", RENAME_EXCHANGE));
    t.list("d");
});

const Case kDirectories("rename.directories", [](Trial& t) {
    t.make_directory("a");
    t.make_directory("b");
    t.make_directory("a/x");
    t.make("a/x/f", "moves along");
    t.did("rename", ::rename("a/x", "b/y"));
    t.content("b/y/f");
    t.look("a");
    t.look("b");
    t.did("chdir", ::chdir("b/y"));
    t.list("..");
    t.did("rename of where one is", ::rename("../y", "../z"));
    t.content("f");
    t.list("..");
});

const Case kNoReplace("rename.noreplace", [](Trial& t) {
    t.make("a", "a");
    t.make("b", "b");
    t.make_directory("d");
    t.did("symlink", ::symlink("nowhere", "s"));
    t.did("over a file", rename_with("a", "b", RENAME_NOREPLACE));
    t.did("over a directory", rename_with("a", "d", RENAME_NOREPLACE));
    t.did("over a link", rename_with("a", "s", RENAME_NOREPLACE));
    t.did("to a new name", rename_with("a", "c", RENAME_NOREPLACE));
    t.did("of nothing", rename_with("a", "e", RENAME_NOREPLACE));
    t.list(".");
    t.content("b");
});

const Case kExchange("rename.exchange", [](Trial& t) {
    t.make("a", "a");
    t.make("b", "b");
    t.make_directory("d");
    t.make("d/f", "f");
    t.make_directory("e");
    t.did("files", rename_with("a", "b", RENAME_EXCHANGE));
    t.content("a");
    t.content("b");
    t.did("a file and a directory", rename_with("a", "d", RENAME_EXCHANGE));
    t.content("d");
    t.list("a");
    t.did("directories", rename_with("a", "e", RENAME_EXCHANGE));
    t.list("a");
    t.list("e");
    t.did("across directories", rename_with("b", "e/f", RENAME_EXCHANGE));
    t.content("b");
    t.content("e/f");
    t.did("with nothing", rename_with("b", "no", RENAME_EXCHANGE));
    t.did("of nothing", rename_with("no", "b", RENAME_EXCHANGE));
    t.look("a");
    t.look("e");
});

const Case kWhiteout("rename.whiteout", [](Trial& t) {
    t.need_root();
    t.make("a", "a");
    t.make("b", "b");
    t.did("whiteout", rename_with("a", "c", RENAME_WHITEOUT));
    t.look("a");
    t.content("c");
    t.did("over a file", rename_with("c", "b", RENAME_WHITEOUT));
    t.content("b");
    t.look("c");
    t.did("noreplace", rename_with("b", "d", RENAME_WHITEOUT | RENAME_NOREPLACE));
    t.look("b");
    t.list(".");
});

const Case kWrongFlags("rename.wrong-flags", [](Trial& t) {
    t.make("a", "a");
    t.make("b", "b");
    t.did("exchange and noreplace", rename_with("a", "b", RENAME_EXCHANGE | RENAME_NOREPLACE));
    t.did("exchange and whiteout", rename_with("a", "b", RENAME_EXCHANGE | RENAME_WHITEOUT));
    t.did("unknown", rename_with("a", "b", 1U << 9));
    t.list(".");
});

const Case kOpen("rename.open-files", [](Trial& t) {
    t.make("a", "content");
    const File file = t.open("a", O_RDWR);
    t.did("rename", ::rename("a", "b"));
    t.did("write", ::write(file.fd(), "CON", 3));
    t.content("b");
    t.make("a", "another");
    t.say("the open one", read_all(file.fd()));
    t.did("rename back over", ::rename("b", "a"));
    t.say("the open one", read_all(file.fd()));
    t.content("a");
});

const Case kRights("rename.rights", [](Trial& t) {
    t.make_directory("mine");
    t.make("mine/f");
    t.make_directory("open");
    t.did("chmod", ::chmod("open", 0777));
    t.make("open/roots");
    t.as(kAnna, [&] {
        t.did("out of", ::rename("mine/f", "open/f"));
        t.did("within", ::rename("open/roots", "open/annas"));
        t.did("into", ::rename("open/annas", "mine/annas"));
        t.did("exchange", rename_with("open/annas", "mine/f", RENAME_EXCHANGE));
    });
    // A directory's parent changes: one must be allowed to write it.
    t.make_directory("open/roots-dir");
    t.make_directory("other");
    t.did("chmod", ::chmod("other", 0777));
    t.as(kAnna, [&] {
        t.did("of another's directory", ::rename("open/roots-dir", "other/x"));
        t.did("in place", ::rename("open/roots-dir", "open/x"));
    });
    t.list("open");
    t.list("mine");
});

const Case kNames("rename.long-names", [](Trial& t) {
    const std::string longest(255, 'a');
    const std::string other(255, 'b');
    t.make(longest, "x");
    t.did("rename", ::rename(longest.c_str(), other.c_str()));
    t.did("exchange with itself", rename_with(other.c_str(), other.c_str(), RENAME_EXCHANGE));
    t.did("too long", ::rename(other.c_str(), (other + "b").c_str()));
    t.content(other);
});

const Case kChain("rename.many-times", [](Trial& t) {
    t.make("n0", "traveller");
    for (int i = 0; i < 200; ++i) {
        if (::rename(numbered("n", i).c_str(), numbered("n", i + 1).c_str()) != 0) {
            t.did("rename", -1);
        }
    }
    t.list(".");
    t.content("n200");
});

const Case kTree("rename.of-a-tree-below-open-files", [](Trial& t) {
    t.make_directory("a");
    t.make_directory("a/b");
    t.make("a/b/f", "deep");
    const File file = t.open("a/b/f", O_RDWR);
    const File directory = t.open("a/b", O_RDONLY | O_DIRECTORY);
    t.did("rename", ::rename("a", "z"));
    t.say("content", read_all(file.fd()));
    const File again(::openat(directory.fd(), "f", O_RDONLY | O_CLOEXEC));
    t.say("by its directory", read_all(again.fd()));
    t.content("z/b/f");
    t.look("a/b/f");
    t.did("make anew", ::mkdir("a", 0755));
    t.look("a/b/f");
});

}  // namespace
}  // namespace outrigger::posix
