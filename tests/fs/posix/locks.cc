// SPDX-License-Identifier: Apache-2.0
/// Locks of POSIX, of open file descriptions, and of BSD.
#include <cerrno>
#include <csignal>
#include <functional>
#include <string>

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

struct Range {
    off_t start = 0;
    off_t length = 0;
};

struct flock lock_of(short type, Range range) {
    struct flock lock {};

    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = range.start;
    lock.l_len = range.length;
    return lock;
}

long lock(const File& file, int command, short type, Range range) {
    struct flock lock = lock_of(type, range);
    return ::fcntl(file.fd(), command, &lock);
}

void probe(const Trial& t, const File& file, int command, short type, Range range) {
    struct flock lock = lock_of(type, range);
    const long result = ::fcntl(file.fd(), command, &lock);
    if (result != 0) {
        t.did("probe", result);
        return;
    }
    t.say("probe",
          lock.l_type == F_UNLCK
              ? "free"
              : std::string(lock.l_type == F_RDLCK ? "read" : "write") + " " +
                    std::to_string(lock.l_start) + " " + std::to_string(lock.l_len) +
                    (lock.l_pid == ::getppid() ? " of the parent"
                     : lock.l_pid == -1        ? " of none"
                                               : ""));
}

const Case kPosix("locks.posix", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    t.did("write lock", lock(file, F_SETLK, F_WRLCK, {.start = 2, .length = 4}));
    t.in_child([&] {
        const File other = t.open("f", O_RDWR);
        t.did("overlap", lock(other, F_SETLK, F_WRLCK, {.start = 5, .length = 1}));
        t.did("read overlap", lock(other, F_SETLK, F_RDLCK, {.start = 0, .length = 0}));
        t.did("beside", lock(other, F_SETLK, F_WRLCK, {.start = 6, .length = 2}));
        probe(t, other, F_GETLK, F_RDLCK, {.start = 0, .length = 0});
        probe(t, other, F_GETLK, F_WRLCK, {.start = 0, .length = 2});
    });
    t.did("what the child had is free", lock(file, F_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    t.did("unlock", lock(file, F_SETLK, F_UNLCK, {.start = 0, .length = 0}));
    t.in_child([&] {
        const File other = t.open("f", O_RDWR);
        t.did("after", lock(other, F_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    });
});

const Case kReaders("locks.posix-readers", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    t.did("read lock", lock(file, F_SETLK, F_RDLCK, {.start = 0, .length = 10}));
    t.in_child([&] {
        const File other = t.open("f", O_RDWR);
        t.did("another reader", lock(other, F_SETLK, F_RDLCK, {.start = 5, .length = 10}));
        t.did("a writer", lock(other, F_SETLK, F_WRLCK, {.start = 9, .length = 1}));
        t.did("a writer behind", lock(other, F_SETLK, F_WRLCK, {.start = 10, .length = 1}));
    });
    t.did("to a write lock", lock(file, F_SETLK, F_WRLCK, {.start = 0, .length = 10}));
});

const Case kSplit("locks.posix-split", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    t.did("lock", lock(file, F_SETLK, F_WRLCK, {.start = 0, .length = 100}));
    t.did("hole", lock(file, F_SETLK, F_UNLCK, {.start = 40, .length = 20}));
    t.did("downgrade", lock(file, F_SETLK, F_RDLCK, {.start = 80, .length = 10}));
    t.in_child([&] {
        const File other = t.open("f", O_RDWR);
        probe(t, other, F_GETLK, F_WRLCK, {.start = 0, .length = 0});
        probe(t, other, F_GETLK, F_WRLCK, {.start = 40, .length = 20});
        probe(t, other, F_GETLK, F_WRLCK, {.start = 45, .length = 0});
        probe(t, other, F_GETLK, F_RDLCK, {.start = 80, .length = 10});
        probe(t, other, F_GETLK, F_WRLCK, {.start = 80, .length = 5});
    });
});

const Case kClose("locks.posix-end-with-any-close", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    t.did("lock", lock(file, F_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    { const File second = t.open("f", O_RDONLY); }
    t.in_child([&] {
        const File other = t.open("f", O_RDWR);
        t.did("after the close of another",
              lock(other, F_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    });
});

const Case kWrong("locks.posix-wrong", [](Trial& t) {
    t.make("f", "0123456789");
    const File reader = t.open("f", O_RDONLY);
    const File writer = t.open("f", O_WRONLY);
    t.did("write lock to read", lock(reader, F_SETLK, F_WRLCK, {.start = 0, .length = 1}));
    t.did("read lock to write", lock(writer, F_SETLK, F_RDLCK, {.start = 0, .length = 1}));
    t.did("negative start", lock(writer, F_SETLK, F_WRLCK, {.start = -1, .length = 1}));
    t.did("negative length", lock(writer, F_SETLK, F_WRLCK, {.start = 5, .length = -5}));
    t.did("beyond the end", lock(writer, F_SETLK, F_WRLCK, {.start = 1LL << 40, .length = 1}));
    t.did("to the last byte",
          lock(writer, F_SETLK, F_WRLCK, {.start = 0x7fffffffffffffffLL, .length = 1}));
    t.did("past the last byte",
          lock(writer, F_SETLK, F_WRLCK, {.start = 0x7fffffffffffffffLL, .length = 2}));
    t.did("no type", lock(writer, F_SETLK, 77, {.start = 0, .length = 1}));
});

/// A child takes `wait` while the parent holds; both write down what they did when both have.
void wait_for_parent(const Trial& t,
                     const std::function<long()>& wait,
                     const std::function<long()>& let_go) {
    int ends[2] = {-1, -1};
    if (::pipe(ends) != 0) {
        t.did("pipe", -1);
        return;
    }
    const pid_t child = ::fork();
    if (child == 0) {
        (void)!::write(ends[1], "1", 1);
        const bool got = wait() == 0;
        (void)!::write(ends[1], got ? "2" : "3", 1);
        ::_exit(0);
    }
    char byte = 0;
    (void)!::read(ends[0], &byte, 1);
    ::usleep(100'000);
    t.say("the child waits", static_cast<long>(::waitpid(child, nullptr, WNOHANG) == 0));
    t.did("let go", let_go());
    (void)!::read(ends[0], &byte, 1);
    t.say("the child got it", byte == '2' ? "yes" : "no");
    int status = 0;
    ::waitpid(child, &status, 0);
    t.say("child", status);
    ::close(ends[0]);
    ::close(ends[1]);
}

const Case kPosixWait("locks.posix-wait", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    t.did("lock", lock(file, F_SETLK, F_WRLCK, {.start = 0, .length = 5}));
    wait_for_parent(
        t,
        [&] {
            const File other = t.open("f", O_RDWR);
            return lock(other, F_SETLKW, F_WRLCK, {.start = 4, .length = 2});
        },
        [&] { return lock(file, F_SETLK, F_UNLCK, {.start = 0, .length = 0}); });
});

const Case kOpenFile("locks.open-file-descriptions", [](Trial& t) {
    t.make("f", "0123456789");
    const File one = t.open("f", O_RDWR);
    const File two = t.open("f", O_RDWR);
    t.did("lock", lock(one, F_OFD_SETLK, F_WRLCK, {.start = 0, .length = 5}));
    t.did("by another description", lock(two, F_OFD_SETLK, F_WRLCK, {.start = 4, .length = 5}));
    t.did("beside", lock(two, F_OFD_SETLK, F_WRLCK, {.start = 5, .length = 5}));
    probe(t, two, F_OFD_GETLK, F_WRLCK, {.start = 0, .length = 5});
    const File copy(::dup(one.fd()));
    t.did("by a copy", lock(copy, F_OFD_SETLK, F_RDLCK, {.start = 0, .length = 5}));
    t.did("to read", lock(two, F_OFD_SETLK, F_RDLCK, {.start = 0, .length = 5}));
    // A POSIX lock of the same process is a stranger to them.
    t.did("posix lock", lock(one, F_SETLK, F_WRLCK, {.start = 0, .length = 5}));
});

const Case kOpenFileClose("locks.open-file-descriptions-end-with-the-last-close", [](Trial& t) {
    t.make("f", "0123456789");
    const File two = t.open("f", O_RDWR);
    {
        File one = t.open("f", O_RDWR);
        t.did("lock", lock(one, F_OFD_SETLK, F_WRLCK, {.start = 0, .length = 0}));
        const File copy(::dup(one.fd()));
        one.close();
        t.did("a copy is left", lock(two, F_OFD_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    }
    // A share is told of the last close behind it.
    t.did("none is left", lock(two, F_OFD_SETLKW, F_WRLCK, {.start = 0, .length = 0}));
});

const Case kOpenFileWait("locks.open-file-descriptions-wait", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    t.did("lock", lock(file, F_OFD_SETLK, F_WRLCK, {.start = 0, .length = 5}));
    wait_for_parent(
        t,
        [&] {
            const File other = t.open("f", O_RDWR);
            return lock(other, F_OFD_SETLKW, F_RDLCK, {.start = 0, .length = 1});
        },
        [&] { return lock(file, F_OFD_SETLK, F_UNLCK, {.start = 0, .length = 0}); });
});

const Case kBsd("locks.bsd", [](Trial& t) {
    t.make("f", "0123456789");
    const File one = t.open("f", O_RDONLY);
    const File two = t.open("f", O_RDONLY);
    t.did("shared", ::flock(one.fd(), LOCK_SH));
    t.did("shared too", ::flock(two.fd(), LOCK_SH | LOCK_NB));
    t.did("exclusive", ::flock(two.fd(), LOCK_EX | LOCK_NB));
    t.did("unlock", ::flock(one.fd(), LOCK_UN));
    t.did("exclusive", ::flock(two.fd(), LOCK_EX | LOCK_NB));
    t.did("shared", ::flock(one.fd(), LOCK_SH | LOCK_NB));
    const File copy(::dup(two.fd()));
    t.did("a copy unlocks", ::flock(copy.fd(), LOCK_UN));
    t.did("exclusive", ::flock(one.fd(), LOCK_EX | LOCK_NB));
    t.did("nothing", ::flock(one.fd(), LOCK_NB));
});

const Case kBsdInherited("locks.bsd-inherited", [](Trial& t) {
    t.make("f");
    File one = t.open("f", O_RDONLY);
    t.did("exclusive", ::flock(one.fd(), LOCK_EX));
    t.in_child([&] {
        t.did("the child's", ::flock(one.fd(), LOCK_EX | LOCK_NB));
        const File own = t.open("f", O_RDONLY);
        t.did("its own", ::flock(own.fd(), LOCK_SH | LOCK_NB));
    });
    one.close();
    const File two = t.open("f", O_RDONLY);
    t.did("after the close", ::flock(two.fd(), LOCK_EX | LOCK_NB));
});

const Case kBsdWait("locks.bsd-wait", [](Trial& t) {
    t.make("f");
    const File file = t.open("f", O_RDONLY);
    t.did("exclusive", ::flock(file.fd(), LOCK_EX));
    wait_for_parent(
        t,
        [&] {
            const File other = t.open("f", O_RDONLY);
            return static_cast<long>(::flock(other.fd(), LOCK_EX));
        },
        [&] { return static_cast<long>(::flock(file.fd(), LOCK_UN)); });
});

const Case kBsdAndPosix("locks.bsd-beside-posix", [](Trial& t) {
    t.make("f");
    const File file = t.open("f", O_RDWR);
    t.did("flock", ::flock(file.fd(), LOCK_EX));
    t.in_child([&] {
        const File other = t.open("f", O_RDWR);
        t.did("posix", lock(other, F_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    });
});

const Case kInterrupted("locks.wait-that-a-signal-ends", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    t.did("lock", lock(file, F_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    // Before there is a child, which the first signal would end otherwise.
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        const File other = t.open("f", O_RDWR);
        t.did("interrupted", lock(other, F_SETLKW, F_WRLCK, {.start = 0, .length = 0}));
        ::_exit(0);
    }
    for (int i = 0; i < 100 && ::waitpid(child, nullptr, WNOHANG) == 0; ++i) {
        ::usleep(50'000);
        ::kill(child, SIGUSR1);
    }
    t.did("unlock", lock(file, F_SETLK, F_UNLCK, {.start = 0, .length = 0}));
    const File third = t.open("f", O_RDWR);
    t.in_child([&] {
        const File other = t.open("f", O_RDWR);
        t.did("free afterwards", lock(other, F_SETLK, F_WRLCK, {.start = 0, .length = 0}));
    });
});

}  // namespace
}  // namespace outrigger::posix
