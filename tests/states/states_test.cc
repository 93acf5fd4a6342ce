// SPDX-License-Identifier: Apache-2.0
// States of every version that there was are loaded by this one, and states of versions to come are
// taken or refused as docs/state.md says. Files of versions that are past are never written again.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/state/device_state.h"

#include "devices/blk/blk_state.h"
#include "tests/states/state_samples.h"
#include "tools/outriggerctl/state_file.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

fs::path folder() {
    const char* const folder = std::getenv("OUTRIGGER_STATES");
    EXPECT_NE(folder, nullptr) << "OUTRIGGER_STATES names the folder of the kept states";
    return folder != nullptr ? folder : "";
}

std::string read(const std::string& name) {
    std::ifstream file(folder() / name, std::ios::binary);
    EXPECT_TRUE(file) << name;
    return {std::istreambuf_iterator<char>(file), {}};
}

/// What a session does with what has come.
Result<void, StateError> load(Device& device, const std::string& bytes) {
    const DeviceState state = OUTRIGGER_TRY(parse_state(std::as_bytes(std::span(bytes))));
    if (state.device_id != device.identity().virtio_id) {
        return failure(StateError{.fault = StateFault::kOther, .message = "of another device"});
    }
    const auto known = OUTRIGGER_TRY(select_sections(state.sections, device.state_sections()));
    if (const auto loaded = device.load_state(known.sections); !loaded) {
        return failure(
            StateError{.fault = StateFault::kContent, .message = loaded.error().message});
    }
    return {};
}

/// Refused for that reason, and the message says `word`.
void expect_refused(Device& device,
                    const std::string& name,
                    StateFault fault,
                    const std::string& word) {
    const auto loaded = load(device, read(name));
    ASSERT_FALSE(loaded) << name;
    EXPECT_EQ(loaded.error().fault, fault) << name;
    EXPECT_NE(loaded.error().message.find(word), std::string::npos) << loaded.error().message;
}

void expect_disk_of_v1(const blk::BlkDevice& disk) {
    const auto state = blk::read_blk_state(disk.save_state().value()).value();
    EXPECT_FALSE(state.write_back);
    EXPECT_TRUE(state.read_write_through);
}

TEST(KeptStates, AreWhatThisVersionWrites) {
    for (const auto& [name, bytes] : sample_states()) {
        EXPECT_EQ(read(name), bytes) << name << ": see docs/state.md before you change it";
    }
}

TEST(KeptStates, OfADiskAreLoaded) {
    const auto disk = sample_disk();
    const auto loaded = load(*disk, read("v1/blk.state"));
    ASSERT_TRUE(loaded) << loaded.error().message;
    expect_disk_of_v1(*disk);
    const std::string bytes = read("v1/blk.state");
    const auto state = parse_state(std::as_bytes(std::span(bytes))).value();
    ASSERT_EQ(state.queues.size(), 2U);
    EXPECT_EQ(state.queues[0].next_available, 17);
    EXPECT_TRUE(state.queues[0].used_wrap);
    EXPECT_EQ(state.queues[1].size, 100);
    EXPECT_FALSE(state.queues[1].used_wrap);
    EXPECT_TRUE(state.features->has(34));
}

TEST(KeptStates, OfADiskWhoseSyncFailedSaySo) {
    const std::string bytes = read("v1/blk-failed-sync.state");
    const auto state = parse_state(std::as_bytes(std::span(bytes))).value();
    EXPECT_TRUE(blk::read_blk_state(state.sections).value().sync_failed);
    const auto disk = sample_disk();
    expect_refused(
        *disk, "v1/blk-failed-sync.state", StateFault::kContent, "a flush of the disk has failed");
}

TEST(KeptStates, OfASourceOfEntropyAreLoaded) {
    const auto entropy = sample_entropy();
    const auto loaded = load(*entropy, read("v1/rng.state"));
    ASSERT_TRUE(loaded) << loaded.error().message;
}

TEST(KeptStates, OfAnotherDeviceAreRefused) {
    const auto disk = sample_disk();
    const auto entropy = sample_entropy();
    expect_refused(*disk, "v1/rng.state", StateFault::kOther, "another device");
    expect_refused(*entropy, "v1/blk.state", StateFault::kOther, "another device");
}

