// SPDX-License-Identifier: Apache-2.0
// The program of the page that teaches the framework, as a driver sees it: it answers as the page
// says. example_test.py takes it from the page, builds it outside the tree and names it here.
#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/little_endian.h"

#include "tests/support/child_process.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

using driver::Segment;
using Bytes = std::vector<std::byte>;

constexpr uint8_t kOk = 0;
constexpr uint8_t kErr = 1;
constexpr uint8_t kUnwritten = 0xa5;

constexpr uint16_t kChip = 0x50;
constexpr uint32_t kFailNext = 1;
constexpr uint32_t kRead = 2;

struct RequestHeader {
    Le16 address = kChip << 1;
    Le16 padding{};
    Le32 flags{};
};

Bytes bytes(std::initializer_list<int> values) {
    Bytes result;
    for (const int value : values) {
        result.push_back(static_cast<std::byte>(value));
    }
    return result;
}

Bytes header(uint32_t flags, uint16_t chip = kChip) {
    const RequestHeader fields{.address = static_cast<uint16_t>(chip << 1), .flags = flags};
    const auto view = std::as_bytes(std::span(&fields, 1));
    return {view.begin(), view.end()};
}

/// A request in guest memory: pieces that the device reads, room that it writes, a status byte.
struct Request {
    std::vector<Segment> segments;
    Segment data{};
    Segment status{};
};

class Guest {
  public:
    Guest(const fs::path& socket, bool packed)
        : frontend_(driver::Frontend::connect(socket, driver::after(kPatience)).value()) {
        auto up = driver::bring_up(frontend_, memory_, {.packed = packed});
        EXPECT_TRUE(up.has_value()) << up.error().step;
        if (up) {
            running_ = *std::move(up);
        }
    }

    driver::DriverQueue& queue() { return running_.queues.at(0); }

    Segment place(const Bytes& content, bool device_writable) {
        const Segment segment{.address = memory_.allocate(content.size(), 1).value(),
                              .length = static_cast<uint32_t>(content.size()),
                              .device_writable = device_writable};
        memory_.write(segment.address, content);
        return segment;
    }

    Request request(const std::vector<Bytes>& readable, size_t writable = 0) {
        Request request;
        for (const Bytes& piece : readable) {
            request.segments.push_back(place(piece, false));
        }
        if (writable > 0) {
            request.data = place(Bytes(writable, std::byte{kUnwritten}), true);
            request.segments.push_back(request.data);
        }
        request.status = place(bytes({kUnwritten}), true);
        request.segments.push_back(request.status);
        return request;
    }

    Bytes content(const Segment& segment) const {
        Bytes result(segment.length);
        memory_.read(segment.address, result);
        return result;
    }

    /// The status of a request that was completed; nullopt when it was not.
    std::optional<int> run(const Request& request) {
        const auto done = queue().transact(request.segments, driver::after(kPatience));
        return done ? std::optional(status(request)) : std::nullopt;
    }

    int status(const Request& request) const {
        return std::to_integer<int>(content(request.status).front());
    }

    /// Makes all requests available at once, and waits for all of them.
    [[nodiscard]] bool run_together(const std::vector<Request>& requests) {
        for (const Request& request : requests) {
            if (!queue().try_add(request.segments, 0)) {
                return false;
            }
        }
        (void)queue().publish_and_kick();
        for (size_t done = 0; done < requests.size();) {
            if (queue().poll_used()) {
                ++done;
            } else if (queue().wait_used(driver::after(kPatience)) != driver::WaitResult::kUsed) {
                return false;
            }
        }
        return true;
    }

    std::optional<int> write(uint8_t at, const Bytes& data) {
        Bytes out = header(0);
        out.push_back(std::byte{at});
        out.insert(out.end(), data.begin(), data.end());
        return run(request({out}));
    }

