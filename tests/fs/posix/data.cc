// SPDX-License-Identifier: Apache-2.0
/// Reading and writing: offsets, appending, truncation, limits.
#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

const Case kReadWrite("data.read-and-write", [](Trial& t) {
    const File file = t.open("f", O_RDWR | O_CREAT | O_EXCL);
    t.did("write", ::write(file.fd(), "hello world", 11));
    t.did("lseek", ::lseek(file.fd(), 6, SEEK_SET));
    std::string room(20, '.');
    t.did("read", ::read(file.fd(), room.data(), room.size()));
    t.say("room", room);
    t.did("read at the end", ::read(file.fd(), room.data(), room.size()));
    t.did("lseek from the end", ::lseek(file.fd(), -5, SEEK_END));
    t.did("lseek before the start", ::lseek(file.fd(), -50, SEEK_CUR));
    t.did("pwrite", ::pwrite(file.fd(), "W", 1, 6));
    t.did("pread", ::pread(file.fd(), room.data(), 3, 5));
    t.did("pread beyond", ::pread(file.fd(), room.data(), 3, 500));
    t.did("pwrite at a negative offset", ::pwrite(file.fd(), "W", 1, -1));
    t.content("f");
});

const Case kModes("data.open-for-one-way", [](Trial& t) {
    t.make("f", "x");
    char byte = 0;
    const File reader = t.open("f", O_RDONLY);
    const File writer = t.open("f", O_WRONLY);
    t.did("write", ::write(reader.fd(), "y", 1));
    t.did("read", ::read(writer.fd(), &byte, 1));
    t.did("ftruncate", ::ftruncate(reader.fd(), 0));
    t.did("fallocate", ::fallocate(reader.fd(), 0, 0, 10));
    t.content("f");
});

const Case kSizes("data.sizes-around-pages", [](Trial& t) {
    for (const size_t size : {size_t{1},
                              size_t{4095},
                              size_t{4096},
                              size_t{4097},
                              size_t{131072},
                              size_t{1048576},
                              size_t{1048577},
                              size_t{3333333}}) {
        const std::string name = numbered("f", size);
        t.make(name, pattern(size, static_cast<unsigned>(size)));
        t.look(name);
        t.content(name);
    }
});

const Case kOddOffsets("data.odd-offsets", [](Trial& t) {
    const File file = t.open("f", O_RDWR | O_CREAT);
    for (const off_t at : {off_t{1}, off_t{4095}, off_t{70001}, off_t{1048575}, off_t{3000000}}) {
        const std::string bytes = pattern(9999, static_cast<unsigned>(at));
        t.did("pwrite", ::pwrite(file.fd(), bytes.data(), bytes.size(), at));
    }
    t.content("f");
    std::string room(100000, '.');
    t.did("pread", ::pread(file.fd(), room.data(), room.size(), 2950007));
    t.say("bytes", checksum(room));
});

const Case kAppend("data.append", [](Trial& t) {
    t.make("f", "start ");
    const File one = t.open("f", O_WRONLY | O_APPEND);
    const File two = t.open("f", O_WRONLY | O_APPEND);
    const File other = t.open("f", O_RDWR);
    t.did("one", ::write(one.fd(), "one ", 4));
    t.did("two", ::write(two.fd(), "two ", 4));
    t.did("elsewhere", ::lseek(one.fd(), 0, SEEK_SET));
    t.did("one again", ::write(one.fd(), "one ", 4));
    t.content("f");
    t.did("other", ::pwrite(other.fd(), "START", 5, 0));
    t.did("pwrite to append", ::pwrite(two.fd(), "end", 3, 0));
    t.content("f");
    t.did("taken off", ::fcntl(two.fd(), F_SETFL, 0));
    t.did("pwrite", ::pwrite(two.fd(), "S", 1, 0));
    t.did("put on", ::fcntl(other.fd(), F_SETFL, O_APPEND));
    t.did("write", ::write(other.fd(), "!", 1));
    t.content("f");
});

