// SPDX-License-Identifier: Apache-2.0
/// Traps 22 and 23: what is read, by each of the ways in which a share reads, and how much at once.
#include <algorithm>
#include <array>
#include <cerrno>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "tests/fs/fs_traps.h"

namespace outrigger::testing {
namespace {

// --- 23 ----------------------------------------------------------------------------------------

/// What is not in the host's page cache is read by the kernel while nothing of ours waits: past the
/// cache only where a keeper waits for the end of what a killed process began.
class FsTrapCold : public FsTraps, public ::testing::WithParamInterface<bool> {
  protected:
    static constexpr size_t kSize = 300'000;  // no whole sectors

    void SetUp() override {
        serve({.arguments = {"--allow-direct-io"}, .keeper = GetParam()});
        text_.resize(kSize);
        for (size_t i = 0; i < kSize; ++i) {
            text_[i] = static_cast<char>('a' + i / 512 % 23 + i % 3);
        }
        node_ = create("f", text_).node;
    }

    uint64_t open(int flags) {
        return call(ask::open(node_, static_cast<uint32_t>(flags))).as<fuse_open_out>().fh;
    }

    void empty_cache() {
        const UniqueFd file(::open(in_share("f").c_str(), O_RDONLY | O_CLOEXEC));
        EXPECT_EQ(::fsync(file.get()), 0);
        EXPECT_EQ(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    }

    /// Into buffers of `room` bytes each, behind that of the header.
    FuseAnswer read_into(uint64_t fh, uint64_t offset, std::vector<uint32_t> room) {
        const uint32_t size = std::accumulate(room.begin(), room.end(), uint32_t{0});
        room.insert(room.begin(), sizeof(fuse_out_header));
        const std::array request = {
            bytes_of(ask::read(node_, fh, offset, size), guest().next_unique())};
        return guest().call_raw(request, room);
    }

    void expect_all_of_it(uint64_t fh) {
        const std::vector<uint32_t> pages(64, 4096);
        for (const size_t offset : {size_t{0}, size_t{4096}, size_t{262'144}, size_t{303'104}}) {
            empty_cache();
            const FuseAnswer got = read_into(fh, offset, pages);
            EXPECT_EQ(got.error(), 0) << offset;
            const std::string wanted =
                offset < kSize ? text_.substr(offset, pages.size() * 4096) : std::string();
            EXPECT_TRUE(got.text() == wanted) << offset;
            empty_cache();
            EXPECT_TRUE(read_into(fh, offset, {4096}).text() == wanted.substr(0, 4096)) << offset;
        }
    }

    uint64_t node_ = 0;
    std::string text_;
};

TEST_P(FsTrapCold, FsTrap23PastThePageCache) {
    const uint64_t fh = open(O_RDONLY | O_DIRECT);
    if (read_into(fh, 0, {4096}).error() == EINVAL) {
        GTEST_SKIP() << "no direct I/O here";
    }
    expect_all_of_it(fh);
    expect_alive();
}

TEST_P(FsTrapCold, FsTrap23IntoThePageCache) {
    expect_all_of_it(open(O_RDONLY));
    expect_alive();
}

TEST_P(FsTrapCold, FsTrap23AFileThatCannotBeRead) {
    const uint64_t fh = open(O_WRONLY | O_DIRECT);
    EXPECT_EQ(read_into(fh, 0, {4096}).error(), EBADF);
    const uint64_t cached = open(O_WRONLY);
    empty_cache();
    EXPECT_EQ(read_into(cached, 0, {4096}).error(), EBADF);
}

INSTANTIATE_TEST_SUITE_P(Keeper, FsTrapCold, ::testing::Bool(), [](const auto& row) {
    return row.param ? "with" : "without";
});

// --- 22 ----------------------------------------------------------------------------------------

class FsTrapSizes : public FsTraps {
  protected:
    /// That many bytes, another letter on each page.
    static std::string pages_of(size_t bytes) {
        std::string content(bytes, ' ');
        for (size_t i = 0; i < bytes; ++i) {
            content[i] = static_cast<char>('a' + i / 4096 % 23);
        }
        return content;
    }

