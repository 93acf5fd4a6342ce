// SPDX-License-Identifier: Apache-2.0
// What back ends ask for on the channel of their own, and what the front end serves in their place.
#include <optional>
#include <utility>

#include "tests/vmm/hostile_backend.h"

namespace outrigger::testing {
namespace {

TEST_F(HostileBackendTest, MapsInsideTheWindowOnly) {
    Script script;
    script.protocol_features =
        script.protocol_features.with(wire::bit(wire::ProtocolFeature::kShmem))
            .with(wire::bit(wire::ProtocolFeature::kBackendSendFd));
    script.shared_memory = {0, 65536};
    ASSERT_TRUE(connect({script}, kPatient, true));
    EXPECT_EQ(host_->device().shared_windows().region(1).size(), 65536U);
    EXPECT_TRUE(host_->device().shared_windows().region(0).empty());
    const UniqueFd file = create_shared_memory("window", 65536).value();
    const auto map = [&](const wire::ShmemMap& request, bool unmap = false) {
        const int fd = file.get();
        return backend().ask(std::to_underlying(unmap ? wire::BackendRequest::kShmemUnmap
                                                      : wire::BackendRequest::kShmemMap),
                             std::as_bytes(std::span(&request, 1)),
                             unmap ? std::span<const int>() : std::span<const int>(&fd, 1));
    };
    const wire::ShmemMap good{
        .shmid = 1, .padding = {}, .fd_offset = 0, .shm_offset = 4096, .length = 8192, .flags = 1};
    const auto with = [&](auto change) {
        wire::ShmemMap bad = good;
        change(bad);
        return bad;
    };
    EXPECT_EQ(map(good), 0U);
    EXPECT_NE(map(good), 0U) << "there is something";
    EXPECT_NE(map(with([](auto& bad) { bad.shm_offset = 8192; })), 0U) << "overlaps";
    EXPECT_NE(map(with([](auto& bad) { bad.shmid = 0; })), 0U);
    EXPECT_NE(map(with([](auto& bad) { bad.shmid = 255; })), 0U);
    EXPECT_NE(map(with([](auto& bad) { bad.shm_offset = 65536; })), 0U);
    EXPECT_NE(map(with([](auto& bad) { bad.shm_offset = 61440; })), 0U) << "ends behind it";
    EXPECT_NE(map(with([](auto& bad) { bad.shm_offset = ~uint64_t{4095}; })), 0U);
    EXPECT_NE(map(with([](auto& bad) { bad.length = 0; })), 0U);
    EXPECT_NE(map(with([](auto& bad) { bad.length = ~uint64_t{4095}; })), 0U);
    EXPECT_NE(map(with([](auto& bad) { bad.shm_offset = 20000; })), 0U) << "no page";
    EXPECT_NE(map(with([](auto& bad) {
                  bad.shm_offset = 16384;
                  bad.fd_offset = 65536;
              })),
              0U)
        << "behind the end of the file";
    EXPECT_NE(map(with([](auto& bad) { bad.length = 4096; }), true), 0U) << "a part of it";
    EXPECT_EQ(host_->on_loop<size_t>([&] { return host_->device().shared_windows().pieces(); }),
              1U);
    EXPECT_EQ(map(good, true), 0U);
    EXPECT_NE(map(good, true), 0U) << "twice";
    EXPECT_EQ(map(good), 0U);
    ASSERT_TRUE(host_->reset());
    EXPECT_EQ(host_->on_loop<size_t>([&] { return host_->device().shared_windows().pieces(); }), 0U)
        << "a reset unmaps";
}

TEST_F(HostileBackendTest, ItsSharedMemoryGoesWithIt) {
    Script script;
    script.protocol_features =
        script.protocol_features.with(wire::bit(wire::ProtocolFeature::kShmem))
            .with(wire::bit(wire::ProtocolFeature::kBackendSendFd));
    script.shared_memory = {65536};
    ASSERT_TRUE(connect({script}, kPatient, true));
    const UniqueFd file = create_shared_memory("window", 4096).value();
    const int fd = file.get();
    const wire::ShmemMap request{
        .shmid = 0, .padding = {}, .fd_offset = 0, .shm_offset = 0, .length = 4096, .flags = 0};
    EXPECT_EQ(backend().ask(std::to_underlying(wire::BackendRequest::kShmemMap),
                            std::as_bytes(std::span(&request, 1)),
                            std::span(&fd, 1)),
              0U);
    backend().die();
    ASSERT_TRUE(host_->reaches(Phase::kLost));
    EXPECT_EQ(host_->on_loop<size_t>([&] { return host_->device().shared_windows().pieces(); }),
              0U);
}

TEST_F(HostileBackendTest, HearsNothingOfAFeatureThatTheFrontEndServes) {
    constexpr unsigned kMacBit = 5;
    Script script;
    script.features = FeatureSet::of({15, 30, 32});
    script.protocol_features = FeatureSet::of({wire::bit(wire::ProtocolFeature::kReplyAck)});
    std::vector<Script> scripts{script};
    host_ = std::make_unique<ProxyHost>(ProxyHost::Options{
        .kind = "net",
        .source = std::make_unique<ScriptedSource>(std::move(scripts), backends_),
        .given = {.mac = std::array<uint8_t, 6>{2, 0, 0, 0, 0, 9}},
        .deadlines = kPatient});
    ASSERT_TRUE(host_->connect());
    EXPECT_TRUE(FeatureSet(host_->device().offered_features()).has(kMacBit));
    EXPECT_EQ(host_->device().config_bytes(), 6U);
    host_->activate({.count = 2});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    const auto told = backend().told(kSetFeatures);
    ASSERT_EQ(told.size(), 1U);
    EXPECT_FALSE(FeatureSet(told[0].as<uint64_t>()).has(kMacBit));
    EXPECT_TRUE(FeatureSet(told[0].as<uint64_t>()).has(15));
}

TEST_F(HostileBackendTest, RefusesRequestsThatWereNotNegotiated) {
    ASSERT_TRUE(connect({Script{}}));
    for (uint32_t number = 0; number < 12; ++number) {
        if (number == std::to_underlying(wire::BackendRequest::kConfigChangeMsg)) {
            continue;
        }
        EXPECT_NE(backend().ask(number, {}, {}).value_or(1), 0U) << number;
    }
    EXPECT_EQ(host_->status().losses, 0U) << "a refusal is no reason to part";
}

TEST_F(HostileBackendTest, AFloodOfConfigurationChangesIsAskedForOnceAtATime) {
    ASSERT_TRUE(connect({Script{}}));
    const size_t before = backend().told(kGetConfig).size();
    backend().hold();
    for (int i = 0; i < 1000; ++i) {
        ASSERT_EQ(backend().ask(std::to_underlying(wire::BackendRequest::kConfigChangeMsg), {}, {}),
                  0U);
    }
    backend().go_on();
    ASSERT_TRUE(eventually([&] { return backend().told(kGetConfig).size() == before + 2; }));
    give_others_a_moment();
    EXPECT_EQ(backend().told(kGetConfig).size(), before + 2);
}

TEST_F(HostileBackendTest, IsLostWhenItDoesNotReadTheAnswersToItsRequests) {
    ASSERT_TRUE(connect({Script{}}));
    const wire::Header header{
        .request = 2, .flags = wire::kVersion | wire::kFlagNeedReply, .size = 0};
    const int channel = backend().requests_fd();
    ASSERT_TRUE(eventually([&] {
        // A thousand at a time, and no answer read.
        for (int i = 0; i < 1000; ++i) {
            (void)wire::send_some(channel, std::as_bytes(std::span(&header, 1)), {}, {});
        }
        return host_->status().phase == Phase::kLost;
    }));
    EXPECT_NE(host_->status().last_loss.find("its own requests"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::testing
