// SPDX-License-Identifier: Apache-2.0
/// Modes, umask, who may do what, and the sticky, set-group and set-user bits.
#include <cerrno>
#include <string>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

const Case kUmask("modes.umask", [](Trial& t) {
    for (const mode_t mask : {mode_t{0}, mode_t{022}, mode_t{027}, mode_t{077}, mode_t{0777}}) {
        ::umask(mask);
        const std::string of = std::to_string(mask);
        t.make("f" + of, "", 0777);
        t.make_directory("d" + of, 0777);
        t.did("mkfifo", ::mkfifo(("p" + of).c_str(), 0666));
        t.look("f" + of);
        t.look("d" + of);
        t.look("p" + of);
    }
});

const Case kCreateModes("modes.create-with-special-bits", [](Trial& t) {
    ::umask(0);
    t.make("f", "", 07777);
    t.make_directory("d", 07777);
    t.did("mkfifo", ::mkfifo("p", 07777));
    t.look("f");
    t.look("d");
    t.look("p");
});

const Case kReadOnlyCreate("modes.create-read-only-and-write", [](Trial& t) {
    const File file = t.open("f", O_RDWR | O_CREAT | O_EXCL, 0444);
    t.did("write", ::write(file.fd(), "abc", 3));
    t.look("f");
    const File none = t.open("g", O_RDWR | O_CREAT | O_EXCL, 0);
    t.did("write", ::write(none.fd(), "abc", 3));
    t.look("g");
});

const Case kChmod("modes.chmod", [](Trial& t) {
    t.make("f");
    t.make_directory("d");
    t.did("mkfifo", ::mkfifo("p", 0644));
    for (const char* name : {"f", "d", "p"}) {
        for (const mode_t mode :
             {mode_t{0}, mode_t{0644}, mode_t{01777}, mode_t{02755}, mode_t{06711}}) {
            t.did("chmod", ::chmod(name, mode));
            t.look(name);
        }
    }
    const File f = t.open("f", O_RDONLY);
    t.did("fchmod", ::fchmod(f.fd(), 0600));
    t.look("f");
});

const Case kChmodThroughLink("modes.chmod-through-a-symlink", [](Trial& t) {
    t.make("f");
    t.did("symlink", ::symlink("f", "s"));
    t.did("chmod", ::chmod("s", 0600));
    t.look("f");
    t.look("s");
    t.did("fchmodat nofollow", ::fchmodat(AT_FDCWD, "s", 0644, AT_SYMLINK_NOFOLLOW));
});

const Case kChmodByOthers("modes.chmod-by-others", [](Trial& t) {
    t.make("f");
    t.as(kAnna, [&] { t.did("chmod", ::chmod("f", 0666)); });
    t.look("f");
});

const Case kAccessDenied("modes.access-denied", [](Trial& t) {
    t.make("secret", "x", 0600);
    t.make("readable", "x", 0644);
    t.make_directory("closed", 0700);
    t.make("closed/f");
    t.make_directory("readable-only", 0744);
    t.make("readable-only/f");
    t.make_directory("passable-only", 0711);
    t.make("passable-only/f", "x");
    t.as(kAnna, [&] {
        (void)t.open("secret", O_RDONLY);
        (void)t.open("readable", O_RDONLY);
        (void)t.open("readable", O_WRONLY);
        t.look("closed/f");
        t.list("closed");
        t.look("readable-only/f");
        t.list("readable-only");
        t.content("passable-only/f");
        t.list("passable-only");
        t.did("mkdir", ::mkdir("passable-only/d", 0755));
        t.did("unlink", ::unlink("passable-only/f"));
        t.did("truncate", ::truncate("readable", 0));
    });
});

const Case kAccessCall("modes.access-call", [](Trial& t) {
    t.make("f", "", 0640);
    t.make("x", "", 0751);
    for (const Identity& who : {kAnna, kCleo}) {
        t.did("chown", ::chown("f", 41002, 41001));
        t.as(who, [&] {
            for (const int how : {F_OK, R_OK, W_OK, X_OK}) {
                t.did("access f", ::access("f", how));
                t.did("access x", ::access("x", how));
            }
        });
    }
});

