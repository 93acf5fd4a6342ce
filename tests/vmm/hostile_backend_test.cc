// SPDX-License-Identifier: Apache-2.0
// Back ends that lie, stall and hang up at every step: each ends in an error that says so, within
// its deadline, and leaves nothing behind.
#include "tests/vmm/hostile_backend.h"

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include <fcntl.h>
#include <signal.h>

#include "vhost-user-backend/base/little_endian.h"

#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

TEST_F(HostileBackendTest, AnHonestOneServesAWholeLife) {
    EXPECT_EQ(whole_life({}, kPatient), "");
    const std::vector<wire::FrontendRequest> expected = {
        kGetFeatures,    kGetProtocolFeatures, kSetProtocolFeatures, kSetOwner,     kGetQueueNum,
        kGetMaxMemSlots, kSetBackendReqFd,     kGetConfig,           kSetFeatures,  kSetStatus,
        kGetStatus,      kGetInflightFd,       kSetInflightFd,       kAddMemReg,    kSetVringNum,
        kSetVringBase,   kSetVringAddr,        kSetVringErr,         kSetVringCall, kSetVringKick,
        kSetVringEnable, kSetStatus,           kGetFeatures,         kGetVringBase, kResetDevice,
        kSetStatus,      kGetFeatures};
    auto order = backend().order();
    ASSERT_GE(order.size(), expected.size());
    order.resize(expected.size());  // behind them the configuration is read again
    EXPECT_EQ(order, expected);
}

TEST_F(HostileBackendTest, AMinimalOneServesAWholeLife) {
    Script script;
    script.protocol_features = FeatureSet::of({wire::bit(wire::ProtocolFeature::kConfig)});
    EXPECT_EQ(whole_life(script, kPatient), "");
    EXPECT_EQ(backend().told(kSetMemTable).size(), 1U);
    EXPECT_TRUE(backend().told(kAddMemReg).empty());
}

class MisdeedTest
    : public HostileBackendTest,
      public ::testing::WithParamInterface<std::tuple<wire::FrontendRequest, Misdeed>> {};

TEST_P(MisdeedTest, EndsInAnErrorAndLeavesNothing) {
    const ProcessCounts before = ProcessCounts::now();
    Script script;
    std::tie(script.at, script.misdeed) = GetParam();
    const bool stalls =
        script.misdeed == Misdeed::kSilence || script.misdeed == Misdeed::kHalfAndSilence;
    const std::string reason = whole_life(script, stalls ? kShort : kPatient);
    EXPECT_NE(reason, "");
    host_.reset();
    backends_.clear();
    EXPECT_TRUE(comes_down_to(before)) << reason;
}

// A refusal of SET_PROTOCOL_FEATURES cannot be said, because REPLY_ACK is negotiated by it; what is
// sent for it is a reply that nobody waits for.
INSTANTIATE_TEST_SUITE_P(
    EveryStep,
    MisdeedTest,
    ::testing::Combine(::testing::Values(kGetFeatures,
                                         kGetProtocolFeatures,
                                         kSetProtocolFeatures,
                                         kSetOwner,
                                         kGetQueueNum,
                                         kGetMaxMemSlots,
                                         kSetBackendReqFd,
                                         kGetConfig,
                                         kSetFeatures,
                                         kSetStatus,
                                         kGetStatus,
                                         kGetInflightFd,
                                         kSetInflightFd,
                                         kAddMemReg,
                                         kSetVringNum,
                                         kSetVringBase,
                                         kSetVringAddr,
                                         kSetVringErr,
                                         kSetVringCall,
                                         kSetVringKick,
                                         kSetVringEnable,
                                         kGetVringBase,
                                         kResetDevice),
                       ::testing::Values(Misdeed::kSilence,
                                         Misdeed::kHangUp,
                                         Misdeed::kHalfAndSilence,
                                         Misdeed::kHalfAndHangUp,
                                         Misdeed::kShort,
                                         Misdeed::kLong,
                                         Misdeed::kHuge,
                                         Misdeed::kOtherRequest,
                                         Misdeed::kNoReplyFlag,
                                         Misdeed::kOtherVersion,
                                         Misdeed::kDescriptor,
                                         Misdeed::kManyDescriptors,
                                         Misdeed::kTwice)),
    [](const auto& row) {
        return std::string(
                   wire::find_frontend_request(std::to_underlying(std::get<0>(row.param)))->name) +
               "_" + std::to_string(static_cast<int>(std::get<1>(row.param)));
    });

