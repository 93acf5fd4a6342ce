// SPDX-License-Identifier: Apache-2.0
// The DAX window: what a guest maps is what the file has, and no request, however wrong, has the
// front end map what it should not. VIRTIO 1.3, 5.11.6.4.
#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/dax_frontend.h"
#include "tests/fs/fs_test.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kWindow = 8 * kMiB;
constexpr uint64_t kNoHandle = UINT64_MAX;
constexpr uint64_t kRead = FUSE_SETUPMAPPING_FLAG_READ;
constexpr uint64_t kWrite = FUSE_SETUPMAPPING_FLAG_READ | FUSE_SETUPMAPPING_FLAG_WRITE;

/// Pages that say which they are: "0000", "1111" and so on.
std::string pages(char first, int count) {
    std::string text;
    for (int page = 0; page < count; ++page) {
        text.append(kPage, static_cast<char>(first + page));
    }
    return text;
}

class FsDax : public FsTest {
  protected:
    ~FsDax() override {
        if (window_ != nullptr) {
            EXPECT_EQ(window_->faults(), std::vector<std::string>());
        }
    }

    void begin(std::vector<std::string> arguments = {},
               uint64_t init_flags = kInitFlagsOfLinux | FUSE_MAP_ALIGNMENT,
               bool keeper = false,
               uint16_t request_queues = 1) {
        arguments.emplace_back("--dax-window=8M");
        options_ = {.arguments = std::move(arguments),
                    .guest = {.request_queues = request_queues, .shared_memory = true},
                    .init_flags = init_flags,
                    .keeper = keeper};
        serve(options_);
        open_window();
    }

    void open_window() {
        const auto config = guest().frontend().get_shmem_config();
        ASSERT_TRUE(config.has_value());
        ASSERT_EQ(config->region_count, 1U);
        ASSERT_EQ(config->sizes[0], kWindow);
        auto channel = driver::ChannelEnd::open(guest().frontend());
        ASSERT_TRUE(channel.has_value());
        window_ = std::make_unique<DaxFrontend>(*std::move(channel), kWindow);
    }

    [[nodiscard]] static FuseRequest setup(uint64_t node,
                                           uint64_t window_offset,
                                           uint64_t bytes,
                                           uint64_t flags = kRead,
                                           uint64_t file_offset = 0,
                                           uint64_t fh = kNoHandle) {
        const fuse_setupmapping_in in = {.fh = fh,
                                         .foffset = file_offset,
                                         .len = bytes,
                                         .flags = flags,
                                         .moffset = window_offset};
        return {.opcode = FUSE_SETUPMAPPING, .nodeid = node, .arguments = FuseArguments().add(in)};
    }

    [[nodiscard]] static FuseRequest remove(uint64_t node,
                                            const std::vector<fuse_removemapping_one>& ones) {
        FuseArguments arguments;
        arguments.add(fuse_removemapping_in{.count = static_cast<uint32_t>(ones.size())});
        for (const auto& one : ones) {
            arguments.add(one);
        }
        return {.opcode = FUSE_REMOVEMAPPING, .nodeid = node, .arguments = arguments};
    }

    /// A file of so many pages, from '0' on, that nobody has open.
    uint64_t file_of(int count, std::string_view name = "f") {
        write_in_share(name, pages('0', count));
        return node_of(name);
    }

    using Mapped = std::map<uint64_t, uint64_t>;

    Options options_;
    std::unique_ptr<DaxFrontend> window_;
};

TEST_F(FsDax, WhatIsMappedIsWhatTheFileHas) {
    begin();
    const uint64_t node = file_of(4);
    ASSERT_EQ(error_of(setup(node, kMiB, 2 * kPage, kWrite, kPage)), 0);
    EXPECT_EQ(window_->read(kMiB, 2 * kPage), pages('1', 2));
    window_->write(kMiB + kPage, "by the guest");
    EXPECT_EQ(read_in_share("f").substr(2 * kPage, 12), "by the guest");
    // And the other way, whoever writes.
    const auto opened = call(ask::open(node, O_RDWR)).as<fuse_open_out>();
    ASSERT_EQ(error_of(ask::write(node, opened.fh, kPage, "by WRITE")), 0);
    EXPECT_EQ(window_->read(kMiB, 8), "by WRITE");
    ASSERT_EQ(error_of(remove(node, {{.moffset = kMiB, .len = 2 * kPage}})), 0);
    EXPECT_EQ(window_->mapped(), Mapped());
    EXPECT_EQ(error_of(remove(node, {{.moffset = kMiB, .len = 2 * kPage}})), 0);
}

