// SPDX-License-Identifier: Apache-2.0
/// Trap 30: what the host fails half way. A guest takes a short answer to READ for the end of the
/// file, and does not look how much of what its cache wrote back was taken.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/resource.h>

#include "tests/fs/fs_traps.h"

namespace outrigger::testing {
namespace {

constexpr size_t kGoodBytes = 8192;

class FsTrapBadReads : public FsTraps {
  protected:
    /// By a daemon whose reads fail as this variable says.
    void serve_with(const char* variable, const std::string& value) {
        const char* const module = std::getenv("OUTRIGGER_FAILING_READS");
        ASSERT_NE(module, nullptr) << "names what is preloaded";
        // Sanitizers want to be first, unless they are told.
        const char* const asan = std::getenv("ASAN_OPTIONS");
        const std::string before = asan != nullptr ? asan : "";
        ASSERT_EQ(::setenv("LD_PRELOAD", module, 1), 0);
        ASSERT_EQ(::setenv("ASAN_OPTIONS", (before + ":verify_asan_link_order=0").c_str(), 1), 0);
        ASSERT_EQ(::setenv(variable, value.c_str(), 1), 0);
        serve({.arguments = {"--allow-direct-io"}});
        ASSERT_EQ(::unsetenv("LD_PRELOAD"), 0);
        ASSERT_EQ(::unsetenv(variable), 0);
        ASSERT_EQ(asan != nullptr ? ::setenv("ASAN_OPTIONS", before.c_str(), 1)
                                  : ::unsetenv("ASAN_OPTIONS"),
                  0);
    }

    /// What is read of the file at `offset`.
    FuseAnswer read(uint64_t fh, uint64_t offset, uint32_t size) {
        return call(ask::read(file_.node, fh, offset, size));
    }

    OpenFile file_;
};

class FsTrapBadDisk : public FsTrapBadReads {
  protected:
    void SetUp() override {
        serve_with("OUTRIGGER_READS_FAIL_BEHIND", std::to_string(kGoodBytes));
        file_ = create("f", std::string(4 * kGoodBytes, 'x'));
    }

    void expect_errors(uint64_t fh) {
        EXPECT_EQ(read(fh, 0, kGoodBytes).text(), std::string(kGoodBytes, 'x'));
        EXPECT_EQ(read(fh, 0, 2 * kGoodBytes).error(), EIO);
        EXPECT_EQ(read(fh, kGoodBytes - 4096, kGoodBytes).error(), EIO);
        EXPECT_EQ(read(fh, kGoodBytes, 4096).error(), EIO);
    }
};

TEST_F(FsTrapBadDisk, FsTrap30ReadThatFailsHalfWayIsNotTheEnd) {
    expect_errors(file_.fh);
    expect_alive();
}

TEST_F(FsTrapBadDisk, FsTrap30PastThePageCache) {
    const FuseAnswer opened = call(ask::open(file_.node, O_RDONLY | O_DIRECT));
    ASSERT_EQ(opened.error(), 0);
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    if (read(fh, 0, 4096).error() == EINVAL) {
        GTEST_SKIP() << "no direct I/O here";
    }
    expect_errors(fh);
    expect_alive();
}

/// Some file systems do not say past the page cache that a file ends in the midst of a sector.
TEST_F(FsTrapBadReads, FsTrap30TheLastBytesOfAFilePastThePageCache) {
    serve_with("OUTRIGGER_READS_WANT_SECTORS", "1");
    file_ = create("f", std::string(5000, 'x'));
    const FuseAnswer opened = call(ask::open(file_.node, O_RDONLY | O_DIRECT));
    ASSERT_EQ(opened.error(), 0);
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    if (read(fh, 0, 4096).error() == EINVAL) {
        GTEST_SKIP() << "no direct I/O here";
    }
    EXPECT_EQ(read(fh, 0, 8192).text(), std::string(5000, 'x'));
    EXPECT_EQ(read(fh, 4096, 4096).text(), std::string(904, 'x'));
    EXPECT_EQ(read(fh, 100, 4096).error(), EINVAL) << "which is no end";
    expect_alive();
}

class FsTrapFullDisk : public FsTraps {
  protected:
    /// By a daemon whose files are no longer than kGoodBytes.
    void SetUp() override {
        serve({.arguments = {"--writeback", "--allow-direct-io"}});
        file_ = create("f");
        rlimit limit{};
        ASSERT_EQ(::prlimit(daemon().pid(), RLIMIT_FSIZE, nullptr, &limit), 0);
        limit.rlim_cur = kGoodBytes;
        ASSERT_EQ(::prlimit(daemon().pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
    }

    FuseAnswer write(uint64_t fh, uint32_t flags) {
        return call(ask::write(file_.node, fh, 0, std::string(2 * kGoodBytes, 'x'), flags));
    }

    OpenFile file_;
};

TEST_F(FsTrapFullDisk, FsTrap30WriteBackThatIsCutFails) {
    EXPECT_EQ(write(file_.fh, FUSE_WRITE_CACHE).error(), EFBIG);
    EXPECT_EQ(error_of(ask::write(file_.node, file_.fh, 0, "xyz", FUSE_WRITE_CACHE)), 0);
    expect_alive();
}

/// A program is told how much was written.
TEST_F(FsTrapFullDisk, FsTrap30OtherWritesAreShort) {
    const FuseAnswer answer = write(file_.fh, 0);
    EXPECT_EQ(answer.error(), 0);
    EXPECT_EQ(answer.as<fuse_write_out>().size, kGoodBytes);
    EXPECT_EQ(read_in_share("f"), std::string(kGoodBytes, 'x'));
}

TEST_F(FsTrapFullDisk, FsTrap30WriteBackPastThePageCache) {
    const FuseAnswer opened = call(ask::open(file_.node, O_RDWR | O_DIRECT));
    ASSERT_EQ(opened.error(), 0);
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    const FuseAnswer answer = write(fh, FUSE_WRITE_CACHE);
    if (answer.error() == EINVAL) {
        GTEST_SKIP() << "no direct I/O here";
    }
    EXPECT_EQ(answer.error(), EFBIG);
    expect_alive();
}

}  // namespace
}  // namespace outrigger::testing
