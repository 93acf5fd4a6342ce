// SPDX-License-Identifier: Apache-2.0
// A share that must outlive its daemon: linked statically, it runs in the guest.
//
//   files DIRECTORY THREADS SECONDS
//
// Each thread works in a directory of its own and knows what every call must give: files with their
// bytes, modes, links and attributes, names, listings, locks, and files that are open and have no
// name any more. A call that takes SECONDS is stuck. Tells its numbers each second as verifier.c
// does; what a line on its input says "stop", all is looked at once more, and each directory gets a
// file "manifest" of names, sizes and checksums, for whoever sees it from the other side.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace outrigger::guest {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kNames = 12;
constexpr size_t kHeldMax = 6;
constexpr size_t kBytesMax = 48'000;
constexpr const char* kAttribute = "user.number";

std::atomic<bool> stopping = false;
std::atomic<uint64_t> bad = 0;
std::atomic<uint64_t> broken = 0;

int64_t now_ms() {
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch())
        .count();
}

std::string numbered(std::string name, size_t number) {
    name.append(std::to_string(number));
    return name;
}

/// What must be true of a file, whatever its names.
struct File {
    std::string bytes;
    std::string attribute;  // empty: it has none
    mode_t mode = 0640;
    unsigned links = 1;
};

struct Held {
    int fd = -1;
    bool appends = false;
    std::shared_ptr<File> file;
};

/// One thread. Others look at the atomics alone.
class Worker final {
  public:
    Worker(std::string directory, unsigned seed)
        : directory_(std::move(directory)), random_(seed) {}

    std::atomic<uint64_t> ops = 0;
    std::atomic<uint64_t> bytes = 0;
    std::atomic<int64_t> began_ms = 0;    // of the step under way; 0: none
    std::atomic<int64_t> longest_ms = 0;  // of those that ended
    std::atomic<bool> done = false;

    void run() {
        check(::mkdir(directory_.c_str(), 0755), 0, "mkdir of the thread's own");
        while (!stopping && bad + broken == 0) {
            timed([this] { step(); });
            ++ops;
        }
        timed([this] { look_at_everything(); });
        done = true;
    }

  private:
    template <class Step>
    void timed(Step step_) {
        const int64_t start = now_ms();
        began_ms = start;
        step_();
        began_ms = 0;
        longest_ms = std::max(longest_ms.load(), now_ms() - start);
    }

    unsigned dice(size_t sides) { return static_cast<unsigned>(random_() % sides); }

    [[nodiscard]] std::string path(const std::string& name) const {
        return directory_ + "/" + name;
    }

    [[nodiscard]] std::string file(size_t index) const { return path(numbered("f", index)); }

    void complain(std::atomic<uint64_t>& count, const std::string& what) const {
        static std::mutex mutex;
        const std::lock_guard lock(mutex);
        if (count++ < 3) {
            std::printf("OUTRIGGER-COMPLAINT %s after %" PRIu64 " steps: %s\n",
                        directory_.c_str(),
                        ops.load(),
                        what.c_str());
            std::fflush(stdout);
        }
    }

    void demand(bool holds, const std::string& what) const {
        if (!holds) {
            complain(bad, what);
        }
    }

    /// What a call gave, and the errno that it must have given; 0: none. True: it succeeded.
    bool check(long result, int expected, const std::string& what) const {
        const int found = result < 0 ? errno : 0;
        if (found != expected) {
            complain(found == EIO || found == ESTALE || found == EBADF ? broken : bad,
                     what + ": " + std::strerror(found) + ", expected " + std::strerror(expected));
        }
        return result >= 0;
    }

    std::string make_bytes(size_t count) {
        std::string made(count, '\0');
        for (char& byte : made) {
            byte = static_cast<char>(random_() >> 7);
        }
        return made;
    }

    void hold(int fd, bool appends, std::shared_ptr<File> what) {
        if (held_.size() == kHeldMax) {
            close_one(dice(held_.size()));
        }
        held_.push_back({.fd = fd, .appends = appends, .file = std::move(what)});
    }

    void close_one(size_t index) {
        check(::close(held_[index].fd), 0, "close");
        held_[index] = held_.back();
        held_.pop_back();
    }