TEST_F(FsDax, InitSaysWhatMappingsAreAlignedTo) {
    begin();
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = 45;
    in.flags = static_cast<uint32_t>(FUSE_MAP_ALIGNMENT | FUSE_INIT_EXT);
    const FuseAnswer answer = call({.opcode = FUSE_INIT,
                                    .nodeid = 0,
                                    .arguments = FuseArguments().add(in),
                                    .room = sizeof(fuse_init_out)});
    const auto out = answer.as<fuse_init_out>();
    EXPECT_NE(out.flags & FUSE_MAP_ALIGNMENT, 0U);
    EXPECT_EQ(uint64_t{1} << out.map_alignment, kPage);
}

TEST_F(FsDax, WithoutAWindowThereIsNone) {
    serve({.guest = {.shared_memory = true}, .init_flags = kInitFlagsOfLinux | FUSE_MAP_ALIGNMENT});
    EXPECT_EQ(guest().init_flags() & (FUSE_MAP_ALIGNMENT | FUSE_HAS_INODE_DAX), 0U);
    EXPECT_EQ(error_of(setup(file_of(1), 0, kPage)), ENOSYS);
}

TEST_F(FsDax, ADriverThatDidNotAskForItHasNoWindow) {
    begin({}, kInitFlagsOfLinux);
    const uint64_t node = file_of(1);
    EXPECT_EQ(error_of(setup(node, 0, kPage)), ENOSYS);
    EXPECT_EQ(error_of(remove(node, {{.moffset = 0, .len = kPage}})), ENOSYS);
}

TEST_F(FsDax, WithAFrontEndThatMapsNothingReadsGoOn) {
    serve({.arguments = {"--dax-window=8M"}, .init_flags = kInitFlagsOfLinux | FUSE_MAP_ALIGNMENT});
    const OpenFile file = create("f", "content");
    EXPECT_EQ(error_of(setup(file.node, 0, kPage)), EOPNOTSUPP);
    EXPECT_EQ(call(ask::read(file.node, file.fh, 0, 7)).text(), "content");
}

TEST_F(FsDax, WhatIsMappedOutsideOrOutOfStepIsRefused) {
    begin();
    const uint64_t node = file_of(2);
    const auto error = [&](uint64_t window_offset, uint64_t bytes, uint64_t file_offset = 0) {
        return error_of(setup(node, window_offset, bytes, kRead, file_offset));
    };
    EXPECT_EQ(error(0, 0), EINVAL);
    EXPECT_EQ(error(0, kPage - 1), EINVAL);
    EXPECT_EQ(error(0, kPage + 1), EINVAL);
    EXPECT_EQ(error(1, kPage), EINVAL);
    EXPECT_EQ(error(0, kPage, 1), EINVAL);
    EXPECT_EQ(error(kWindow, kPage), EINVAL);
    EXPECT_EQ(error(kWindow - kPage, 2 * kPage), EINVAL);
    EXPECT_EQ(error(0, kWindow + kPage), EINVAL);
    EXPECT_EQ(error(~uint64_t{kPage - 1}, 2 * kPage), EINVAL);
    EXPECT_EQ(error(kPage, ~uint64_t{kPage - 1}), EINVAL);
    EXPECT_EQ(error(0, kPage, uint64_t{1} << 63), EINVAL);
    EXPECT_EQ(error(0, 2 * kPage, (uint64_t{1} << 63) - kPage), EINVAL);
    EXPECT_EQ(window_->asked().size(), 0U);
    EXPECT_EQ(error(kWindow - kPage, kPage), 0);
}

