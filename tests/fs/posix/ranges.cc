// SPDX-License-Identifier: Apache-2.0
/// Holes, preallocation, copies of ranges, maps, direct I/O, attributes of files and sockets.
#include <array>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

constexpr off_t kStep = 65536;

/// Data at steps 1 and 5 of 8.
void make_sparse(const Trial& t, const std::string& name) {
    const File file = t.open(name, O_RDWR | O_CREAT);
    const std::string bytes = pattern(kStep);
    t.did("pwrite", ::pwrite(file.fd(), bytes.data(), bytes.size(), kStep));
    t.did("pwrite", ::pwrite(file.fd(), bytes.data(), bytes.size(), 5 * kStep));
    t.did("ftruncate", ::ftruncate(file.fd(), 8 * kStep));
    t.did("fsync", ::fsync(file.fd()));
}

void look_for_holes(const Trial& t, const File& file, off_t end) {
    std::string line;
    for (off_t at = 0; at < end;) {
        const off_t data = ::lseek(file.fd(), at, SEEK_DATA);
        if (data < 0) {
            line.append(" ").append(name_of_result(data, errno));
            break;
        }
        const off_t hole = ::lseek(file.fd(), data, SEEK_HOLE);
        line += numbered(" ", data) + "-" + name_of_result(hole, errno);
        if (hole <= at) {
            break;
        }
        at = hole;
    }
    t.say("data", line);
}

const Case kHoles("ranges.holes", [](Trial& t) {
    make_sparse(t, "f");
    const File file = t.open("f", O_RDWR);
    look_for_holes(t, file, 8 * kStep);
    t.did("hole at the start", ::lseek(file.fd(), 0, SEEK_HOLE));
    t.did("data in data", ::lseek(file.fd(), kStep + 5, SEEK_DATA));
    t.did("hole in data", ::lseek(file.fd(), kStep + 5, SEEK_HOLE));
    t.did("data beyond", ::lseek(file.fd(), 8 * kStep, SEEK_DATA));
    t.did("hole beyond", ::lseek(file.fd(), 8 * kStep + 1, SEEK_HOLE));
    t.did("negative", ::lseek(file.fd(), -1, SEEK_DATA));
    t.did("data behind the last", ::lseek(file.fd(), 7 * kStep, SEEK_DATA));
    t.content("f");
});

const Case kAllocate("ranges.allocate", [](Trial& t) {
    t.make("f", pattern(1000));
    const File file = t.open("f", O_RDWR);
    t.did("within", ::fallocate(file.fd(), 0, 0, 500));
    t.did("longer", ::fallocate(file.fd(), 0, 500, 10000));
    t.look("f");
    t.did("keep size", ::fallocate(file.fd(), FALLOC_FL_KEEP_SIZE, 0, 100000));
    t.look("f");
    t.content("f");
    t.did("nothing", ::fallocate(file.fd(), 0, 0, 0));
    t.did("negative", ::fallocate(file.fd(), 0, -1, 10));
    t.did("posix_fallocate", ::posix_fallocate(file.fd(), 20000, 100));
    t.look("f");
});