    void step() {
        switch (dice(16)) {
            case 0:
                return create(dice(kNames));
            case 1:
                return open(dice(kNames));
            case 2:
                return rename(dice(kNames), dice(kNames));
            case 3:
                return unlink(dice(kNames));
            case 4:
                return link(dice(kNames), dice(kNames));
            case 5:
                return make_directory(dice(directories_.size()));
            case 6:
                return make_symlink(dice(symlinks_.size()));
            case 7:
                return list();
            case 8:
                return stat_name(dice(kNames));
            case 9:
                return lock();
            default:
                break;
        }
        if (held_.empty()) {
            return create(dice(kNames));
        }
        Held& held = held_[dice(held_.size())];
        switch (dice(10)) {
            case 0:
            case 1:
            case 2:
                return write(held);
            case 3:
            case 4:
            case 5:
                return read(held);
            case 6:
                return truncate(held);
            case 7:
                return change_mode(held);
            case 8:
                return change_attribute(held);
            default:
                check(::fsync(held.fd), 0, "fsync");
                return close_one(dice(held_.size()));
        }
    }

    void create(size_t at) {
        const int fd = ::open(file(at).c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0640);
        if (check(fd, names_[at] ? EEXIST : 0, "create " + file(at))) {
            names_[at] = std::make_shared<File>();
            hold(fd, false, names_[at]);
        }
    }

    void open(size_t at) {
        const bool appends = dice(2) != 0;
        const bool empties = dice(8) == 0;
        const int fd =
            ::open(file(at).c_str(),
                   O_RDWR | O_CLOEXEC | (appends ? O_APPEND : 0) | (empties ? O_TRUNC : 0));
        if (check(fd, names_[at] ? 0 : ENOENT, "open " + file(at))) {
            if (empties) {
                names_[at]->bytes.clear();
            }
            hold(fd, appends, names_[at]);
        }
    }