const Case kGroups("modes.supplementary-groups", [](Trial& t) {
    t.make("f", "shared", 0660);
    t.did("chown", ::chown("f", 0, 41500));
    t.make_directory("d", 0770);
    t.did("chown", ::chown("d", 0, 41500));
    for (const Identity& who : {kAnna, kCleo}) {
        t.as(who, [&] {
            (void)t.open("f", O_RDWR);
            t.make(numbered("d/of-", who.uid));
            t.make_directory(numbered("d/dir-", who.uid));
            t.did("symlink", ::symlink("f", numbered("d/link-", who.uid).c_str()));
        });
    }
    t.list("d");
    t.look("d/of-41003");
    t.look("d/dir-41003");
});

const Case kSticky("modes.sticky-directory", [](Trial& t) {
    t.make_directory("d");
    t.did("chmod", ::chmod("d", 01777));
    t.as(kAnna, [&] {
        t.make("d/annas", "a");
        t.make("d/annas-other", "a", 0666);
        t.make_directory("d/annas-dir");
    });
    t.as(kBert, [&] {
        t.did("unlink", ::unlink("d/annas"));
        t.did("rename from", ::rename("d/annas", "d/x"));
        t.make("d/berts");
        t.did("rename over", ::rename("d/berts", "d/annas-other"));
        t.did("rmdir", ::rmdir("d/annas-dir"));
        t.did("unlink own", ::unlink("d/berts"));
    });
    t.as(kAnna, [&] {
        t.did("unlink", ::unlink("d/annas"));
        t.did("rename", ::rename("d/annas-other", "d/annas"));
        t.did("rmdir", ::rmdir("d/annas-dir"));
    });
    t.list("d");
});

const Case kStickyOwner("modes.owner-of-a-sticky-directory", [](Trial& t) {
    t.make_directory("d");
    t.did("chown", ::chown("d", 41002, 41002));
    t.did("chmod", ::chmod("d", 01777));
    t.as(kAnna, [&] { t.make("d/annas"); });
    t.as(kBert, [&] { t.did("unlink", ::unlink("d/annas")); });
    t.list("d");
});

const Case kSetGroupDirectory("modes.set-group-directory", [](Trial& t) {
    t.make_directory("d");
    t.did("chown", ::chown("d", 41001, 41500));
    t.did("chmod", ::chmod("d", 02777));
    ::umask(0);
    for (const Identity& who : {kAnna, kCleo}) {
        t.as(who, [&] {
            ::umask(0);
            const std::string name = numbered("d/", who.uid);
            t.make(name, "", 0777);
            t.make(name + "-sg", "", 02777);
            t.make_directory(name + "-dir", 0777);
            t.did("symlink", ::symlink("x", (name + "-link").c_str()));
            t.did("mkfifo", ::mkfifo((name + "-fifo").c_str(), 0666));
            for (const char* end : {"", "-sg", "-dir", "-link", "-fifo"}) {
                t.look(name + end);
            }
        });
    }
    t.make_directory("d/of-root");
    t.look("d/of-root");
});

const Case kSetGroupKept("modes.chmod-of-set-group-by-an-outsider", [](Trial& t) {
    t.make("f");
    t.did("chown", ::chown("f", 41001, 41500));
    t.as(kAnna, [&] {
        t.did("chmod", ::chmod("f", 02755));
        t.look("f");
    });
    t.did("chown", ::chown("f", 41003, 41500));
    t.as(kCleo, [&] {
        t.did("chmod", ::chmod("f", 02755));
        t.look("f");
    });
});