    /// Moves the cursor, then reads: two requests in a group, as Linux does it.
    Bytes read(uint8_t at, size_t size) {
        Bytes out = header(kFailNext);
        out.push_back(std::byte{at});
        const Request cursor = request({out});
        const Request data = request({header(kRead)}, size);
        EXPECT_TRUE(run_together({cursor, data}));
        EXPECT_EQ(status(cursor), kOk);
        EXPECT_EQ(status(data), kOk);
        return content(data.data);
    }

  private:
    driver::Frontend frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running_;
};

class EepromTest : public ::testing::TestWithParam<bool> {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_EXAMPLE_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        std::string name = ::testing::TempDir() + "eeprom-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        program_ = std::make_unique<ChildProcess>(
            program, ChildProcess::Options{.arguments = {"--socket-path=" + socket().string()}});
        ASSERT_TRUE(program_->wait_complained("listening"));
    }

    void TearDown() override {
        if (program_) {
            program_->send_signal(SIGTERM);
            EXPECT_EQ(program_->wait(), Ended{.status = 0}) << program_->complained();
        }
        fs::remove_all(folder_);
    }

    fs::path socket() const { return folder_ / "i2c.sock"; }

    Guest boot() const { return {socket(), GetParam()}; }

    fs::path folder_;
    std::unique_ptr<ChildProcess> program_;
};

// --- What it is for ----------------------------------------------------------------------------

TEST_P(EepromTest, WrittenBytesAreReadBack) {
    Guest guest = boot();

    EXPECT_EQ(guest.write(0x10, bytes({1, 2, 3})), kOk);

    EXPECT_EQ(guest.read(0x0f, 5), bytes({0, 1, 2, 3, 0}));
}

TEST_P(EepromTest, AReadGoesOnFromTheLastOne) {
    Guest guest = boot();
    EXPECT_EQ(guest.write(0, bytes({1, 2, 3, 4})), kOk);
    EXPECT_EQ(guest.read(0, 2), bytes({1, 2}));
    const Request next = guest.request({header(kRead)}, 2);

    EXPECT_EQ(guest.run(next), kOk);

    EXPECT_EQ(guest.content(next.data), bytes({3, 4}));
}

TEST_P(EepromTest, TheCursorWrapsAt256) {
    Guest guest = boot();

    EXPECT_EQ(guest.write(0xff, bytes({7, 8})), kOk);

    EXPECT_EQ(guest.read(0xff, 2), bytes({7, 8}));
    EXPECT_EQ(guest.read(0, 1), bytes({8}));
}

TEST_P(EepromTest, ARequestOfNoBytesFindsTheChip) {
    Guest guest = boot();

    EXPECT_EQ(guest.run(guest.request({header(0)})), kOk);
    EXPECT_EQ(guest.run(guest.request({header(kRead)})), kOk);
}

TEST_P(EepromTest, RequestsBehindAWriteWaitForItsCycle) {
    Guest guest = boot();
    Bytes out = header(0);
    out.insert(out.end(), {std::byte{4}, std::byte{42}});
    const Request first = guest.request({out});
    out.back() = std::byte{43};
    const Request second = guest.request({out});
    const Request third = guest.request({out});

    EXPECT_TRUE(guest.run_together({first, second, third}));

    EXPECT_EQ(guest.status(third), kOk);
    EXPECT_EQ(guest.read(4, 1), bytes({43}));
}

TEST_P(EepromTest, TheContentOutlivesAGuest) {
    EXPECT_EQ(boot().write(0, bytes({99})), kOk);

    EXPECT_EQ(boot().read(0, 1), bytes({99}));
}

TEST_P(EepromTest, AHeaderInPiecesIsAHeader) {
    Guest guest = boot();
    const Bytes whole = header(0);
    const Bytes front(whole.begin(), whole.begin() + 3);
    const Bytes back(whole.begin() + 3, whole.end());

    EXPECT_EQ(guest.run(guest.request({front, back, bytes({5}), bytes({55})})), kOk);

    EXPECT_EQ(guest.read(5, 1), bytes({55}));
}