TEST(StatesFromTheFuture, WithACriticalSectionAreRefusedByItsName) {
    const auto disk = sample_disk();
    const auto entropy = sample_entropy();
    const std::string name = "section 77 \"from-the-future\", version 3";
    expect_refused(*disk, "future/blk-critical-section.state", StateFault::kSection, name);
    expect_refused(*entropy, "future/rng-critical-section.state", StateFault::kSection, name);
}

TEST(StatesFromTheFuture, WithALaterVersionOfACriticalSectionAreRefusedByItsName) {
    const auto disk = sample_disk();
    expect_refused(*disk,
                   "future/blk-later-version.state",
                   StateFault::kSection,
                   "section 1 \"mode\", version 2");
}

TEST(StatesFromTheFuture, ForLaterReadersAreRefused) {
    const auto disk = sample_disk();
    expect_refused(
        *disk, "future/blk-min-reader.state", StateFault::kTooNew, "a reader of format 2");
}

TEST(StatesFromTheFuture, WithASectionThatIsNotCriticalAreLoaded) {
    const auto disk = sample_disk();
    EXPECT_TRUE(load(*disk, read("future/blk-other-section.state")));
    expect_disk_of_v1(*disk);
    const auto entropy = sample_entropy();
    EXPECT_TRUE(load(*entropy, read("future/rng-other-section.state")));
}

TEST(StatesFromTheFuture, WithAFieldMoreInTheHeaderAreLoaded) {
    const auto disk = sample_disk();
    EXPECT_TRUE(load(*disk, read("future/blk-header-field.state")));
    expect_disk_of_v1(*disk);
}

class DamagedStates : public ::testing::TestWithParam<const char*> {
  protected:
    /// Refused, or what it was before: never another state.
    static void expect_same_or_refused(const std::string& bad, const DeviceState& good) {
        const auto parsed = parse_state(std::as_bytes(std::span(bad)));
        EXPECT_TRUE(!parsed || *parsed == good);
        const auto disk = sample_disk();
        (void)load(*disk, bad);
    }
};

INSTANTIATE_TEST_SUITE_P(V1,
                         DamagedStates,
                         ::testing::Values("v1/blk.state", "v1/rng.state", "v1/vsock.state"),
                         [](const auto& state) { return std::string(state.param).substr(3, 3); });

TEST_P(DamagedStates, ByOneBitAreRefusedOrMeanTheSame) {
    const std::string bytes = read(GetParam());
    const auto good = parse_state(std::as_bytes(std::span(bytes))).value();
    for (size_t at = 0; at < bytes.size(); ++at) {
        for (int bit = 0; bit < 8; ++bit) {
            std::string bad = bytes;
            bad[at] = static_cast<char>(bad[at] ^ 1 << bit);
            expect_same_or_refused(bad, good);
        }
    }
}

TEST_P(DamagedStates, CutAtAnyLengthAreRefused) {
    const std::string bytes = read(GetParam());
    for (size_t length = 0; length < bytes.size(); ++length) {
        const std::string cut = bytes.substr(0, length);
        EXPECT_FALSE(parse_state(std::as_bytes(std::span(cut)))) << length;
    }
}

// --- outriggerctl state FILE ---------------------------------------------------------------------

TEST(StateFile, IsPrinted) {
    const auto text = ctl::state_file_text(folder() / "v1/rng.state");
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_EQ(*text,
              "format 1, for readers from 1\n"
              "device 4 (entropy)\n"
              "features 0x0000000130000000\n"
              "queue 0: size 8, available 65535 (wrap 0), used 65535 (wrap 0)\n");
}

TEST(StateFile, ThatIsNoneIsRefusedWithTheReasonOfADaemon) {
    const auto text = ctl::state_file_text(folder() / "future/blk-min-reader.state");
    ASSERT_FALSE(text);
    EXPECT_NE(text.error().message.find("asks for a reader of format 2"), std::string::npos);
    const auto other = ctl::state_file_text(folder() / "states_test.cc");
    ASSERT_FALSE(other);
    EXPECT_NE(other.error().message.find("does not begin as a saved state"), std::string::npos);
}

TEST(StateFile, ThatIsNotThereIsAnError) {
    EXPECT_FALSE(ctl::state_file_text(folder() / "missing.state"));
    EXPECT_FALSE(ctl::state_file_text(folder()));
}

// It would be read for ever.
TEST(StateFile, ThatNeverEndsIsRefused) {
    const auto text = ctl::state_file_text("/dev/zero");
    ASSERT_FALSE(text);
    EXPECT_NE(text.error().message.find("larger than 64 MiB"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::testing