const Case kAppendTogether("data.append-from-many-processes", [](Trial& t) {
    t.make("f");
    std::array<pid_t, 4> children{};
    for (pid_t& child : children) {
        child = ::fork();
        if (child == 0) {
            const File file(::open("f", O_WRONLY | O_APPEND | O_CLOEXEC));
            for (int i = 0; i < 200; ++i) {
                (void)!::write(file.fd(), "0123456789abcdef", 16);
            }
            ::_exit(0);
        }
    }
    for (size_t i = 0; i < children.size(); ++i) {
        ::wait(nullptr);
    }
    t.look("f");
    t.content("f");
});

const Case kTruncate("data.truncate", [](Trial& t) {
    t.make("f", pattern(10000));
    for (const off_t size :
         {off_t{5000}, off_t{4096}, off_t{20000}, off_t{1}, off_t{4097}, off_t{0}, off_t{100}}) {
        t.did(numbered("truncate to ", size), ::truncate("f", size));
        t.look("f");
        t.content("f");
    }
    t.did("negative", ::truncate("f", -1));
    t.make_directory("d");
    t.did("of a directory", ::truncate("d", 0));
    t.did("mkfifo", ::mkfifo("p", 0644));
    t.did("of a fifo", ::truncate("p", 0));
});

const Case kTruncateOpen("data.truncate-below-what-is-read", [](Trial& t) {
    t.make("f", pattern(20000));
    const File file = t.open("f", O_RDWR);
    std::string room(20000, '.');
    t.did("read", ::pread(file.fd(), room.data(), room.size(), 0));
    t.did("ftruncate", ::ftruncate(file.fd(), 100));
    t.did("read", ::pread(file.fd(), room.data(), room.size(), 0));
    t.did("ftruncate", ::ftruncate(file.fd(), 10000));
    t.say("content", checksum(read_all(file.fd())));
    (void)t.open("f", O_WRONLY | O_TRUNC);
    t.did("read", ::pread(file.fd(), room.data(), room.size(), 0));
});

const Case kOpenFlags("data.open-flags", [](Trial& t) {
    t.make("f", "content");
    (void)t.open("f", O_RDONLY | O_CREAT);
    (void)t.open("f", O_WRONLY | O_CREAT | O_EXCL);
    (void)t.open("f", O_RDONLY | O_TRUNC);
    t.content("f");
    (void)t.open("new", O_RDONLY | O_CREAT | O_TRUNC);
    t.look("new");
    const File sync = t.open("f", O_RDWR | O_SYNC);
    t.did("write", ::write(sync.fd(), "abc", 3));
    const File dsync = t.open("f", O_RDWR | O_DSYNC | O_NOATIME | O_NONBLOCK);
    t.did("write", ::write(dsync.fd(), "ABC", 3));
    t.did("fcntl", ::fcntl(dsync.fd(), F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    t.content("f");
    t.as(kAnna, [&] { (void)t.open("f", O_RDONLY | O_NOATIME); });
});

const Case kLimit("data.size-limit", [](Trial& t) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 10000, .rlim_max = 10000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const File file = t.open("f", O_RDWR | O_CREAT);
    const std::string bytes = pattern(8000);
    t.did("write", ::write(file.fd(), bytes.data(), bytes.size()));
    t.did("write over the limit", ::write(file.fd(), bytes.data(), bytes.size()));
    t.did("write at the limit", ::write(file.fd(), bytes.data(), bytes.size()));
    t.did("ftruncate", ::ftruncate(file.fd(), 10001));
    t.look("f");
});

const Case kLarge("data.far-offsets", [](Trial& t) {
    const File file = t.open("f", O_RDWR | O_CREAT);
    t.did("pwrite", ::pwrite(file.fd(), "far", 3, off_t{1} << 41));
    t.look("f");
    std::array<char, 8> room{};
    t.did("pread", ::pread(file.fd(), room.data(), room.size(), (off_t{1} << 41) - 2));
    t.say("byte", room[2]);
    t.did("pwrite too far", ::pwrite(file.fd(), "far", 3, 0x7fffffffffffffffLL));
    t.did("ftruncate too far", ::ftruncate(file.fd(), 0x7fffffffffffffffLL));
    t.look("f");
});

const Case kVectors("data.vectors", [](Trial& t) {
    const File file = t.open("f", O_RDWR | O_CREAT);
    std::string a = "one ";
    std::string b = pattern(9000);
    std::string c = " three";
    const std::array parts = {
        iovec{a.data(), a.size()}, iovec{b.data(), b.size()}, iovec{c.data(), c.size()}};
    t.did("writev", ::writev(file.fd(), parts.data(), 3));
    t.did("pwritev", ::pwritev(file.fd(), parts.data(), 3, 50000));
    std::string x(3, '.');
    std::string y(9003, '.');
    const std::array out = {iovec{x.data(), x.size()}, iovec{y.data(), y.size()}};
    t.did("preadv", ::preadv(file.fd(), out.data(), 2, 50000));
    t.say("parts", x + checksum(y));
    t.content("f");
});

const Case kCopies("data.other-ways-to-copy", [](Trial& t) {
    t.make("a", pattern(300000));
    const File a = t.open("a", O_RDONLY);
    const File b = t.open("b", O_RDWR | O_CREAT);
    long sent = 0;
    for (long count = 1; count > 0; sent += count) {
        count = ::sendfile(b.fd(), a.fd(), nullptr, 300000);
    }
    t.say("sendfile", sent);
    t.content("b");
    int ends[2] = {-1, -1};
    t.did("pipe", ::pipe(ends));
    const File c = t.open("c", O_RDWR | O_CREAT);
    loff_t from = 1000;
    t.did("splice out", ::splice(a.fd(), &from, ends[1], nullptr, 4000, 0));
    t.did("splice in", ::splice(ends[0], nullptr, c.fd(), nullptr, 4000, 0));
    t.content("c");
});

const Case kSync("data.sync", [](Trial& t) {
    t.make_directory("d");
    const File file = t.open("d/f", O_RDWR | O_CREAT);
    t.did("write", ::write(file.fd(), "abc", 3));
    t.did("fsync", ::fsync(file.fd()));
    t.did("fdatasync", ::fdatasync(file.fd()));
    const File reader = t.open("d/f", O_RDONLY);
    t.did("fsync of a reader", ::fsync(reader.fd()));
    const File directory = t.open("d", O_RDONLY | O_DIRECTORY);
    t.did("fsync of a directory", ::fsync(directory.fd()));
    t.did("syncfs", ::syncfs(file.fd()));
    t.did("sync_file_range", ::sync_file_range(file.fd(), 0, 3, SYNC_FILE_RANGE_WRITE));
    t.did("posix_fadvise", ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED));
    t.content("d/f");
});