const Case kPunch("ranges.punch-zero-collapse", [](Trial& t) {
    t.make("f", pattern(8 * kStep));
    const File file = t.open("f", O_RDWR);
    t.did("punch",
          ::fallocate(file.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kStep, kStep));
    t.content("f");
    t.did("punch odd",
          ::fallocate(file.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * kStep + 100, 777));
    t.content("f");
    t.did("punch without keep", ::fallocate(file.fd(), FALLOC_FL_PUNCH_HOLE, 0, kStep));
    t.did("zero", ::fallocate(file.fd(), FALLOC_FL_ZERO_RANGE, 5 * kStep, kStep));
    t.content("f");
    t.did("zero longer", ::fallocate(file.fd(), FALLOC_FL_ZERO_RANGE, 8 * kStep, 100));
    t.look("f");
    t.did("zero keep",
          ::fallocate(file.fd(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 9 * kStep, 100));
    t.look("f");
    t.did("fsync", ::fsync(file.fd()));
    look_for_holes(t, file, 8 * kStep);
});

const Case kCopy("ranges.copy", [](Trial& t) {
    t.make("a", pattern(200000));
    const File a = t.open("a", O_RDWR);
    const File b = t.open("b", O_RDWR | O_CREAT);
    loff_t from = 100;
    loff_t to = 7;
    t.did("copy", ::copy_file_range(a.fd(), &from, b.fd(), &to, 50000, 0));
    t.say("from", from);
    t.say("to", to);
    t.content("b");
    t.did("by position", ::copy_file_range(a.fd(), nullptr, b.fd(), nullptr, 10000, 0));
    t.did("positions", ::lseek(a.fd(), 0, SEEK_CUR));
    t.content("b");
    from = 190000;
    to = 0;
    t.did("past the end", ::copy_file_range(a.fd(), &from, b.fd(), &to, 50000, 0));
    from = 300000;
    t.did("beyond the end", ::copy_file_range(a.fd(), &from, b.fd(), &to, 50000, 0));
    from = 0;
    to = 100000;
    t.did("within a file", ::copy_file_range(a.fd(), &from, a.fd(), &to, 5000, 0));
    t.content("a");
    from = 0;
    to = 10;
    t.did("overlapping", ::copy_file_range(a.fd(), &from, a.fd(), &to, 5000, 0));
    t.did("flags", ::copy_file_range(a.fd(), &from, b.fd(), &to, 10, 1));
    const File reader = t.open("b", O_RDONLY);
    t.did("to a reader", ::copy_file_range(a.fd(), &from, reader.fd(), &to, 10, 0));
    const File appender = t.open("b", O_WRONLY | O_APPEND);
    t.did("to an appender", ::copy_file_range(a.fd(), &from, appender.fd(), &to, 10, 0));
    t.content("b");
});

const Case kCopyClears("ranges.copy-clears-set-user", [](Trial& t) {
    t.make("a", pattern(5000));
    t.make("b", "x");
    t.did("chown", ::chown("b", 41001, 41001));
    t.did("chmod", ::chmod("b", 06777));
    t.as(kBert, [&] {
        const File a = t.open("a", O_RDONLY);
        const File b = t.open("b", O_WRONLY);
        t.did("copy", ::copy_file_range(a.fd(), nullptr, b.fd(), nullptr, 5000, 0));
    });
    t.look("b");
});

const Case kClone("ranges.clone", [](Trial& t) {
    t.make("a", pattern(5000));
    const File a = t.open("a", O_RDONLY);
    const File b = t.open("b", O_RDWR | O_CREAT);
    t.say("clones", ::ioctl(b.fd(), FICLONE, a.fd()) == 0 ? "yes" : "no");
});

const Case kMap("ranges.map", [](Trial& t) {
    t.make("f", pattern(10000));
    const File file = t.open("f", O_RDWR);
    void* const map = ::mmap(nullptr, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
    t.did("mmap", map == MAP_FAILED ? -1 : 0);
    if (map == MAP_FAILED) {
        return;
    }
    t.say("seen", checksum({static_cast<const char*>(map), 10000}));
    std::memcpy(static_cast<char*>(map) + 5000, "written by map", 14);
    t.did("msync", ::msync(map, 10000, MS_SYNC));
    t.content("f");
    t.did("pwrite", ::pwrite(file.fd(), "by call", 7, 0));
    t.say("seen", std::string(static_cast<const char*>(map), 7));
    t.did("ftruncate", ::ftruncate(file.fd(), 20000));
    std::memcpy(static_cast<char*>(map) + 9000, "later", 5);
    t.did("munmap", ::munmap(map, 10000));
    t.content("f");
    void* const copy = ::mmap(nullptr, 10000, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.fd(), 0);
    t.did("private", copy == MAP_FAILED ? -1 : 0);
    std::memcpy(copy, "private", 7);
    t.did("munmap", ::munmap(copy, 10000));
    t.content("f");
});

const Case kMapWrong("ranges.map-of-the-wrong", [](Trial& t) {
    t.make("f", "x");
    const File reader = t.open("f", O_RDONLY);
    t.did("to write",
          ::mmap(nullptr, 1, PROT_WRITE, MAP_SHARED, reader.fd(), 0) == MAP_FAILED ? -1 : 0);
    t.did("to read",
          ::mmap(nullptr, 1, PROT_READ, MAP_SHARED, reader.fd(), 0) == MAP_FAILED ? -1 : 0);
    const File writer = t.open("f", O_WRONLY);
    t.did("of a writer",
          ::mmap(nullptr, 1, PROT_READ, MAP_SHARED, writer.fd(), 0) == MAP_FAILED ? -1 : 0);
    t.in_child([&] {
        void* const map = ::mmap(nullptr, 8192, PROT_READ, MAP_SHARED, reader.fd(), 0);
        volatile char seen = static_cast<const char*>(map)[5000];
        (void)seen;
    });
});

const Case kMapUnlinked("ranges.map-of-an-unlinked-file", [](Trial& t) {
    t.make("f", pattern(100000));
    void* map = MAP_FAILED;
    {
        const File file = t.open("f", O_RDWR);
        map = ::mmap(nullptr, 100000, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
    }
    t.did("unlink", ::unlink("f"));
    t.say("seen", checksum({static_cast<const char*>(map), 100000}));
    std::memset(map, 7, 100000);
    t.did("msync", ::msync(map, 100000, MS_SYNC));
    t.did("munmap", ::munmap(map, 100000));
});

const Case kDirect("ranges.direct", [](Trial& t) {
    const File file(::open("f", O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0644));
    if (file.fd() < 0) {
        t.did("O_DIRECT", -1);
        return;
    }
    void* memory = nullptr;
    t.did("posix_memalign", ::posix_memalign(&memory, 4096, 1 << 20));
    const std::string bytes = pattern(1 << 20);
    std::memcpy(memory, bytes.data(), bytes.size());
    t.did("write", ::pwrite(file.fd(), memory, 1 << 20, 0));
    t.did("write in the middle", ::pwrite(file.fd(), memory, 8192, 65536));
    std::memset(memory, 0, 1 << 20);
    t.did("read", ::pread(file.fd(), memory, 1 << 20, 0));
    t.say("bytes", checksum({static_cast<const char*>(memory), 1 << 20}));
    t.did("read at the end", ::pread(file.fd(), memory, 8192, (1 << 20) - 4096));
    t.did("read beyond", ::pread(file.fd(), memory, 4096, 1 << 21));
    t.content("f");
    std::free(memory);
});

const Case kDirectBeside("ranges.direct-beside-cached", [](Trial& t) {
    t.make("f", pattern(65536));
    const File cached = t.open("f", O_RDWR);
    t.say("cached", checksum(read_all(cached.fd())));
    const File direct(::open("f", O_RDWR | O_DIRECT | O_CLOEXEC));
    void* memory = nullptr;
    t.did("posix_memalign", ::posix_memalign(&memory, 4096, 4096));
    std::memset(memory, 'd', 4096);
    t.did("direct write", ::pwrite(direct.fd(), memory, 4096, 8192));
    t.say("cached", checksum(read_all(cached.fd())));
    std::memset(memory, 'c', 4096);
    t.did("cached write", ::pwrite(cached.fd(), memory, 4096, 16384));
    std::memset(memory, 0, 4096);
    t.did("direct read", ::pread(direct.fd(), memory, 4096, 16384));
    t.say("direct", checksum({static_cast<const char*>(memory), 4096}));
    std::free(memory);
});

const Case kAttributes("ranges.attributes-of-a-file", [](Trial& t) {
    t.need_root();
    t.make("f", "x");
    const File file = t.open("f", O_RDWR);
    int flags = 0;
    t.did("get", ::ioctl(file.fd(), FS_IOC_GETFLAGS, &flags));
    flags |= FS_NODUMP_FL;
    t.did("set", ::ioctl(file.fd(), FS_IOC_SETFLAGS, &flags));
    int seen = 0;
    t.did("get", ::ioctl(file.fd(), FS_IOC_GETFLAGS, &seen));
    t.say("no dump", static_cast<long>((seen & FS_NODUMP_FL) != 0));
});

const Case kBirth("ranges.statx", [](Trial& t) {
    t.make("f", "abc");
    struct statx about {};
    t.did("statx", ::statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &about));
    t.say("size", static_cast<long>(about.stx_size));
    t.say("mode", static_cast<long>(about.stx_mode));
    t.say("links", static_cast<long>(about.stx_nlink));
    t.did("forced", ::statx(AT_FDCWD, "f", AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &about));
    t.say("size", static_cast<long>(about.stx_size));
});

const Case kSocket("ranges.socket", [](Trial& t) {
    const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, "s");
    // SAFETY: every address of a socket begins as sockaddr does.
    const auto* const name = reinterpret_cast<const sockaddr*>(&address);
    t.did("bind", ::bind(listener, name, sizeof address));
    t.look("s");
    t.did("listen", ::listen(listener, 1));
    const int client = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    t.did("connect", ::connect(client, name, sizeof address));
    t.did("bind again", ::bind(client, name, sizeof address));
    t.did("unlink", ::unlink("s"));
});

}  // namespace
}  // namespace outrigger::posix