// --- What it refuses ---------------------------------------------------------------------------

TEST_P(EepromTest, AnotherChipDoesNotAnswer) {
    Guest guest = boot();

    EXPECT_EQ(guest.run(guest.request({header(0, kChip + 1)})), kErr);
}

TEST_P(EepromTest, AGroupFailsTogetherAndTheNextOneDoesNot) {
    Guest guest = boot();
    const Request bad = guest.request({header(kFailNext, kChip + 1)});
    const Request same_group = guest.request({header(kFailNext)});
    const Request last_of_group = guest.request({header(0)});
    const Request next_group = guest.request({header(0)});

    EXPECT_TRUE(guest.run_together({bad, same_group, last_of_group, next_group}));

    EXPECT_EQ(guest.status(bad), kErr);
    EXPECT_EQ(guest.status(same_group), kErr);
    EXPECT_EQ(guest.status(last_of_group), kErr);
    EXPECT_EQ(guest.status(next_group), kOk);
}

TEST_P(EepromTest, AShortHeaderIsAnError) {
    Guest guest = boot();
    Bytes short_header = header(0);
    short_header.pop_back();

    EXPECT_EQ(guest.run(guest.request({short_header})), kErr);
    EXPECT_EQ(guest.run(guest.request({})), kErr);
}

TEST_P(EepromTest, DataInTheWrongDirectionIsAnError) {
    Guest guest = boot();
    Bytes out = header(kRead);
    out.push_back(std::byte{0});

    EXPECT_EQ(guest.run(guest.request({out}, 1)), kErr);
    EXPECT_EQ(guest.run(guest.request({header(0)}, 1)), kErr);
}

TEST_P(EepromTest, ATransferHasALimit) {
    Guest guest = boot();
    const Request largest = guest.request({header(kRead)}, 8192);
    const Request too_large = guest.request({header(kRead)}, 8193);

    EXPECT_EQ(guest.run(largest), kOk);
    EXPECT_EQ(guest.run(too_large), kErr);

    EXPECT_EQ(guest.content(largest.data), Bytes(8192));
    EXPECT_EQ(guest.content(too_large.data), Bytes(8193, std::byte{kUnwritten}));
}

TEST_P(EepromTest, ARequestWithoutAStatusByteBreaksItsRingAlone) {
    Guest guest = boot();
    const std::array segments{guest.place(header(0), false)};
    ASSERT_TRUE(guest.queue().try_add(segments, 0));
    (void)guest.queue().publish_and_kick();

    EXPECT_TRUE(guest.queue().wait_error(driver::after(kPatience)));

    EXPECT_TRUE(program_->wait_complained("a request without a status byte"));
}

TEST_P(EepromTest, TheProgramServesOnAfterABrokenRing) {
    {
        Guest guest = boot();
        const std::array segments{guest.place(header(0), false)};
        ASSERT_TRUE(guest.queue().try_add(segments, 0));
        (void)guest.queue().publish_and_kick();
        ASSERT_TRUE(guest.queue().wait_error(driver::after(kPatience)));
    }

    Guest next = boot();

    EXPECT_EQ(next.run(next.request({header(0)})), kOk);
}

TEST_P(EepromTest, ADriverWithoutTheFeatureIsRefused) {
    auto frontend = driver::Frontend::connect(socket(), driver::after(kPatience)).value();
    auto memory = driver::GuestMemory::create(1 << 20).value();

    const auto up = driver::bring_up(
        frontend, memory, {.features = driver::kUsualFeatures.without(0), .packed = GetParam()});

    ASSERT_FALSE(up.has_value());
    EXPECT_EQ(up.error().answer, driver::Answer::kRefused);
}

INSTANTIATE_TEST_SUITE_P(Rings, EepromTest, ::testing::Bool(), [](const auto& ring) {
    return ring.param ? "packed" : "split";
});

}  // namespace
}  // namespace outrigger::testing