/// A file with both bits, owned by Anna, writable for all.
void make_privileged(const Trial& t, const std::string& name, mode_t mode = 06777) {
    t.make(name, "0123456789");
    t.did("chown", ::chown(name.c_str(), 41001, 41001));
    t.did("chmod", ::chmod(name.c_str(), mode));
    t.look(name);
}

const Case kKillByWrite("modes.write-clears-set-user", [](Trial& t) {
    make_privileged(t, "f");
    make_privileged(t, "g", 06766);
    make_privileged(t, "h");
    for (const char* name : {"f", "g"}) {
        t.as(kBert, [&] {
            const File file = t.open(name, O_WRONLY);
            t.did("write", ::write(file.fd(), "x", 1));
        });
        t.look(name);
    }
    const File file = t.open("h", O_WRONLY);
    t.did("write of root", ::write(file.fd(), "x", 1));
    t.look("h");
});

const Case kKillByTruncate("modes.truncate-clears-set-user", [](Trial& t) {
    make_privileged(t, "f");
    make_privileged(t, "g");
    make_privileged(t, "h");
    t.as(kBert, [&] {
        t.did("truncate", ::truncate("f", 3));
        (void)t.open("g", O_WRONLY | O_TRUNC);
        const File file = t.open("h", O_WRONLY);
        t.did("ftruncate", ::ftruncate(file.fd(), 20));
    });
    t.look("f");
    t.look("g");
    t.look("h");
});

const Case kKillByFallocate("modes.fallocate-clears-set-user", [](Trial& t) {
    make_privileged(t, "f");
    t.as(kBert, [&] {
        const File file = t.open("f", O_WRONLY);
        t.did("fallocate", ::fallocate(file.fd(), 0, 0, 8192));
    });
    t.look("f");
});

const Case kKillByChown("modes.chown-clears-set-user", [](Trial& t) {
    for (const mode_t mode : {mode_t{06777}, mode_t{06766}, mode_t{02666}}) {
        make_privileged(t, "f", mode);
        t.did("chown of root", ::chown("f", 41002, 41002));
        t.look("f");
        t.did("unlink", ::unlink("f"));
    }
    make_privileged(t, "f");
    t.as(kAnna, [&] { t.did("chown to own group", ::chown("f", static_cast<uid_t>(-1), 41001)); });
    t.look("f");
    t.make_directory("d");
    t.did("chmod", ::chmod("d", 06777));
    t.did("chown of a directory", ::chown("d", 41001, 41001));
    t.look("d");
});

const Case kExecute("modes.execute", [](Trial& t) {
    t.make("script", "#!/bin/sh\nexit 7\n", 0755);
    t.make("not", "#!/bin/sh\nexit 7\n", 0644);
    for (const char* name : {"./script", "./not"}) {
        const pid_t child = ::fork();
        if (child == 0) {
            ::execl(name, name, nullptr);
            ::_exit(errno == EACCES ? 13 : 1);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        t.say(name, WEXITSTATUS(status));
    }
});

const Case kOwnerDenied("modes.owner-without-rights", [](Trial& t) {
    t.make_directory("d", 0777);
    t.did("chmod", ::chmod("d", 0777));
    t.as(kAnna, [&] {
        t.make("d/f", "x", 0);
        (void)t.open("d/f", O_RDONLY);
        t.did("chmod", ::chmod("d/f", 0400));
        (void)t.open("d/f", O_RDONLY);
        (void)t.open("d/f", O_WRONLY);
    });
});

const Case kOpenAfterChmod("modes.an-open-file-stays-open", [](Trial& t) {
    t.make("f", "content");
    t.did("chmod", ::chmod("f", 0666));
    t.as(kAnna, [&] {
        const File file = t.open("f", O_RDWR);
        // Root takes the right away meanwhile, by the same name.
        t.did("as a stranger", ::chmod("f", 0600));
        char byte = 0;
        t.did("read", ::read(file.fd(), &byte, 1));
        t.did("write", ::write(file.fd(), "x", 1));
    });
    t.content("f");
});

}  // namespace
}  // namespace outrigger::posix
