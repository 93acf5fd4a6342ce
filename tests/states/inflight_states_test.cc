// SPDX-License-Identifier: Apache-2.0
// In-flight buffers as each version left them, with the rings that they are of: whoever comes next
// goes on with them. docs/state.md says what to do when a version writes them otherwise.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/inflight_buffer.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr uint16_t kRingSize = 8;
constexpr uint64_t kMemoryBytes = 8192;
constexpr uint64_t kData = 4096;  // behind all of the ring
constexpr uint32_t kDataBytes = 16;
constexpr uint16_t kRequests = 6;

/// What a process leaves that is killed.
struct Left {
    std::string inflight;
    std::string ring;
};

class InflightStates : public ::testing::TestWithParam<bool> {
  protected:
    [[nodiscard]] bool packed() const { return GetParam(); }

    [[nodiscard]] static std::string folder() {
        const char* const folder = std::getenv("OUTRIGGER_STATES");
        EXPECT_NE(folder, nullptr) << "OUTRIGGER_STATES names the folder of the kept states";
        return folder != nullptr ? folder : "";
    }

    [[nodiscard]] std::string file(const std::string& what) const {
        return std::string("v1/") + (packed() ? "packed." : "split.") + what;
    }

    [[nodiscard]] std::string kept(const std::string& what) const {
        std::ifstream stream(fs::path(folder()) / file(what), std::ios::binary);
        EXPECT_TRUE(stream) << file(what);
        return {std::istreambuf_iterator<char>(stream), {}};
    }

    [[nodiscard]] Result<std::unique_ptr<Virtqueue>, VirtqueueSetupError> start() const {
        constexpr uint32_t kFreshPacked = 0x8000'8000;
        return Virtqueue::create(packed() ? packed_.config() : split_.config(),
                                 VringBase{packed() ? kFreshPacked : 0},
                                 memory_.snapshot(),
                                 {.buffer = buffer_, .queue = 0});
    }

    void offer(uint16_t id) {
        if (packed()) {
            packed_.offer(id, {{.address = kData, .length = kDataBytes, .flags = test::kWrite}});
            return;
        }
        split_.set_descriptor(id, {.address = kData, .length = kDataBytes, .flags = test::kWrite});
        split_.offer(id);
    }

    /// Of six requests the second and the fourth were answered, and the driver has seen that; the
    /// fifth was, and it has not.
    [[nodiscard]] Left leave() {
        auto queue = start().value();
        std::vector<DescriptorChain> chains;
        for (uint16_t id = 0; id < kRequests; ++id) {
            offer(id);
            chains.push_back(queue->pop().value());
        }
        chains[3].complete(kDataBytes);
        chains[1].complete(kDataBytes);
        (void)queue->publish();
        chains[4].complete(kDataBytes);
        return {.inflight = text_of(buffer_->part(0)), .ring = text_of({memory_.at(0), kData})};
    }

    /// Nothing is kept of the zeroes at its end.
    [[nodiscard]] static std::string text_of(std::span<const std::byte> bytes) {
        const auto end = std::find_if(
            bytes.rbegin(), bytes.rend(), [](std::byte byte) { return byte != std::byte{0}; });
        std::string text(static_cast<size_t>(bytes.rend() - end), '\0');
        std::memcpy(text.data(), bytes.data(), text.size());
        return text;
    }

    /// Where the bytes of `what` are that this version writes.
    [[nodiscard]] std::string write_down(const std::string& what, const std::string& bytes) const {
        const fs::path path = fs::path(::testing::TempDir()) / fs::path(file(what)).filename();
        std::ofstream(path, std::ios::binary) << bytes;
        return path.string() + " has what is written now; see docs/state.md before you keep it";
    }

    test::GuestMemory memory_{{{0, kMemoryBytes}}};
    test::SplitRing split_{memory_, kRingSize, 0};
    test::PackedRing packed_{memory_, kRingSize, 0};
    std::shared_ptr<const InflightBuffer> buffer_ = InflightBuffer::create(1, kRingSize).value();
};

TEST_P(InflightStates, AreWhatThisVersionLeaves) {
    const Left left = leave();
    EXPECT_TRUE(kept("inflight") == left.inflight) << write_down("inflight", left.inflight);
    EXPECT_TRUE(kept("ring") == left.ring) << write_down("ring", left.ring);
}

TEST_P(InflightStates, OfVersion1AreGoneOnWith) {
    const std::string inflight = kept("inflight");
    const std::string ring = kept("ring");
    ASSERT_GT(inflight.size(), 0U);
    ASSERT_LE(inflight.size(), buffer_->part(0).size());
    ASSERT_LE(ring.size(), kData);
    std::memcpy(buffer_->part(0).data(), inflight.data(), inflight.size());
    std::memcpy(memory_.at(0), ring.data(), ring.size());
    auto queue = start().value();
    std::vector<DescriptorChain> chains;
    std::vector<uint16_t> ids;
    while (auto chain = queue->pop()) {
        EXPECT_TRUE(chain->is_replayed());
        ids.push_back(chain->id());
        chains.push_back(*std::move(chain));
    }
    // In the order in which they were taken; and of the fifth the driver knows nothing.
    EXPECT_EQ(ids, (std::vector<uint16_t>{0, 2, 4, 5}));
    for (DescriptorChain& chain : chains) {
        chain.complete(kDataBytes);
    }
    EXPECT_TRUE(queue->publish());
    for (uint16_t index = 2; index < kRequests; ++index) {
        const test::UsedElement used = packed() ? packed_.used(index) : split_.used(index);
        EXPECT_EQ(used, (test::UsedElement{.id = ids[index - 2U], .length = kDataBytes}));
    }
    if (packed()) {
        EXPECT_TRUE(packed_.is_used(kRequests - 1, true));
    } else {
        EXPECT_EQ(split_.used_index(), kRequests);
    }
}

INSTANTIATE_TEST_SUITE_P(Formats, InflightStates, ::testing::Bool(), [](const auto& format) {
    return format.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::testing