    /// A READ from the file's beginning, whose answer has room for more than a slot of the guest's.
    FuseAnswer read_with_room(uint64_t node, uint64_t fh, uint32_t size, uint32_t room) {
        const Bytes request = bytes_of(ask::read(node, fh, 0, size), guest().next_unique());
        const auto readable_bytes = static_cast<uint32_t>(request.size());
        const uint32_t writable_bytes = uint32_t{sizeof(fuse_out_header)} + room;
        driver::GuestMemory& memory = guest().memory();
        const GuestAddr readable = memory.allocate(readable_bytes, 4096).value();
        const GuestAddr writable = memory.allocate(writable_bytes, 4096).value();
        std::ranges::copy(request, memory.data(readable, readable_bytes));
        const std::array<driver::Segment, 2> segments = {
            {{readable, readable_bytes, false}, {writable, writable_bytes, true}}};
        driver::DriverQueue& ring = guest().queue(FuseGuest::kFirst).ring();
        const auto done = ring.transact(segments, driver::after(kPatience));
        if (!done) {
            return {};
        }
        const std::span written(memory.data(writable, writable_bytes), done->length);
        return {.used = true, .length = done->length, .bytes = {written.begin(), written.end()}};
    }
};

/// INIT counts a READ in pages, which are 64 KiB with some guests; past their page cache they ask
/// for as many at a time.
TEST_F(FsTrapSizes, FsTrap22ReadsOfLargerPages) {
    constexpr uint32_t kBytes = uint32_t{2} << 20;
    serve();
    const std::string content = pages_of(kBytes);
    write_in_share("f", content);
    const uint64_t node = node_of("f");
    const uint64_t fh = call(ask::open(node, O_RDONLY)).as<fuse_open_out>().fh;
    const FuseAnswer whole = call(ask::read(node, fh, 0, kBytes));
    EXPECT_EQ(whole.error(), 0);
    EXPECT_TRUE(whole.text() == content);
    EXPECT_TRUE(call(ask::read(node, fh, kBytes / 4, kBytes)).text() == content.substr(kBytes / 4));
    expect_alive();
}

TEST_F(FsTrapSizes, FsTrap22DirectReadsOfLargerPages) {
    constexpr uint32_t kBytes = uint32_t{2} << 20;
    serve({.arguments = {"--allow-direct-io"}});
    const std::string content = pages_of(kBytes);
    write_in_share("f", content);
    const uint64_t node = node_of("f");
    const FuseAnswer opened = call(ask::open(node, O_RDONLY | O_DIRECT));
    if (opened.error() == EINVAL) {
        GTEST_SKIP() << "no direct I/O here";
    }
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    EXPECT_TRUE(call(ask::read(node, fh, 0, kBytes)).text() == content);
    EXPECT_TRUE(call(ask::read(node, fh, 4096, kBytes)).text() == content.substr(4096));
    expect_alive();
}

/// Sixteen megabytes: the most pages that INIT agrees on, of 64 KiB. Whatever room there is.
TEST_F(FsTrapSizes, FsTrap22NoReadIsLongerThanPagesAllow) {
    constexpr uint32_t kMost = uint32_t{16} << 20;
    serve();
    const std::string content = pages_of(kMost) + "one more";
    write_in_share("f", content);
    const uint64_t node = node_of("f");
    const uint64_t fh = call(ask::open(node, O_RDONLY)).as<fuse_open_out>().fh;
    const FuseAnswer most = read_with_room(node, fh, kMost, kMost + 1);
    EXPECT_EQ(most.error(), 0);
    EXPECT_TRUE(most.text() == content.substr(0, kMost));
    const FuseAnswer more = read_with_room(node, fh, kMost + 1, kMost + 1);
    EXPECT_EQ(more.error(), EINVAL);
    EXPECT_EQ(more.text(), "");
    expect_alive();
}

TEST_F(FsTrapSizes, FsTrap22NoListingIsLongerThanAMegabyte) {
    constexpr uint32_t kBytes = uint32_t{2} << 20;
    constexpr size_t kMegabyte = size_t{1} << 20;
    for (int i = 0; i < 6000; ++i) {
        write_in_share(std::string(200, 'n') + std::to_string(i), "");
    }
    serve();
    const uint64_t fh = call(ask::opendir(FUSE_ROOT_ID)).as<fuse_open_out>().fh;
    const FuseAnswer listed = call(ask::readdir(FUSE_ROOT_ID, fh, 0, kBytes));
    EXPECT_EQ(listed.error(), 0);
    EXPECT_LE(listed.text().size(), kMegabyte);
    EXPECT_GT(listed.text().size(), kMegabyte / 2);
    expect_alive();
}

}  // namespace
}  // namespace outrigger::testing
