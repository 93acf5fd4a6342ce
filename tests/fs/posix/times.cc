// SPDX-License-Identifier: Apache-2.0
/// Times: set, left alone, and moved by what is done to a file.
#include <array>
#include <ctime>
#include <functional>
#include <string>

#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

constexpr timespec kThen{.tv_sec = 1'000'000'000, .tv_nsec = 123'456'789};
constexpr timespec kLater{.tv_sec = 1'500'000'000, .tv_nsec = 987'654'321};

struct stat status_of(const std::string& path) {
    struct stat status {};

    ::lstat(path.c_str(), &status);
    return status;
}

std::string text_of(const timespec& time) {
    return std::to_string(time.tv_sec) + numbered(".", time.tv_nsec);
}

bool differ(const timespec& a, const timespec& b) {
    return a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec;
}

void look_at_times(const Trial& t, const std::string& path) {
    const struct stat status = status_of(path);
    t.say("times of " + path, text_of(status.st_atim) + " " + text_of(status.st_mtim));
}

/// Which of the times of `path` move when that is done. Both were set long ago before.
void look_what_moves(const Trial& t,
                     const std::string& what,
                     const std::string& path,
                     const std::function<void()>& action) {
    const std::array times = {kThen, kThen};
    ::utimensat(AT_FDCWD, path.c_str(), times.data(), AT_SYMLINK_NOFOLLOW);
    const struct stat before = status_of(path);
    // A clock of the file system may be as coarse as a tick.
    ::usleep(20'000);
    action();
    const struct stat now = status_of(path);
    t.say(what,
          std::string(differ(before.st_mtim, now.st_mtim) ? "modified " : "") +
              (differ(before.st_ctim, now.st_ctim) ? "changed" : ""));
}

const Case kSet("times.set", [](Trial& t) {
    t.make("f");
    t.make_directory("d");
    t.did("symlink", ::symlink("f", "s"));
    t.did("mkfifo", ::mkfifo("p", 0644));
    const std::array times = {kThen, kLater};
    for (const char* name : {"f", "d", "p"}) {
        t.did("utimensat", ::utimensat(AT_FDCWD, name, times.data(), 0));
        look_at_times(t, name);
    }
    t.did("utimensat of a link", ::utimensat(AT_FDCWD, "s", times.data(), AT_SYMLINK_NOFOLLOW));
    look_at_times(t, "s");
    const File file = t.open("f", O_RDONLY);
    const std::array other = {kLater, kThen};
    t.did("futimens", ::futimens(file.fd(), other.data()));
    look_at_times(t, "f");
});

const Case kOmit("times.omit", [](Trial& t) {
    t.make("f");
    const std::array both = {kThen, kThen};
    t.did("utimensat", ::utimensat(AT_FDCWD, "f", both.data(), 0));
    const timespec omit{.tv_sec = 0, .tv_nsec = UTIME_OMIT};
    const std::array access_only = {kLater, omit};
    t.did("access only", ::utimensat(AT_FDCWD, "f", access_only.data(), 0));
    look_at_times(t, "f");
    const std::array modify_only = {omit, kLater};
    t.did("modification only", ::utimensat(AT_FDCWD, "f", modify_only.data(), 0));
    look_at_times(t, "f");
    const std::array none = {omit, omit};
    t.did("none", ::utimensat(AT_FDCWD, "f", none.data(), 0));
    look_at_times(t, "f");
});

const Case kNow("times.now", [](Trial& t) {
    t.make("f");
    const std::array old = {kThen, kThen};
    ::utimensat(AT_FDCWD, "f", old.data(), 0);
    const timespec now{.tv_sec = 0, .tv_nsec = UTIME_NOW};
    const timespec omit{.tv_sec = 0, .tv_nsec = UTIME_OMIT};
    const std::array times = {omit, now};
    t.did("utimensat", ::utimensat(AT_FDCWD, "f", times.data(), 0));
    const struct stat status = status_of("f");
    t.say("access time stayed", static_cast<long>(!differ(status.st_atim, kThen)));
    t.say("modification within a minute",
          static_cast<long>(::time(nullptr) - status.st_mtim.tv_sec < 60));
    t.did("null", ::utimensat(AT_FDCWD, "f", nullptr, 0));
    t.say("access within a minute",
          static_cast<long>(::time(nullptr) - status_of("f").st_atim.tv_sec < 60));
});

const Case kFarTimes("times.far-away", [](Trial& t) {
    t.make("f");
    for (const time_t when : {time_t{0},
                              time_t{1},
                              time_t{-1},
                              time_t{-2147483648LL},
                              time_t{4294967296LL},
                              time_t{9999999999LL}}) {
        const timespec time{.tv_sec = when, .tv_nsec = 5};
        const std::array times = {time, time};
        t.did("utimensat", ::utimensat(AT_FDCWD, "f", times.data(), 0));
        look_at_times(t, "f");
    }
});

const Case kWrongTimes("times.wrong", [](Trial& t) {
    t.make("f");
    const timespec wrong{.tv_sec = 0, .tv_nsec = 1'000'000'000};
    const std::array times = {wrong, wrong};
    t.did("utimensat", ::utimensat(AT_FDCWD, "f", times.data(), 0));
});

const Case kByOthers("times.by-others", [](Trial& t) {
    t.make("mine", "", 0644);
    t.make("writable", "");
    t.did("chmod", ::chmod("writable", 0666));
    t.as(kAnna, [&] {
        const std::array times = {kThen, kLater};
        const timespec now{.tv_sec = 0, .tv_nsec = UTIME_NOW};
        const std::array now_both = {now, now};
        const std::array now_one = {now, kThen};
        for (const char* name : {"mine", "writable"}) {
            t.did("set", ::utimensat(AT_FDCWD, name, times.data(), 0));
            t.did("now", ::utimensat(AT_FDCWD, name, now_both.data(), 0));
            t.did("one now", ::utimensat(AT_FDCWD, name, now_one.data(), 0));
            t.did("null", ::utimensat(AT_FDCWD, name, nullptr, 0));
        }
    });
});

const Case kOfFiles("times.what-moves-those-of-a-file", [](Trial& t) {
    t.make("f", "some content");
    look_what_moves(t, "chmod", "f", [] { ::chmod("f", 0600); });
    look_what_moves(t, "chown", "f", [] { (void)!::chown("f", ::getuid(), ::getgid()); });
    look_what_moves(t, "link", "f", [] { (void)!::link("f", "g"); });
    look_what_moves(t, "unlink of a link", "f", [] { ::unlink("g"); });
    look_what_moves(t, "rename", "f", [] { ::rename("f", "g"), ::rename("g", "f"); });
    look_what_moves(t, "truncate to its size", "f", [] { (void)!::truncate("f", 12); });
    look_what_moves(t, "truncate", "f", [] { (void)!::truncate("f", 3); });
    look_what_moves(t, "write", "f", [&] {
        const File file = t.open("f", O_WRONLY);
        t.did("write", ::write(file.fd(), "x", 1));
    });
    look_what_moves(t, "write of nothing", "f", [&] {
        const File file = t.open("f", O_WRONLY);
        t.did("write", ::write(file.fd(), "x", 0));
    });
    look_what_moves(t, "open to truncate", "f", [&] { (void)t.open("f", O_WRONLY | O_TRUNC); });
    look_what_moves(t, "open to create", "f", [&] { (void)t.open("f", O_WRONLY | O_CREAT); });
});

const Case kOfDirectories("times.what-moves-those-of-a-directory", [](Trial& t) {
    t.make_directory("d");
    t.make_directory("e");
    look_what_moves(t, "create", "d", [&] { t.make("d/f"); });
    look_what_moves(t, "write inside", "d", [&] {
        const File file = t.open("d/f", O_WRONLY);
        t.did("write", ::write(file.fd(), "x", 1));
    });
    look_what_moves(t, "mkdir", "d", [&] { t.make_directory("d/sub"); });
    look_what_moves(t, "rmdir", "d", [] { ::rmdir("d/sub"); });
    look_what_moves(t, "symlink", "d", [] { (void)!::symlink("x", "d/s"); });
    look_what_moves(t, "link", "d", [] { (void)!::link("d/f", "d/g"); });
    look_what_moves(t, "unlink", "d", [] { ::unlink("d/g"); });
    look_what_moves(t, "rename within", "d", [] { ::rename("d/f", "d/g"); });
    look_what_moves(t, "rename out of", "d", [] { ::rename("d/g", "e/g"); });
    look_what_moves(t, "rename into", "d", [] { ::rename("e/g", "d/g"); });
    look_what_moves(t, "a call that fails", "d", [] { ::mkdir("d/g", 0755); });
});

const Case kOfOpenFiles("times.writes-through-another-descriptor", [](Trial& t) {
    t.make("f");
    const File reader = t.open("f", O_RDONLY);
    look_what_moves(t, "write", "f", [&] {
        const File writer = t.open("f", O_WRONLY | O_APPEND);
        t.did("write", ::write(writer.fd(), "abc", 3));
    });
    struct stat status {};
    t.did("fstat", ::fstat(reader.fd(), &status));
    t.say("size", status.st_size);
});

const Case kMapped("times.writes-through-a-map-come-at-last", [](Trial& t) {
    t.make("f", "0123456789");
    const File file = t.open("f", O_RDWR);
    const std::array old = {kThen, kThen};
    t.did("futimens", ::futimens(file.fd(), old.data()));
    t.did("fsync", ::fsync(file.fd()));
    look_at_times(t, "f");
});

}  // namespace
}  // namespace outrigger::posix
