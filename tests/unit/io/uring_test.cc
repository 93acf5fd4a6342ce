// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/uring.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/uring_tables.h"
#include "vhost-user-backend/io/uring_witness.h"

namespace outrigger {
namespace {

constexpr auto kNever = EventLoop::Clock::time_point::max();
constexpr auto kNoSleep = EventLoop::Clock::time_point::min();

struct RecordingOperation final : UringOperation {
    void on_complete(int32_t value, uint32_t) override {
        result = value;
        ++completions;
    }

    std::optional<int32_t> result;
    int completions = 0;
};

class UringTest : public testing::Test {
  protected:
    void SetUp() override {
        auto loop = create_event_loop(LoopKind::kUring);
        if (!loop) {
            GTEST_SKIP() << loop.error().message;
        }
        loop_ = *std::move(loop);
        uring_ = loop_->uring();
        ASSERT_NE(uring_, nullptr);
    }

    void wait_for(const RecordingOperation& operation) {
        while (!operation.result) {
            (void)loop_->run_once(kNever);
        }
    }

    std::unique_ptr<EventLoop> loop_;
    Uring* uring_ = nullptr;
};

TEST(UringOfAsio, IsAbsent) {
    auto loop = create_event_loop(LoopKind::kAsio);
    ASSERT_TRUE(loop);

    EXPECT_EQ((*loop)->uring(), nullptr);
}

TEST_F(UringTest, ReadsAFile) {
    std::string path = testing::TempDir() + "uring-read-XXXXXX";
    const UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
    ASSERT_TRUE(file.valid());
    ::unlink(path.c_str());
    ASSERT_EQ(::pwrite(file.get(), "0123456789", 10, 0), 10);
    std::array<char, 4> out{};
    RecordingOperation operation;
    io_uring_sqe* const sqe = uring_->next_sqe();
    ASSERT_NE(sqe, nullptr);
    io_uring_prep_read(sqe, file.get(), out.data(), out.size(), 3);
    uring_->bind(sqe, operation);

    wait_for(operation);

    EXPECT_EQ(operation.result, 4);
    EXPECT_EQ(std::string_view(out.data(), out.size()), "3456");
}

TEST_F(UringTest, ReportsAnErrorAsNegativeErrno) {
    char byte = 0;
    RecordingOperation operation;
    io_uring_sqe* const sqe = uring_->next_sqe();
    ASSERT_NE(sqe, nullptr);
    io_uring_prep_read(sqe, -1, &byte, 1, 0);
    uring_->bind(sqe, operation);

    wait_for(operation);

    EXPECT_EQ(operation.result, -EBADF);
}

TEST_F(UringTest, NothingReachesTheKernelBeforeTheTurn) {
    RecordingOperation operation;
    io_uring_sqe* const sqe = uring_->next_sqe();
    ASSERT_NE(sqe, nullptr);
    io_uring_prep_nop(sqe);
    uring_->bind(sqe, operation);
    EXPECT_EQ(operation.completions, 0);

    (void)loop_->run_once(kNoSleep);

    EXPECT_EQ(operation.completions, 1);
}

TEST_F(UringTest, FloodAboveTheQueueSizesCompletesEachOnce) {
    // Above the submission queue (1024) and the completion queue (4096).
    std::vector<RecordingOperation> operations(10'000);
    for (RecordingOperation& operation : operations) {
        io_uring_sqe* const sqe = uring_->next_sqe();
        ASSERT_NE(sqe, nullptr);
        io_uring_prep_nop(sqe);
        uring_->bind(sqe, operation);
    }

    const auto missing = [&] {
        return std::ranges::any_of(operations, [](auto& each) { return each.completions == 0; });
    };
    while (missing()) {
        (void)loop_->run_once(kNever);
    }
    (void)loop_->run_once(kNoSleep);

    EXPECT_TRUE(std::ranges::all_of(operations, [](auto& each) { return each.completions == 1; }));
}

TEST_F(UringTest, OperationsStartedByACompletionRun) {
    struct Chain final : UringOperation {
        explicit Chain(Uring& ring) : uring(ring) {}

        void start() {
            io_uring_sqe* const sqe = uring.next_sqe();
            ASSERT_NE(sqe, nullptr);
            io_uring_prep_nop(sqe);
            uring.bind(sqe, *this);
        }

        void on_complete(int32_t, uint32_t) override {
            if (++completions < 5000) {
                start();
            }
        }

        Uring& uring;
        int completions = 0;
    };

    Chain chain(*uring_);
    chain.start();

    while (chain.completions < 5000) {
        (void)loop_->run_once(kNever);
    }
}

TEST_F(UringTest, PostedTasksRunAmidAFlood) {
    struct Endless final : UringOperation {
        void start(Uring& uring) {
            ring = &uring;
            io_uring_sqe* const sqe = uring.next_sqe();
            ASSERT_NE(sqe, nullptr);
            io_uring_prep_nop(sqe);
            uring.bind(sqe, *this);
        }

        void on_complete(int32_t, uint32_t) override {
            if (!stop) {
                start(*ring);
            }
        }

        Uring* ring = nullptr;
        bool stop = false;
    };

    Endless endless;
    endless.start(*uring_);
    loop_->post([&] { loop_->post([&] { endless.stop = true; }); });

    while (!endless.stop) {
        (void)loop_->run_once(kNoSleep);
    }
    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_FALSE(loop_->run_once(kNoSleep));
}

TEST_F(UringTest, DestructionWaitsForOperationsAndTellsTheirOwners) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd read_end(ends[0]);
    const UniqueFd write_end(ends[1]);
    auto buffer = std::make_unique<std::array<char, 64>>();
    RecordingOperation operation;
    io_uring_sqe* const sqe = uring_->next_sqe();
    ASSERT_NE(sqe, nullptr);
    io_uring_prep_read(sqe, read_end.get(), buffer->data(), 64, 0);
    uring_->bind(sqe, operation);
    (void)loop_->run_once(kNoSleep);
    ASSERT_EQ(operation.completions, 0);

    loop_.reset();
    buffer.reset();

    EXPECT_EQ(operation.completions, 1);
    EXPECT_LT(operation.result.value_or(0), 0);
}

// --- Submitting early, and registrations -------------------------------------------------------

/// A pipe, whose ends tell what the kernel has done and what it holds.
struct Pipe {
    Pipe() {
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
        reader = UniqueFd(ends[0]);
        writer = UniqueFd(ends[1]);
    }