class RefusalTest : public HostileBackendTest,
                    public ::testing::WithParamInterface<wire::FrontendRequest> {};

TEST_P(RefusalTest, IsNamed) {
    Script script;
    script.at = GetParam();
    script.misdeed = Misdeed::kRefusal;
    const auto* row = wire::find_frontend_request(std::to_underlying(GetParam()));
    EXPECT_NE(whole_life(script, kPatient).find(std::string(row->name)), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(EveryStep,
                         RefusalTest,
                         ::testing::Values(kSetOwner,
                                           kSetBackendReqFd,
                                           kSetFeatures,
                                           kSetInflightFd,
                                           kAddMemReg,
                                           kSetVringNum,
                                           kSetVringBase,
                                           kSetVringAddr,
                                           kSetVringErr,
                                           kSetVringCall,
                                           kSetVringKick,
                                           kSetVringEnable,
                                           kResetDevice));

// --- What it says of itself ----------------------------------------------------------------------

TEST_F(HostileBackendTest, NeedsAPossibleNumberOfQueues) {
    for (const uint64_t count : {uint64_t{0}, uint64_t{257}, uint64_t{65535}, ~uint64_t{0}}) {
        Script script;
        script.queue_num = count;
        const auto connected = connect({script});
        ASSERT_FALSE(connected) << count;
        EXPECT_NE(connected.error().message.find("queues"), std::string::npos);
        TearDown();
    }
}

TEST_F(HostileBackendTest, NeedsVersion1) {
    Script script;
    script.features = script.features.without(vmm::kVersion1Bit);
    const auto connected = connect({script});
    ASSERT_FALSE(connected);
    EXPECT_NE(connected.error().message.find("VERSION_1"), std::string::npos);
}

TEST_F(HostileBackendTest, NeedsRoomForTheGuestsMemory) {
    Script script;
    script.memory_slots = 0;
    EXPECT_FALSE(connect({script}));
}

TEST_F(HostileBackendTest, NeedsTheConfigurationOfADisk) {
    Script script;
    script.protocol_features =
        script.protocol_features.without(wire::bit(wire::ProtocolFeature::kConfig));
    const auto connected = connect({script});
    ASSERT_FALSE(connected);
    EXPECT_NE(connected.error().message.find("configuration"), std::string::npos);
}

TEST_F(HostileBackendTest, TakesAShorterConfigurationWhenTheWholeIsRefused) {
    Script script;
    script.config = [](std::vector<std::byte>& reply) {
        if (reply.size() > sizeof(wire::ConfigHeader) + 48) {
            reply.clear();
        }
    };
    ASSERT_TRUE(connect({script}));
    EXPECT_EQ(host_->device().config_bytes(), 48U);
}

TEST_F(HostileBackendTest, RefusesAConfigurationOfAnotherLength) {
    const std::vector<std::function<void(std::vector<std::byte>&)>> lies = {
        [](auto& reply) { reply.pop_back(); },
        [](auto& reply) { reply.push_back(std::byte{0}); },
        [](auto& reply) { reply.resize(4); },
        [](auto& reply) { reply[4] = std::byte{0xff}; },  // the size that it names
        [](auto& reply) { reply[0] = std::byte{1}; },     // the offset
    };
    for (const auto& lie : lies) {
        Script script;
        script.config = lie;
        const auto connected = connect({script});
        ASSERT_FALSE(connected);
        EXPECT_NE(connected.error().message.find("GET_CONFIG"), std::string::npos);
        TearDown();
    }
}

TEST_F(HostileBackendTest, RefusesAnImpossibleInflightBuffer) {
    const std::vector<std::function<void(wire::Inflight&, UniqueFd&)>> lies = {
        [](wire::Inflight& inflight, UniqueFd&) { inflight.mmap_size = 0; },
        [](wire::Inflight& inflight, UniqueFd&) { inflight.mmap_size = 65537; },
        [](wire::Inflight& inflight, UniqueFd&) { inflight.mmap_size = ~uint64_t{0}; },
        [](wire::Inflight& inflight, UniqueFd&) { inflight.mmap_offset = 1; },
        [](wire::Inflight& inflight, UniqueFd&) { inflight.mmap_offset = ~uint64_t{0}; },
        [](wire::Inflight& inflight, UniqueFd&) { inflight.queue_count = 0; },
        [](wire::Inflight& inflight, UniqueFd&) { inflight.queue_size = 0; },
        [](wire::Inflight&, UniqueFd& fd) { fd.reset(::open("/", O_RDONLY | O_CLOEXEC)); },
        [](wire::Inflight&, UniqueFd& fd) { fd.reset(::open("/dev/zero", O_RDWR | O_CLOEXEC)); },
        [](wire::Inflight& inflight, UniqueFd& fd) {
            // A regular file of 4096 bytes that is no memory: reading it could take for ever.
            inflight.mmap_size = 4096;
            fd.reset(::open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC));
        },
        [](wire::Inflight&, UniqueFd& fd) { fd.reset(); },
        [](wire::Inflight& inflight, UniqueFd& fd) {
            // All there, and far more than any queue could need.
            inflight.mmap_size = uint64_t{1} << 30;
            fd = create_shared_memory("absurd", uint64_t{1} << 30).value();
        },
    };
    for (size_t i = 0; i < lies.size(); ++i) {
        Script script;
        script.inflight = lies[i];
        EXPECT_NE(whole_life(script, kPatient).find("GET_INFLIGHT_FD"), std::string::npos) << i;
        EXPECT_EQ(host_->needs_resets(), 1) << i;
        TearDown();
    }
}

TEST_F(HostileBackendTest, DoesWithoutAnInflightBufferThatIsNotGiven) {
    Script script;
    script.inflight = [](wire::Inflight& inflight, UniqueFd& fd) {
        inflight = {};
        fd.reset();
    };
    EXPECT_EQ(whole_life(script, kPatient), "");
    EXPECT_TRUE(backend().told(kSetInflightFd).empty());
}

TEST_F(HostileBackendTest, DoesNotStartADriverWhoseFeaturesAreRefused) {
    Script script;
    script.at = kGetStatus;
    script.misdeed = Misdeed::kRefusal;  // 1: without FEATURES_OK
    EXPECT_NE(whole_life(script, kPatient).find("features"), std::string::npos);
    EXPECT_TRUE(backend().told(kSetVringKick).empty());
}

// --- The virtual CPU never waits -----------------------------------------------------------------

TEST_F(HostileBackendTest, ConfigurationIsReadAndWrittenWhileTheBackEndIsSilent) {
    ASSERT_TRUE(connect({Script{}}));
    backend().hold();
    ASSERT_EQ(backend().ask(std::to_underlying(wire::BackendRequest::kConfigChangeMsg), {}, {}),
              0U);
    // crosvm and libkrun ask the back end here, on the virtual CPU: this test would stand still.
    const std::byte value{0x5a};
    for (uint32_t i = 0; i < 10000; ++i) {
        host_->device().write_config(i % 96, std::span(&value, 1));
        std::byte read{};
        host_->device().read_config(i % 96, std::span(&read, 1));
        ASSERT_EQ(read, value);
    }
    EXPECT_TRUE(backend().told(kSetConfig).empty());
    backend().go_on();
    ASSERT_TRUE(eventually([&] { return !backend().told(kSetConfig).empty(); }));
    give_others_a_moment();
    EXPECT_LE(backend().told(kSetConfig).size(), 3U) << "writes are gathered, not queued";
}

TEST_F(HostileBackendTest, ReadsBehindTheConfigurationAreZeroes) {
    ASSERT_TRUE(connect({Script{}}));
    std::array<std::byte, 8> read;
    for (const uint32_t at : {uint32_t{92}, uint32_t{96}, uint32_t{4096}, ~uint32_t{0}}) {
        read.fill(std::byte{0xff});
        host_->device().read_config(at, read);
        EXPECT_EQ(read.back(), std::byte{0}) << at;
        host_->device().write_config(at, read);
    }
}

TEST_F(HostileBackendTest, AQueueWithoutAVectorIsNoReasonToDie) {
    ASSERT_TRUE(connect({Script{}}));
    // Firecracker panics where a queue has no vector. A transport gives us a descriptor that nobody
    // reads; one that gives none is told that the device does not work.
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    auto setup = host_->setup_of(0);
    setup.call_fd = -1;
    ASSERT_TRUE(host_->reset());
    host_->device().activate(uint64_t{1} << vmm::kVersion1Bit, std::array{std::optional(setup)});
    EXPECT_TRUE(eventually([&] { return host_->needs_resets() == 1; }));
    EXPECT_TRUE(host_->reset());
}

TEST_F(HostileBackendTest, RingsOutsideOfMemoryAreNotStarted) {
    ASSERT_TRUE(connect({Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    ASSERT_TRUE(host_->reset());
    const size_t started = backend().told(kSetVringKick).size();
    auto setup = host_->setup_of(0);
    setup.device = GuestAddr{0x100000 + (uint64_t{32} << 20) - 8};  // its end lies outside
    host_->device().activate(uint64_t{1} << vmm::kVersion1Bit, std::array{std::optional(setup)});
    EXPECT_TRUE(eventually([&] { return host_->needs_resets() == 1; }));
    EXPECT_EQ(backend().told(kSetVringKick).size(), started);
}

TEST_F(HostileBackendTest, AnErrorOfARingIsToldOnce) {
    ASSERT_TRUE(connect({Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    const UniqueFd error = backend().take_error_fd();
    ASSERT_TRUE(error.valid());
    for (int i = 0; i < 100; ++i) {
        ASSERT_EQ(send_notification(error.get()), SignalResult::kDelivered);
        (void)host_->status();
    }
    ASSERT_TRUE(eventually([&] { return host_->needs_resets() > 0; }));
    EXPECT_EQ(host_->needs_resets(), 1);
}

/// The machine ends when its observer hears of a device that is lost; what it heard before was
/// less.
TEST_F(HostileBackendTest, ALossIsToldBehindAnErrorOfARing) {
    ASSERT_TRUE(connect({Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    const UniqueFd error = backend().take_error_fd();
    ASSERT_TRUE(error.valid());
    ASSERT_EQ(send_notification(error.get()), SignalResult::kDelivered);
    ASSERT_TRUE(eventually([&] { return host_->needs_resets() == 1; }));
    backend().die();
    ASSERT_TRUE(host_->reaches(Phase::kLost));
    EXPECT_EQ(host_->needs_resets(), 2);
}

// --- Where rings go on ---------------------------------------------------------------------------

/// As the driver of a split ring sees it: the index in the used ring.
void set_used_index(ProxyHost& host, uint16_t index) {
    const auto used = host.setup_of(0).device;
    const Le16 value = index;
    host.memory().write(GuestAddr{static_cast<uint64_t>(used) + 2},
                        std::as_bytes(std::span(&value, 1)));
}

TEST_F(HostileBackendTest, ASuspendedRingGoesOnWhereItsBackEndSaid) {
    Script script;
    script.vring_base = 5;
    ASSERT_TRUE(connect({script}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    set_used_index(*host_, 3);
    ASSERT_TRUE(host_->suspend());
    ASSERT_TRUE(host_->resume());
    const auto bases = backend().told(kSetVringBase);
    ASSERT_EQ(bases.size(), 2U);
    EXPECT_EQ(bases[0].as<wire::VringState>().num, 0U);
    EXPECT_EQ(bases[1].as<wire::VringState>().num, 5U);
}

/// What the driver said before its processor stood still may be on its way: a back end that was
/// started by it would write into a machine that is paused.
TEST_F(HostileBackendTest, AnActivationThatComesAfterASuspensionWaits) {
    ASSERT_TRUE(connect({Script{}}));
    ASSERT_TRUE(host_->suspend());
    host_->activate({.count = 1});
    give_others_a_moment();
    EXPECT_EQ(host_->status().phase, Phase::kReady);
    EXPECT_TRUE(backend().told(kSetVringKick).empty());
    ASSERT_TRUE(host_->resume());
    EXPECT_EQ(host_->status().phase, Phase::kRunning);
    EXPECT_EQ(backend().told(kSetVringKick).size(), 1U);
}

TEST_F(HostileBackendTest, AResetThatComesAfterASuspensionIsNotUndone) {
    ASSERT_TRUE(connect({Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    ASSERT_TRUE(host_->suspend());
    ASSERT_TRUE(host_->reset());
    ASSERT_TRUE(host_->resume());
    EXPECT_EQ(host_->status().phase, Phase::kReady);
    EXPECT_EQ(backend().told(kSetVringKick).size(), 1U);
    host_->activate({.count = 1});
    EXPECT_TRUE(host_->reaches(Phase::kRunning)) << "no suspension is left";
}

TEST_F(HostileBackendTest, ARefusedBaseIsNotPassedOn) {
    Script script;
    script.vring_base = 0x10000;  // of a split ring
    ASSERT_TRUE(connect({script}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    const auto suspended = host_->suspend();
    ASSERT_FALSE(suspended);
    EXPECT_NE(suspended.error().message.find("GET_VRING_BASE"), std::string::npos);
}

TEST_F(HostileBackendTest, ALostRingGoesOnWhereTheDriverWasTold) {
    ASSERT_TRUE(connect({Script{}, Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    // What a lost back end had taken and not answered lies between the two.
    set_used_index(*host_, 0xfff1);
    (void)host_->queue(0).take_calls();
    backend().die();
    ASSERT_TRUE(eventually([&] { return backends_.size() == 2; }));
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_EQ(backend(1).told(kSetVringBase).at(0).as<wire::VringState>().num, 0xfff1U);
    EXPECT_EQ(backend(1).told(kSetInflightFd).size(), 1U);
    EXPECT_TRUE(backend(1).told(kGetInflightFd).empty()) << "the buffer is kept";
    EXPECT_GE(host_->queue(0).take_calls(), 1U) << "a call may have died with it";
}

TEST_F(HostileBackendTest, ALostPackedRingGoesOnWhereItsBufferSays) {
    // The specification's QueueRegionPacked: version 1, used_idx 7 and old_used_idx 7, wraps 0.
    Script first;
    first.inflight = [](wire::Inflight& inflight, UniqueFd& fd) {
        std::array<uint16_t, 10> head{};
        head[4] = 1;   // version
        head[5] = 64;  // desc_num
        head[8] = 7;   // used_idx
        head[9] = 7;   // old_used_idx
        ASSERT_EQ(::pwrite(fd.get(), head.data(), sizeof head, 0), ssize_t{sizeof head});
        inflight.mmap_size = 65536;
    };
    ASSERT_TRUE(connect({first, Script{}}));
    host_->activate({.count = 1, .packed = true});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_EQ(backend().told(kSetVringBase).at(0).as<wire::VringState>().num, 0x8000'8000U);
    backend().die();
    ASSERT_TRUE(eventually([&] { return backends_.size() == 2; }));
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_EQ(backend(1).told(kSetVringBase).at(0).as<wire::VringState>().num, 0x0007'0007U);
}

TEST_F(HostileBackendTest, APackedRingWithoutABufferIsNotOffered) {
    Script script;
    script.protocol_features =
        script.protocol_features.without(wire::bit(wire::ProtocolFeature::kInflightShmfd));
    ASSERT_TRUE(connect({script}));
    EXPECT_FALSE(FeatureSet(host_->device().offered_features()).has(vmm::kRingPackedBit));
}

/// Nobody knows where its ring is: the driver is told, and the machine around it goes on.
TEST_F(HostileBackendTest, ADeviceThatCannotGoOnHoldsNoResume) {
    Script script;
    script.inflight = [](wire::Inflight& inflight, UniqueFd& fd) {
        inflight = {};
        fd.reset();
    };
    ASSERT_TRUE(connect({script, script}));
    host_->activate({.count = 1, .packed = true});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    backend().die();
    ASSERT_TRUE(eventually([&] { return host_->needs_resets() == 1; }));
    ASSERT_TRUE(host_->reaches(Phase::kReady));
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(host_->suspend());
        const auto resumed = host_->resume();
        ASSERT_FALSE(resumed);
        EXPECT_NE(resumed.error().message.find("in-flight buffer"), std::string::npos)
            << resumed.error().message;
    }
    EXPECT_EQ(host_->needs_resets(), 1);
    ASSERT_TRUE(host_->reset());
    host_->activate({.count = 1, .packed = true});
    EXPECT_TRUE(host_->reaches(Phase::kRunning));
}

TEST_F(HostileBackendTest, OneThatDiesWhileItStartsIsReplaced) {
    Script dies;
    dies.at = kSetVringKick;
    dies.misdeed = Misdeed::kHangUp;
    ASSERT_TRUE(connect({dies, dies, dies, Script{}}));
    host_->activate({.count = 2});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_EQ(host_->needs_resets(), 0);
    EXPECT_EQ(backends_.size(), 4U);
}

TEST_F(HostileBackendTest, OneWithOtherQueuesIsRefusedWithAReason) {
    Script other;
    other.queue_num = 7;
    ASSERT_TRUE(connect({Script{}, other}));
    host_->activate({.count = 2});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    backend().die();
    ASSERT_TRUE(eventually([&] { return host_->needs_resets() == 1; }));
    EXPECT_NE(host_->status().last_loss.find("7 queues, not 2"), std::string::npos)
        << host_->status().last_loss;
}

}  // namespace
}  // namespace outrigger::testing