TEST_F(FsDax, FlagsSayReadOrWriteAndNothingElse) {
    begin();
    const uint64_t node = file_of(1);
    EXPECT_EQ(error_of(setup(node, 0, kPage, 0)), EINVAL);
    EXPECT_EQ(error_of(setup(node, 0, kPage, kWrite | 4)), EINVAL);
    EXPECT_EQ(error_of(setup(node, 0, kPage, uint64_t{1} << 63)), EINVAL);
    EXPECT_EQ(window_->asked().size(), 0U);
    FuseRequest request = setup(node, 0, kPage);
    request.arguments.pop_back();
    EXPECT_EQ(error_of(request), EINVAL);
    request = setup(node, 0, kPage);
    request.arguments.push_back(std::byte{0});
    EXPECT_EQ(error_of(request), EINVAL);
}

TEST_F(FsDax, NodesAndHandlesThatAreMadeUpMapNothing) {
    begin();
    const uint64_t node = file_of(1);
    EXPECT_EQ(error_of(setup(node + 1000, 0, kPage)), ESTALE);
    EXPECT_EQ(error_of(setup(node + (uint64_t{1} << 32), 0, kPage)), ESTALE);
    EXPECT_EQ(error_of(setup(0, 0, kPage)), ESTALE);
    EXPECT_EQ(error_of(setup(node, 0, kPage, kRead, 0, 12345)), EBADF);
    const OpenFile other = create("other", "x");
    EXPECT_EQ(error_of(setup(node, 0, kPage, kRead, 0, other.fh)), EBADF);
    EXPECT_EQ(error_of(setup(FUSE_ROOT_ID, 0, kPage)), EISDIR);
    EXPECT_EQ(window_->asked().size(), 0U);
}

TEST_F(FsDax, WhatIsNoRegularFileIsNeverMapped) {
    begin();
    for (const uint32_t type : {uint32_t{S_IFIFO}, uint32_t{S_IFSOCK}}) {
        ASSERT_EQ(error_of(ask::mknod(FUSE_ROOT_ID, "special", type | 0666)), 0);
        EXPECT_EQ(error_of(setup(node_of("special"), 0, kPage, kWrite)), ENODEV);
        ASSERT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "special")), 0);
    }
    ASSERT_EQ(error_of(ask::symlink(FUSE_ROOT_ID, "link", "/etc/passwd")), 0);
    EXPECT_EQ(error_of(setup(node_of("link"), 0, kPage)), ENODEV);
    EXPECT_EQ(window_->asked().size(), 0U);
}

TEST_F(FsDax, ADescriptorHasNoMoreRightsThanTheHandle) {
    begin();
    const uint64_t node = file_of(1);
    const auto handle = [&](uint32_t flags) {
        return call(ask::open(node, flags)).as<fuse_open_out>().fh;
    };
    const uint64_t reads = handle(O_RDONLY);
    const uint64_t writes = handle(O_WRONLY);
    const uint64_t both = handle(O_RDWR);
    EXPECT_EQ(error_of(setup(node, 0, kPage, kWrite, 0, reads)), EACCES);
    EXPECT_EQ(error_of(setup(node, 0, kPage, kWrite, 0, writes)), EACCES);
    EXPECT_EQ(error_of(setup(node, 0, kPage, kRead, 0, writes)), EACCES);
    EXPECT_EQ(window_->asked().size(), 0U);
    EXPECT_EQ(error_of(setup(node, 0, kPage, kRead, 0, reads)), 0);
    EXPECT_EQ(window_->asked().back().access, O_RDONLY);
    EXPECT_FALSE(window_->asked().back().writable);
    EXPECT_EQ(error_of(setup(node, kPage, kPage, kRead, 0, both)), 0);
    EXPECT_EQ(window_->asked().back().access, O_RDONLY);
    EXPECT_EQ(error_of(setup(node, 2 * kPage, kPage, kWrite, 0, both)), 0);
    EXPECT_EQ(window_->asked().back().access, O_RDWR);
    EXPECT_TRUE(window_->asked().back().writable);
}