    /// What a read of one byte gives: 1, 0 when no writer is left, or -1 when there is nothing.
    [[nodiscard]] ssize_t read_byte() const {
        char byte = 0;
        return ::read(reader.get(), &byte, 1);
    }

    /// The same, when there is something or the last writer has gone.
    [[nodiscard]] ssize_t wait_for_byte() const {
        pollfd end{.fd = reader.get(), .events = POLLIN, .revents = 0};
        return ::poll(&end, 1, 10'000) == 1 ? read_byte() : -1;
    }

    UniqueFd reader;
    UniqueFd writer;
};

/// Reads four bytes of the file in the slot.
int32_t read_of_slot(EventLoop& loop, uint32_t slot) {
    std::array<char, 4> out{};
    RecordingOperation operation;
    io_uring_sqe* const sqe = loop.uring()->next_sqe();
    io_uring_prep_read(sqe, static_cast<int>(slot), out.data(), out.size(), 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    loop.uring()->bind(sqe, operation);
    while (!operation.result) {
        (void)loop.run_once(kNever);
    }
    return *operation.result;
}

class UringTablesTest : public UringTest {
  protected:
    void SetUp() override {
        UringTest::SetUp();
        if (uring_ == nullptr) {
            return;
        }
        const auto slot = uring_->register_file(zero_.get());
        if (!slot) {
            GTEST_SKIP() << "the kernel has no empty tables";
        }
        uring_->unregister_file(*slot);
    }

    /// Reads a page by IORING_OP_READ_FIXED.
    int32_t read_page(uint32_t slot, std::span<std::byte> page) {
        RecordingOperation operation;
        io_uring_sqe* const sqe = uring_->next_sqe();
        io_uring_prep_read_fixed(sqe,
                                 zero_.get(),
                                 page.data(),
                                 static_cast<unsigned>(page.size()),
                                 0,
                                 static_cast<int>(slot));
        uring_->bind(sqe, operation);
        wait_for(operation);
        return *operation.result;
    }

    UniqueFd zero_{::open("/dev/zero", O_RDONLY | O_CLOEXEC)};
    alignas(4096) std::array<std::byte, 8192> memory_{};
};

TEST_F(UringTablesTest, FileIsReadBySlot) {
    const auto slot = uring_->register_file(zero_.get());
    ASSERT_TRUE(slot);
    zero_.reset();
    EXPECT_EQ(read_of_slot(*loop_, *slot), 4);
}

TEST_F(UringTablesTest, SlotThatWasGivenBackReadsNothing) {
    const auto slot = uring_->register_file(zero_.get());
    ASSERT_TRUE(slot);
    uring_->unregister_file(*slot);
    EXPECT_EQ(read_of_slot(*loop_, *slot), -EBADF);
}

TEST_F(UringTablesTest, FileIsHeldOpenUntilItIsGivenBack) {
    Pipe pipe;
    const auto slot = uring_->register_file(pipe.writer.get());
    ASSERT_TRUE(slot);
    pipe.writer.reset();
    EXPECT_EQ(pipe.read_byte(), -1);
    uring_->unregister_file(*slot);
    // Kernels before 6.5 close it a second later.
    EXPECT_EQ(pipe.wait_for_byte(), 0);
}

TEST_F(UringTablesTest, WhatIsNoFileIsRefusedAndCostsNoSlot) {
    for (uint32_t i = 0; i < 2 * UringTables::kFilesMax; ++i) {
        EXPECT_FALSE(uring_->register_file(-7));
    }
    EXPECT_TRUE(uring_->register_file(zero_.get()));
}

TEST_F(UringTablesTest, FullTableTakesNoFileUntilOneIsGivenBack) {
    std::optional<uint32_t> last;
    for (uint32_t i = 0; i < UringTables::kFilesMax; ++i) {
        last = uring_->register_file(zero_.get());
        ASSERT_TRUE(last) << i;
    }
    EXPECT_FALSE(uring_->register_file(zero_.get()));
    uring_->unregister_file(*last);
    EXPECT_EQ(uring_->register_file(zero_.get()), last);
}

TEST_F(UringTablesTest, MemoryIsReadIntoBySlot) {
    memory_.fill(std::byte{0x11});
    const std::span page = std::span(memory_).first(4096);
    const auto slot = uring_->register_buffer(page);
    ASSERT_TRUE(slot) << slot.error().message;
    EXPECT_EQ(read_page(*slot, page), 4096);
    EXPECT_EQ(page.front(), std::byte{0});
    EXPECT_EQ(page.back(), std::byte{0});
    EXPECT_EQ(memory_[4096], std::byte{0x11});
}

TEST_F(UringTablesTest, MemoryBesideWhatIsRegisteredIsRefused) {
    const auto slot = uring_->register_buffer(std::span(memory_).first(4096));
    ASSERT_TRUE(slot);
    EXPECT_EQ(read_page(*slot, std::span(memory_).subspan(4095, 2)), -EFAULT);
}

TEST_F(UringTablesTest, MemoryThatWasGivenBackIsRefused) {
    const std::span page = std::span(memory_).first(4096);
    const auto slot = uring_->register_buffer(page);
    ASSERT_TRUE(slot);
    uring_->unregister_buffer(*slot);
    EXPECT_EQ(read_page(*slot, page), -EFAULT);
}

TEST_F(UringTablesTest, MemoryOfTwoUsersStaysUntilBothHaveGivenItBack) {
    const std::span page = std::span(memory_).first(4096);
    const auto first = uring_->register_buffer(page);
    const auto second = uring_->register_buffer(page);
    ASSERT_TRUE(first && second);
    EXPECT_EQ(*first, *second);
    uring_->unregister_buffer(*first);
    EXPECT_EQ(read_page(*second, page), 4096);
    uring_->unregister_buffer(*second);
    EXPECT_EQ(read_page(*second, page), -EFAULT);
}

TEST_F(UringTablesTest, SameMemoryInAnotherSizeIsRefused) {
    ASSERT_TRUE(uring_->register_buffer(std::span(memory_).first(4096)));
    EXPECT_FALSE(uring_->register_buffer(memory_));
}

TEST_F(UringTablesTest, MemoryThatIsNotThereIsRefusedAndCostsNoSlot) {
    void* const hole = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(hole, MAP_FAILED);
    const std::span page(static_cast<std::byte*>(hole), 4096);
    EXPECT_FALSE(uring_->register_buffer(page));
    EXPECT_EQ(uring_->register_buffer(std::span(memory_).first(4096)).value_or(7), 0U);
    ::munmap(hole, 4096);
}

// --- Restricted rings --------------------------------------------------------------------------

/// What one operation on a ring of `operations` gives; io_uring must be there.
int32_t result_of(const std::optional<UringOperations>& operations,
                  const std::function<void(io_uring_sqe*)>& prepare) {
    auto loop = create_event_loop(LoopKind::kUring, operations);
    EXPECT_TRUE(loop) << loop.error().message;
    RecordingOperation operation;
    io_uring_sqe* const sqe = (*loop)->uring()->next_sqe();
    prepare(sqe);
    (*loop)->uring()->bind(sqe, operation);
    while (!operation.result) {
        (void)(*loop)->run_once(kNever);
    }
    return *operation.result;
}

void prepare_openat(io_uring_sqe* sqe) {
    io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY | O_CLOEXEC, 0);
}

TEST_F(UringTest, UnrestrictedRingOpensFiles) {
    const UniqueFd opened(result_of(std::nullopt, prepare_openat));
    EXPECT_TRUE(opened.valid());
}

TEST_F(UringTest, RestrictedRingOpensNone) {
    EXPECT_EQ(result_of(UringOperations{IORING_OP_READ, IORING_OP_WRITE}, prepare_openat), -EACCES);
}

TEST_F(UringTest, RestrictedRingDoesWhatItMay) {
    const UniqueFd file(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    std::array<char, 4> out{};
    EXPECT_EQ(result_of(UringOperations{IORING_OP_READ},
                        [&](io_uring_sqe* sqe) {
                            io_uring_prep_read(sqe, file.get(), out.data(), out.size(), 0);
                        }),
              4);
}

TEST_F(UringTest, RestrictedRingTakesNoFlags) {
    EXPECT_EQ(result_of(UringOperations{IORING_OP_READ},
                        [](io_uring_sqe* sqe) {
                            io_uring_prep_read(sqe, 0, nullptr, 0, 0);
                            sqe->flags = IOSQE_ASYNC;
                        }),
              -EACCES);
}

TEST_F(UringTest, RestrictedRingWakesWatchesAndForgetsThem) {
    auto loop = create_event_loop(LoopKind::kUring, UringOperations{});
    ASSERT_TRUE(loop);
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    int called = 0;
    const WatchId watch = (*loop)->watch_readable(reader.get(), [&] { ++called; });
    (void)(*loop)->run_once(kNoSleep);
    writer.reset();
    while (called == 0) {
        (void)(*loop)->run_once(kNever);
    }
    (*loop)->unwatch(watch);
    const int before = called;
    (void)(*loop)->run_once(kNoSleep);
    (void)(*loop)->run_once(kNoSleep);
    EXPECT_EQ(called, before);
}

TEST_F(UringTest, RestrictedRingReadsRegisteredFiles) {
    auto loop = create_event_loop(LoopKind::kUring, UringOperations{IORING_OP_READ});
    ASSERT_TRUE(loop);
    const UniqueFd file(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    const auto slot = (*loop)->uring()->register_file(file.get());
    if (!slot) {
        GTEST_SKIP() << "the kernel has no empty tables";
    }
    EXPECT_EQ(read_of_slot(**loop, *slot), 4);
}

TEST_F(UringTest, RestrictedRingWithoutOperationsRegistersNoFiles) {
    auto loop = create_event_loop(LoopKind::kUring, UringOperations{});
    ASSERT_TRUE(loop);
    EXPECT_FALSE((*loop)->uring()->register_file(0));
}

TEST_F(UringTest, RestrictedRingRegistersMemoryOnlyForItsOperations) {
    alignas(4096) std::array<std::byte, 4096> memory{};
    const auto registers = [&](const UringOperations& operations) {
        auto loop = create_event_loop(LoopKind::kUring, operations);
        return (*loop)->uring()->register_buffer(memory).has_value();
    };
    EXPECT_FALSE(registers({IORING_OP_READ, IORING_OP_WRITE}));
    EXPECT_EQ(registers({IORING_OP_READ_FIXED}), uring_->register_buffer(memory).has_value());
}

TEST_F(UringTest, OperationsThatTheKernelLacksAreNoReasonToFail) {
    EXPECT_TRUE(create_event_loop(LoopKind::kUring, UringOperations{IORING_OP_READ, 255}));
}

TEST_F(UringTest, KnowsWhichOperationsTheKernelHas) {
    EXPECT_TRUE(uring_->supports(IORING_OP_READV));
    EXPECT_FALSE(uring_->supports(255));
}

// --- What tells of the end of all I/O ------------------------------------------------------------

class UringWitness : public testing::Test {
  protected:
    void SetUp() override {
        auto pipe = platform::open_pipe();
        ASSERT_TRUE(pipe);
        end_ = std::move(pipe->read_end);
        set_uring_witness(pipe->write_end.get());
        loop_ = create_event_loop(LoopKind::kUring, operations());
        set_uring_witness(-1);
        if (!loop_) {
            GTEST_SKIP() << loop_.error().message;
        }
        // The process's own is closed here.
    }

    [[nodiscard]] virtual std::optional<UringOperations> operations() const { return std::nullopt; }

    [[nodiscard]] bool hangs_up(int timeout_ms) const {
        pollfd end{.fd = end_.get(), .events = 0, .revents = 0};
        return ::poll(&end, 1, timeout_ms) == 1 && (end.revents & POLLHUP) != 0;
    }

    UniqueFd end_;
    Result<std::unique_ptr<EventLoop>> loop_;
};

class RestrictedUringWitness : public UringWitness {
  protected:
    [[nodiscard]] std::optional<UringOperations> operations() const override {
        return UringOperations{IORING_OP_READ};
    }
};

TEST_F(UringWitness, IsHeldAsLongAsTheRingIsThere) {
    EXPECT_FALSE(hangs_up(0));
    loop_->reset();
    EXPECT_TRUE(hangs_up(10'000));
}

TEST_F(RestrictedUringWitness, IsHeldAsLongAsTheRingIsThere) {
    EXPECT_FALSE(hangs_up(0));
    loop_->reset();
    EXPECT_TRUE(hangs_up(10'000));
}

TEST_F(UringWitness, LeavesRoomForTheFilesOfDevices) {
    const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE((*loop_)->uring()->register_file(file.get()));
}

}  // namespace
}  // namespace outrigger