    void write(Held& held) {
        std::string& content = held.file->bytes;
        const std::string more = make_bytes(dice(8'000) + 1);
        if (held.appends && content.size() + more.size() > kBytesMax) {
            return truncate(held);
        }
        const size_t at = held.appends ? content.size() : dice(kBytesMax - more.size());
        const ssize_t count =
            held.appends ? ::write(held.fd, more.data(), more.size())
                         : ::pwrite(held.fd, more.data(), more.size(), static_cast<off_t>(at));
        if (check(count, 0, "write")) {
            demand(static_cast<size_t>(count) == more.size(), "a write is short");
            content.resize(std::max(content.size(), at + more.size()));
            content.replace(at, more.size(), more);
            bytes += more.size();
        }
    }

    void read(const Held& held) {
        const std::string& content = held.file->bytes;
        const size_t from = dice(content.size() + 1);
        std::string found(dice(20'000) + 1, '\0');
        const ssize_t count =
            ::pread(held.fd, found.data(), found.size(), static_cast<off_t>(from));
        if (check(count, 0, "read")) {
            found.resize(static_cast<size_t>(count));
            // Shorter only where the file ends.
            demand(found == content.substr(from, 20'000).substr(0, found.size()) &&
                       (found.size() >= 1 || from == content.size()),
                   "a read gives other bytes");
        }
        look_at(held);
    }

    void truncate(Held& held) {
        const size_t size = dice(kBytesMax);
        if (check(::ftruncate(held.fd, static_cast<off_t>(size)), 0, "ftruncate")) {
            held.file->bytes.resize(size);
        }
    }

    void change_mode(Held& held) {
        const mode_t mode = 0600 | dice(0100);
        if (check(::fchmod(held.fd, mode), 0, "fchmod")) {
            held.file->mode = mode;
        }
    }

    void change_attribute(Held& held) {
        std::array<char, 64> found{};
        const ssize_t count = ::fgetxattr(held.fd, kAttribute, found.data(), found.size());
        std::string& attribute = held.file->attribute;
        if (check(count, attribute.empty() ? ENODATA : 0, "fgetxattr")) {
            demand(std::string(found.data(), static_cast<size_t>(count)) == attribute,
                   "an attribute has another value");
        }
        const int flag = attribute.empty() ? XATTR_CREATE : XATTR_REPLACE;
        if (dice(3) == 0) {
            check(::fremovexattr(held.fd, kAttribute), attribute.empty() ? ENODATA : 0, "remove");
            attribute.clear();
            return;
        }
        attribute = std::to_string(random_());
        check(::fsetxattr(held.fd, kAttribute, attribute.data(), attribute.size(), flag),
              0,
              "fsetxattr");
    }

    void rename(size_t from, size_t to) {
        const int result = ::rename(file(from).c_str(), file(to).c_str());
        if (!check(result, names_[from] ? 0 : ENOENT, "rename " + file(from)) ||
            names_[from] == names_[to]) {
            return;  // two names of one file both stay
        }
        if (names_[to]) {
            --names_[to]->links;
        }
        names_[to] = std::move(names_[from]);
        names_[from].reset();
    }

    void unlink(size_t at) {
        if (check(::unlink(file(at).c_str()), names_[at] ? 0 : ENOENT, "unlink " + file(at))) {
            --names_[at]->links;
            names_[at].reset();
        }
    }

    void link(size_t from, size_t to) {
        const int expected = !names_[from] ? ENOENT : names_[to] ? EEXIST : 0;
        if (check(::link(file(from).c_str(), file(to).c_str()), expected, "link " + file(from))) {
            names_[to] = names_[from];
            ++names_[to]->links;
        }
    }

    void make_directory(size_t at) {
        const std::string name = path(numbered("d", at));
        if (dice(2) != 0) {
            check(::mkdir(name.c_str(), 0755), directories_[at] ? EEXIST : 0, "mkdir");
            directories_[at] = true;
        } else {
            check(::rmdir(name.c_str()), directories_[at] ? 0 : ENOENT, "rmdir");
            directories_[at] = false;
        }
    }

    void make_symlink(size_t at) {
        const std::string name = path(numbered("s", at));
        std::string& target = symlinks_[at];
        std::array<char, 64> found{};
        const ssize_t count = ::readlink(name.c_str(), found.data(), found.size());
        if (check(count, target.empty() ? ENOENT : 0, "readlink")) {
            demand(std::string(found.data(), static_cast<size_t>(count)) == target,
                   "a symbolic link leads elsewhere");
            check(::unlink(name.c_str()), 0, "unlink of a symbolic link");
            target.clear();
        } else {
            target = std::to_string(random_());
            check(::symlink(target.c_str(), name.c_str()), 0, "symlink");
        }
    }

    void list() {
        std::multiset<std::string> expected = {".", ".."};
        for (size_t i = 0; i < kNames; ++i) {
            if (names_[i]) {
                expected.insert(numbered("f", i));
            }
        }
        for (size_t i = 0; i < directories_.size(); ++i) {
            if (directories_[i]) {
                expected.insert(numbered("d", i));
            }
            if (!symlinks_[i].empty()) {
                expected.insert(numbered("s", i));
            }
        }
        if (has_lock_file_) {
            expected.insert("lock");
        }
        DIR* const listing = ::opendir(directory_.c_str());
        if (!check(listing == nullptr ? -1 : 0, 0, "opendir")) {
            return;
        }
        std::multiset<std::string> found;
        errno = 0;
        while (const dirent* const entry = ::readdir(listing)) {
            found.insert(entry->d_name);
        }
        check(errno == 0 ? 0 : -1, 0, "readdir");
        check(::closedir(listing), 0, "closedir");
        demand(found == expected, "a listing has other names");
    }

    void stat_name(size_t at) {
        struct stat status {};

        if (check(::stat(file(at).c_str(), &status), names_[at] ? 0 : ENOENT, "stat")) {
            demand_status(status, *names_[at]);
        }
    }

    void look_at(const Held& held) {
        struct stat status {};

        if (check(::fstat(held.fd, &status), 0, "fstat")) {
            demand_status(status, *held.file);
        }
    }

    void demand_status(const struct stat& status, const File& expected) {
        demand(static_cast<size_t>(status.st_size) == expected.bytes.size(), "another size");
        demand(status.st_nlink == expected.links, "another number of links");
        demand((status.st_mode & 07777) == expected.mode, "another mode");
    }

    /// Of open file descriptions: one has it, and another one does not get it.
    void lock() {
        const int fd = ::open(path("lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        if (!check(fd, 0, "open of the lock's file")) {
            return;
        }
        has_lock_file_ = true;

        struct flock wish {};

        wish.l_type = F_WRLCK;
        wish.l_start = 3;
        wish.l_len = 5;
        if (check(::fcntl(fd, F_OFD_SETLK, &wish), lock_fd_ < 0 ? 0 : EAGAIN, "a lock")) {
            lock_fd_ = fd;
            return;
        }
        check(::close(fd), 0, "close of one without the lock");
        if (dice(2) != 0) {
            check(::close(lock_fd_), 0, "close of one with the lock");
            lock_fd_ = -1;
        }
    }

    void look_at_everything() {
        for (const Held& held : held_) {
            std::string found(kBytesMax + 1, '\0');
            const ssize_t count = ::pread(held.fd, found.data(), found.size(), 0);
            found.resize(count < 0 ? 0 : static_cast<size_t>(count));
            demand(check(count, 0, "read at the end") && found == held.file->bytes,
                   "an open file has other bytes at the end");
            look_at(held);
        }
        while (!held_.empty()) {
            close_one(0);
        }
        list();
        std::FILE* const manifest = std::fopen(path("manifest").c_str(), "w");
        if (!check(manifest == nullptr ? -1 : 0, 0, "the manifest")) {
            return;
        }
        for (size_t i = 0; i < kNames; ++i) {
            stat_name(i);
            if (names_[i]) {
                std::fprintf(manifest,
                             "f%zu %zu %08" PRIx32 "\n",
                             i,
                             names_[i]->bytes.size(),
                             checksum_of(names_[i]->bytes));
            }
        }
        check(std::fclose(manifest), 0, "the manifest's end");
    }

    /// CRC-32, as zlib has it.
    static uint32_t checksum_of(const std::string& content) {
        uint32_t crc = ~uint32_t{0};
        for (const char byte : content) {
            crc ^= static_cast<uint8_t>(byte);
            for (int bit = 0; bit < 8; ++bit) {
                crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb8'8320U : 0U);
            }
        }
        return ~crc;
    }

    const std::string directory_;
    std::minstd_rand random_;
    std::array<std::shared_ptr<File>, kNames> names_{};
    std::array<bool, 3> directories_{};
    std::array<std::string, 3> symlinks_{};
    std::vector<Held> held_;
    bool has_lock_file_ = false;
    int lock_fd_ = -1;
};

struct Numbers {
    uint64_t ops = 0;
    uint64_t bytes = 0;
    uint64_t least = ~uint64_t{0};
    uint64_t stuck = 0;
    uint64_t longest_ms = 0;
    bool all_done = true;
};

Numbers look_at(std::deque<Worker>& workers, int64_t stuck_ms) {
    Numbers numbers;
    for (Worker& worker : workers) {
        const uint64_t ops = worker.ops;
        const int64_t began = worker.began_ms;
        const int64_t under_way = began == 0 ? 0 : now_ms() - began;
        const int64_t longest = std::max(worker.longest_ms.exchange(0), under_way);
        numbers.ops += ops;
        numbers.bytes += worker.bytes;
        numbers.least = std::min(numbers.least, ops);
        numbers.stuck += under_way > stuck_ms ? 1 : 0;
        numbers.longest_ms = std::max(numbers.longest_ms, static_cast<uint64_t>(longest));
        numbers.all_done = numbers.all_done && worker.done;
    }
    return numbers;
}

/// In the words of verifier.c, which the host knows.
void tell(const char* what, const Numbers& numbers) {
    std::printf("OUTRIGGER-%s ops=%" PRIu64 " reads=%" PRIu64 " least=%" PRIu64 " bytes=%" PRIu64
                " bad=%" PRIu64 " eio=%" PRIu64 " stuck=%" PRIu64 " longest_ms=%" PRIu64
                " rng_bytes=0 rng_errors=0\n",
                what,
                numbers.ops,
                numbers.ops,
                numbers.least,
                numbers.bytes,
                bad.load(),
                broken.load(),
                numbers.stuck,
                numbers.longest_ms);
    std::fflush(stdout);
}

int run(const std::string& directory, size_t threads, int64_t stuck_s) {
    std::deque<Worker> workers;
    std::vector<std::thread> running;
    for (size_t i = 0; i < threads; ++i) {
        Worker& worker = workers.emplace_back(numbered(directory + "/t", i),
                                              static_cast<unsigned>(std::random_device()()));
        running.emplace_back([&worker] { worker.run(); });
    }
    std::thread([] {
        std::array<char, 256> line{};
        while (std::fgets(line.data(), line.size(), stdin) != nullptr) {
            if (std::string(line.data()).starts_with("stop")) {
                break;
            }
        }
        stopping = true;
    }).detach();
    Numbers numbers;
    do {
        ::sleep(1);
        numbers = look_at(workers, stuck_s * 1000);
        tell("TICK", numbers);
    } while (!numbers.all_done && (numbers.stuck == 0 || !stopping));
    const bool good = numbers.stuck == 0 && bad == 0 && broken == 0;
    if (good) {
        for (std::thread& thread : running) {
            thread.join();
        }
    }
    tell("VERDICT", numbers);
    // A thread that is stuck may be for ever.
    std::_Exit(good ? 0 : 1);
}

}  // namespace
}  // namespace outrigger::guest

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "files: see the head of its source\n");
        return 2;
    }
    ::umask(0);
    return outrigger::guest::run(arguments[1],
                                 std::strtoul(arguments[2], nullptr, 10),
                                 std::strtol(arguments[3], nullptr, 10));
}