// Linux names no handle. What is open for writing is about to be written.
TEST_F(FsDax, AFileThatIsOpenForWritingIsMappedForItAtOnce) {
    begin();
    const uint64_t node = file_of(1);
    ASSERT_EQ(error_of(setup(node, 0, kPage)), 0);
    EXPECT_FALSE(window_->asked().back().writable);
    EXPECT_EQ(window_->asked().back().access, O_RDONLY);
    const uint64_t fh = call(ask::open(node, O_RDWR)).as<fuse_open_out>().fh;
    ASSERT_EQ(error_of(setup(node, kPage, kPage)), 0);
    EXPECT_TRUE(window_->asked().back().writable);
    const size_t asked = window_->asked().size();
    ASSERT_EQ(error_of(setup(node, kPage, kPage, kWrite)), 0);
    EXPECT_EQ(window_->asked().size(), asked) << "it was there";
    ASSERT_EQ(error_of(ask::release(node, fh)), 0);
    ASSERT_EQ(error_of(setup(node, 2 * kPage, kPage)), 0);
    EXPECT_FALSE(window_->asked().back().writable);
}

TEST_F(FsDax, AReadOnlyShareIsMappedToRead) {
    write_in_share("f", pages('0', 1));
    begin({"--readonly"});
    const uint64_t node = node_of("f");
    EXPECT_EQ(error_of(setup(node, 0, kPage, kWrite)), EROFS);
    EXPECT_EQ(error_of(setup(node, 0, kPage)), 0);
    EXPECT_EQ(window_->asked().back().access, O_RDONLY);
    EXPECT_EQ(window_->read(0, kPage), pages('0', 1));
}

// "When a FUSE_SETUPMAPPING request perfectly overlaps a previous mapping, the previous mapping is
// replaced."
TEST_F(FsDax, AMappingReplacesWhatWasThere) {
    begin();
    const uint64_t node = file_of(4);
    ASSERT_EQ(error_of(setup(node, 0, 2 * kPage)), 0);
    ASSERT_EQ(error_of(setup(node, 0, 2 * kPage, kRead, 2 * kPage)), 0);
    EXPECT_EQ(window_->read(0, 2 * kPage), pages('2', 2));
    EXPECT_EQ(window_->mapped(), (Mapped{{0, 2 * kPage}}));
    // As Linux does when a page is written that it has mapped to read.
    ASSERT_EQ(error_of(setup(node, 0, 2 * kPage, kWrite, 2 * kPage)), 0);
    EXPECT_TRUE(window_->asked().back().writable);
    // What is there already is not asked for again.
    const size_t asked = window_->asked().size();
    ASSERT_EQ(error_of(setup(node, 0, 2 * kPage, kRead, 2 * kPage)), 0);
    EXPECT_EQ(window_->asked().size(), asked);
}

// "When a mapping partially overlaps a previous mapping, the previous mapping is split into one or
// two smaller mappings."
TEST_F(FsDax, AMappingSplitsWhatItTouches) {
    begin();
    const uint64_t node = file_of(8);
    ASSERT_EQ(error_of(setup(node, 0, 4 * kPage)), 0);
    ASSERT_EQ(error_of(setup(node, 4 * kPage, 4 * kPage, kRead, 4 * kPage)), 0);
    ASSERT_EQ(error_of(setup(node, 3 * kPage, 2 * kPage, kRead, 0)), 0);
    EXPECT_EQ(window_->read(0, 8 * kPage), pages('0', 3) + pages('0', 2) + pages('5', 3));
    ASSERT_EQ(error_of(setup(node, kPage, kPage, kWrite, 7 * kPage)), 0);
    EXPECT_EQ(window_->read(0, 3 * kPage), pages('0', 1) + pages('7', 1) + pages('2', 1));
    EXPECT_EQ(window_->mapped(),
              (Mapped{{0, kPage},
                      {kPage, kPage},
                      {2 * kPage, kPage},
                      {3 * kPage, 2 * kPage},
                      {5 * kPage, 3 * kPage}}));
}