const Case kTwoReaders("data.written-here-read-there", [](Trial& t) {
    t.make("f", "before");
    const File reader = t.open("f", O_RDONLY);
    t.say("reader", read_all(reader.fd()));
    const File writer = t.open("f", O_WRONLY);
    t.did("write", ::pwrite(writer.fd(), "after, and more", 15, 0));
    t.say("reader", read_all(reader.fd()));
    t.did("fchmod", ::fchmod(writer.fd(), 0600));
    struct stat status {};
    t.did("fstat", ::fstat(reader.fd(), &status));
    t.say("size", status.st_size);
});

const Case kManyFiles("data.many-open-files", [](Trial& t) {
    std::vector<File> files;
    for (int i = 0; i < 400; ++i) {
        files.emplace_back(::open(numbered("f", i).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
        if (files.back().fd() < 0) {
            t.did("open", -1);
        }
    }
    for (size_t i = 0; i < files.size(); ++i) {
        (void)!::write(files[i].fd(), &i, 1 + i % 8);
    }
    std::string all;
    for (const File& file : files) {
        all += read_all(file.fd());
    }
    t.say("all", checksum(all));
});

const Case kFifo("data.fifo", [](Trial& t) {
    t.did("mkfifo", ::mkfifo("p", 0644));
    const pid_t child = ::fork();
    if (child == 0) {
        const File writer(::open("p", O_WRONLY | O_CLOEXEC));
        (void)!::write(writer.fd(), "through", 7);
        ::_exit(0);
    }
    const File reader = t.open("p", O_RDONLY);
    std::string room(20, '.');
    t.did("read", ::read(reader.fd(), room.data(), room.size()));
    t.say("room", room);
    (void)t.open("p", O_WRONLY | O_NONBLOCK);
});

}  // namespace
}  // namespace outrigger::posix
