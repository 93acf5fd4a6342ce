// SPDX-License-Identifier: Apache-2.0
// Files of a share that is mounted with DAX, or without. usage: map-files make|use|check DIRECTORY
// "make" and "check" are for the host, "use" is for the guest: it maps files, compares what they
// have, and changes some.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kReadBytes = size_t{16} << 20;
constexpr size_t kWrittenBytes = size_t{4} << 20;
constexpr size_t kSharedBytes = size_t{1} << 20;
constexpr std::string_view kBegin = "the beginning";

int failures = 0;

void expect(bool holds, const char* what) {
    if (!holds) {
        std::printf("%s: not so (%s)\n", what, std::strerror(errno));
        ++failures;
    }
}

uint64_t content_of(size_t page) {
    return 0x1122'3344'0000'0000 + page;
}

/// So many bytes, each page of which says which it is.
void make(const std::string& path, size_t bytes) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    std::vector<uint64_t> page(kPage / sizeof(uint64_t));
    for (size_t index = 0; index < bytes / kPage; ++index) {
        std::ranges::fill(page, content_of(index));
        expect(::write(fd, page.data(), kPage) == static_cast<ssize_t>(kPage), "write");
    }
    ::close(fd);
}

uint8_t* map(const std::string& path, size_t bytes, bool writable) {
    const int fd = ::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    void* const at =
        ::mmap(nullptr, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
    expect(fd >= 0 && at != MAP_FAILED, path.c_str());
    if (at == MAP_FAILED) {
        std::exit(1);
    }
    ::close(fd);
    return static_cast<uint8_t*>(at);
}

uint64_t first_word(const uint8_t* page) {
    uint64_t word = 0;
    std::memcpy(&word, page, sizeof word);
    return word;
}

long long now_us() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000LL + now.tv_nsec / 1000;
}

void use(const std::string& directory) {
    // Every page once: what a fault costs.
    const uint8_t* const read = map(directory + "/read", kReadBytes, false);
    const long long start = now_us();
    size_t wrong = 0;
    for (size_t page = 0; page < kReadBytes / kPage; ++page) {
        wrong += first_word(read + page * kPage) == content_of(page) ? 0U : 1U;
    }
    std::printf("READ-US %lld\n", now_us() - start);
    expect(wrong == 0, "what is read");
    // Written where it is mapped, and seen by read().
    uint8_t* const written = map(directory + "/written", kWrittenBytes, true);
    for (size_t page = 0; page < kWrittenBytes / kPage; ++page) {
        const uint64_t word = ~content_of(page);
        std::memcpy(written + page * kPage + 8, &word, sizeof word);
    }
    expect(::msync(written, kWrittenBytes, MS_SYNC) == 0, "msync");
    const int again = ::open((directory + "/written").c_str(), O_RDONLY | O_CLOEXEC);
    uint64_t word = 0;
    expect(::pread(again, &word, sizeof word, kPage + 8) == sizeof word && word == ~content_of(1),
           "what was written, read");
    // A file that becomes longer behind what is mapped of it.
    const int grows = ::open((directory + "/grows").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    expect(::write(grows, kBegin.data(), kBegin.size()) == static_cast<ssize_t>(kBegin.size()),
           "a short file");
    const uint8_t* const grown = map(directory + "/grows", 4 * kPage, false);
    expect(std::memcmp(grown, kBegin.data(), kBegin.size()) == 0, "the short file, mapped");
    std::array<uint8_t, 3 * kPage> more{};
    more.fill('x');
    expect(::pwrite(grows, more.data(), more.size(), kPage) == static_cast<ssize_t>(more.size()),
           "a longer file");
    expect(std::memcmp(grown + kPage, more.data(), more.size()) == 0, "the longer file, mapped");
    expect(::ftruncate(grows, static_cast<off_t>(2 * kPage)) == 0, "a shorter file");
    expect(grown[kPage] == 'x', "the shorter file, mapped");
    // One process reads what another one begins to write.
    const uint8_t* const seen = map(directory + "/shared", kSharedBytes, false);
    expect(first_word(seen) == content_of(0), "the shared file");
    const pid_t reader = ::fork();
    if (reader == 0) {
        for (long long until = now_us() + 10'000'000; now_us() < until;) {
            const uint64_t first = first_word(seen);
            if (first != content_of(0)) {
                ::_exit(first == 1 ? 0 : 2);
            }
        }
        ::_exit(3);
    }
    uint8_t* const shared = map(directory + "/shared", kSharedBytes, true);
    shared[kPage] = 1;
    const timespec moment{.tv_sec = 0, .tv_nsec = 50'000'000};
    ::nanosleep(&moment, nullptr);
    const uint64_t one = 1;
    std::memcpy(shared, &one, sizeof one);
    int status = -1;
    expect(::waitpid(reader, &status, 0) == reader && status == 0, "what a reader sees");
}

void check(const std::string& directory) {
    const uint8_t* const written = map(directory + "/written", kWrittenBytes, false);
    size_t wrong = 0;
    for (size_t page = 0; page < kWrittenBytes / kPage; ++page) {
        wrong += first_word(written + page * kPage) == content_of(page) ? 0U : 1U;
        wrong += first_word(written + page * kPage + 8) == ~content_of(page) ? 0U : 1U;
    }
    expect(wrong == 0, "what the guest has written");
    const uint8_t* const grown = map(directory + "/grows", 2 * kPage, false);
    expect(std::memcmp(grown, kBegin.data(), kBegin.size()) == 0 && grown[kPage] == 'x',
           "what the guest has made longer");
    expect(first_word(map(directory + "/shared", kSharedBytes, false)) == 1, "the shared file");
}

}  // namespace

int main(int argc, char** argv) {
    (void)std::setvbuf(stdout, nullptr, _IONBF, 0);
    const std::string_view what = argc == 3 ? argv[1] : "";
    const std::string directory = argc == 3 ? argv[2] : "";
    if (what == "make") {
        make(directory + "/read", kReadBytes);
        make(directory + "/written", kWrittenBytes);
        make(directory + "/shared", kSharedBytes);
    } else if (what == "use") {
        use(directory);
    } else if (what == "check") {
        check(directory);
    } else {
        std::fputs("usage: map-files make|use|check DIRECTORY\n", stderr);
        return 2;
    }
    std::printf("MAP-FILES %s %s\n", argv[1], failures == 0 ? "ok" : "failed");
    return failures == 0 ? 0 : 1;
}