// "When a mapping is partially unmapped it is also split into one or two smaller mappings."
TEST_F(FsDax, ARemovalSplitsWhatItTouches) {
    begin();
    const uint64_t node = file_of(8);
    ASSERT_EQ(error_of(setup(node, 0, 8 * kPage)), 0);
    ASSERT_EQ(error_of(remove(node,
                              {{.moffset = 6 * kPage, .len = 4 * kPage},
                               {.moffset = kPage, .len = kPage},
                               {.moffset = kPage, .len = kPage},
                               {.moffset = 3 * kPage, .len = kPage}})),
              0);
    EXPECT_EQ(window_->mapped(), (Mapped{{0, kPage}, {2 * kPage, kPage}, {4 * kPage, 2 * kPage}}));
    EXPECT_EQ(window_->read(0, kPage), pages('0', 1));
    EXPECT_EQ(window_->read(2 * kPage, kPage), pages('2', 1));
    EXPECT_EQ(window_->read(4 * kPage, 2 * kPage), pages('4', 2));
}

TEST_F(FsDax, RemovalsSayHowManyTheyAre) {
    begin();
    const uint64_t node = file_of(1);
    ASSERT_EQ(error_of(setup(node, 0, kPage)), 0);
    EXPECT_EQ(error_of(remove(node, {})), EINVAL);
    const auto counted = [&](uint32_t count, int ones) {
        FuseArguments arguments;
        arguments.add(fuse_removemapping_in{.count = count});
        for (int i = 0; i < ones; ++i) {
            arguments.add(fuse_removemapping_one{.moffset = 0, .len = kPage});
        }
        return error_of({.opcode = FUSE_REMOVEMAPPING, .nodeid = node, .arguments = arguments});
    };
    EXPECT_EQ(counted(2, 1), EINVAL);
    EXPECT_EQ(counted(1, 2), EINVAL);
    EXPECT_EQ(counted(UINT32_MAX, 1), EINVAL);
    EXPECT_EQ(counted(0x1000'0001, 1), EINVAL);  // times 16 it is 16
    EXPECT_EQ(error_of(remove(node, {{.moffset = 0, .len = 0}})), EINVAL);
    EXPECT_EQ(error_of(remove(node, {{.moffset = 1, .len = kPage}})), EINVAL);
    EXPECT_EQ(error_of(remove(node, {{.moffset = 0, .len = UINT64_MAX}})), EINVAL);
    EXPECT_EQ(
        error_of(remove(node, {{.moffset = 0, .len = kPage}, {.moffset = kWindow, .len = kPage}})),
        EINVAL);
    EXPECT_EQ(window_->mapped(), (Mapped{{0, kPage}})) << "all or nothing";
    EXPECT_EQ(counted(256, 256), 0);
    EXPECT_EQ(window_->mapped(), Mapped());
}

TEST_F(FsDax, WhatTheFrontEndRefusesLeavesWhatWasThere) {
    begin();
    const uint64_t node = file_of(8);
    ASSERT_EQ(error_of(setup(node, 0, 4 * kPage)), 0);
    window_->refuse_maps(1);
    EXPECT_EQ(error_of(setup(node, 0, 4 * kPage, kWrite)), EIO);
    EXPECT_EQ(window_->read(0, 4 * kPage), pages('0', 4));
    window_->refuse_maps(1);
    EXPECT_EQ(error_of(setup(node, kPage, kPage, kRead, 7 * kPage)), EIO);
    EXPECT_EQ(window_->read(0, 4 * kPage), pages('0', 4));
    EXPECT_EQ(error_of(setup(node, kPage, kPage, kRead, 7 * kPage)), 0);
    EXPECT_EQ(window_->read(0, 4 * kPage), pages('0', 1) + pages('7', 1) + pages('2', 2));
    window_->refuse_maps(1);
    EXPECT_EQ(error_of(setup(node, 4 * kPage, kPage)), EIO);
    EXPECT_EQ(error_of(setup(node, 4 * kPage, kPage)), 0);
}

// A node that was forgotten has no number any more, and what is mapped of it goes on.
TEST_F(FsDax, AFileThatWasForgottenStaysMapped) {
    begin();
    const uint64_t node = file_of(4);
    ASSERT_EQ(error_of(setup(node, 0, 4 * kPage)), 0);
    (void)guest().call(ask::forget(node, 1), FuseGuest::kHighPriority);
    EXPECT_TRUE(eventually([&] { return error_of(ask::getattr(node)) == ESTALE; }));
    ASSERT_EQ(::unlink(in_share("f").c_str()), 0);
    EXPECT_EQ(error_of(remove(node, {{.moffset = kPage, .len = kPage}})), 0);
    EXPECT_EQ(window_->read(2 * kPage, 2 * kPage), pages('2', 2));
    EXPECT_EQ(window_->mapped(), (Mapped{{0, kPage}, {2 * kPage, 2 * kPage}}));
}

TEST_F(FsDax, DestroyAndInitRemoveEverything) {
    begin();
    uint64_t node = file_of(4);
    ASSERT_EQ(error_of(setup(node, 0, kPage)), 0);
    ASSERT_EQ(error_of(setup(node, kMiB, kPage)), 0);
    ASSERT_EQ(error_of(ask::destroy()), 0);
    EXPECT_TRUE(eventually([&] { return window_->mapped().empty(); }));
    ASSERT_EQ(guest().init(options_.init_flags).error(), 0);
    node = node_of("f");
    ASSERT_EQ(error_of(setup(node, 0, kPage)), 0);
    ASSERT_EQ(guest().init(options_.init_flags).error(), 0);
    node = node_of("f");
    // What comes behind it waits for the removal.
    ASSERT_EQ(error_of(setup(node, 0, 2 * kPage)), 0);
    EXPECT_EQ(window_->mapped(), (Mapped{{0, 2 * kPage}}));
}

TEST_F(FsDax, DescriptorsAreGivenBack) {
    begin();
    const uint64_t node = file_of(4);
    const auto open_count = [&] {
        return std::distance(
            std::filesystem::directory_iterator("/proc/" + std::to_string(daemon().pid()) + "/fd"),
            std::filesystem::directory_iterator());
    };
    const auto before = open_count();
    for (uint64_t page = 0; page < 100; ++page) {
        ASSERT_EQ(error_of(setup(node, 2 * page * kPage, kPage)), 0);
    }
    EXPECT_EQ(open_count(), before + 100);
    ASSERT_EQ(error_of(remove(node, {{.moffset = 0, .len = kWindow}})), 0);
    EXPECT_TRUE(eventually([&] { return open_count() == before; }));
}

// --- A front end that does not answer ---------------------------------------------------------

TEST_F(FsDax, AFrontEndThatIsSilentHoldsUpNobodyElse) {
    begin({}, kInitFlagsOfLinux | FUSE_MAP_ALIGNMENT, false, 2);
    const uint64_t node = file_of(2);
    window_->fall_silent();
    std::vector<size_t> slots;
    for (uint64_t page = 0; page < 10; ++page) {
        const auto slot = guest().submit(setup(node, 2 * page * kPage, kPage));
        ASSERT_TRUE(slot);
        slots.push_back(*slot);
    }
    expect_alive();  // on the same queue
    EXPECT_EQ(guest().call(ask::getattr(node), FuseGuest::kFirst + 1).error(), 0);
    // Nor the threads that may wait.
    const OpenFile file = create("g", "x");
    EXPECT_EQ(error_of(ask::fsync(file.node, file.fh)), 0);
    window_->speak_again();
    for (const size_t slot : slots) {
        EXPECT_EQ(guest().wait(slot).error(), 0);
    }
}

// A front end may wait for GET_VRING_BASE and look at nothing else meanwhile.
TEST_F(FsDax, AQueueStopsAlthoughTheFrontEndIsSilent) {
    begin();
    const uint64_t node = file_of(2);
    window_->fall_silent();
    const auto slot = guest().submit(setup(node, 0, kPage));
    ASSERT_TRUE(slot);
    expect_alive();
    const auto began = std::chrono::steady_clock::now();
    ASSERT_TRUE(guest().queue(FuseGuest::kFirst).ring().stop(guest().frontend()).has_value());
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
    EXPECT_EQ(guest().wait(*slot).error(), EIO);
    window_->speak_again();
}

// --- Another process -------------------------------------------------------------------------

TEST_F(FsDax, MappingsOutliveTheProcess) {
    begin({}, kInitFlagsOfLinux | FUSE_MAP_ALIGNMENT, true);
    const uint64_t node = file_of(8);
    ASSERT_EQ(error_of(setup(node, 0, 4 * kPage, kWrite)), 0);
    ASSERT_EQ(error_of(setup(node, 4 * kPage, 4 * kPage)), 0);
    kill();
    expect_alive();
    EXPECT_EQ(window_->read(0, 4 * kPage), pages('0', 4));
    const size_t asked = window_->asked().size();
    ASSERT_EQ(error_of(setup(node, 0, 4 * kPage)), 0);
    EXPECT_EQ(window_->asked().size(), asked) << "the next process knows it";
    // Replaced, split and removed as if it were its own.
    ASSERT_EQ(error_of(setup(node, kPage, kPage, kRead, 7 * kPage)), 0);
    EXPECT_EQ(window_->read(0, 4 * kPage), pages('0', 1) + pages('7', 1) + pages('2', 2));
    kill();
    ASSERT_EQ(error_of(remove(node, {{.moffset = 0, .len = kWindow}})), 0);
    EXPECT_EQ(window_->mapped(), Mapped());
}

TEST_F(FsDax, WhatAKilledProcessHadAskedForIsDoneOnce) {
    begin({}, kInitFlagsOfLinux | FUSE_MAP_ALIGNMENT, true);
    const uint64_t node = file_of(8);
    ASSERT_EQ(error_of(setup(node, 4 * kPage, 2 * kPage)), 0);
    window_->fall_silent();
    const auto maps = guest().submit(setup(node, 0, 2 * kPage));
    const auto removes = guest().submit(remove(node, {{.moffset = 4 * kPage, .len = 2 * kPage}}));
    ASSERT_TRUE(maps && removes);
    expect_alive();
    kill();
    window_->allow_vain_removals();
    window_->speak_again();
    EXPECT_EQ(guest().wait(*maps).error(), 0) << daemon().complained();
    EXPECT_EQ(guest().wait(*removes).error(), 0);
    EXPECT_EQ(window_->mapped(), (Mapped{{0, 2 * kPage}}));
    EXPECT_EQ(window_->read(0, 2 * kPage), pages('0', 2));
}

TEST_F(FsDax, AGuestThatUsesAWindowDoesNotMove) {
    begin();
    EXPECT_EQ(guest().leave(), std::nullopt);
    ASSERT_TRUE(guest().stay());
    expect_alive();
}

// --- Per-file DAX ----------------------------------------------------------------------------

TEST_F(FsDax, AGuestThatLeavesTheChoiceToUsMapsFilesOfThatSize) {
    begin({"--dax-file-size=8K"});
    EXPECT_NE(guest().init_flags() & FUSE_HAS_INODE_DAX, 0U);
    std::filesystem::create_directory(in_share("directory"));
    (void)file_of(2, "long");
    (void)file_of(1, "short");
    const auto flags = [&](std::string_view name) {
        return call(ask::lookup(FUSE_ROOT_ID, name)).as<fuse_entry_out>().attr.flags &
               FUSE_ATTR_DAX;
    };
    EXPECT_NE(flags("long"), 0U);
    EXPECT_EQ(flags("short"), 0U);
    EXPECT_EQ(flags("directory"), 0U);
    EXPECT_NE(call(ask::getattr(node_of("long"))).as<fuse_attr_out>().attr.flags & FUSE_ATTR_DAX,
              0U);
}

TEST_F(FsDax, AGuestThatDoesNotLeaveItToUsIsToldNothing) {
    begin({}, (kInitFlagsOfLinux & ~FUSE_HAS_INODE_DAX) | FUSE_MAP_ALIGNMENT);
    (void)file_of(1);
    EXPECT_EQ(call(ask::lookup(FUSE_ROOT_ID, "f")).as<fuse_entry_out>().attr.flags, 0U);
}

}  // namespace
}  // namespace outrigger::testing
