// SPDX-License-Identifier: Apache-2.0
// What the back end asks on its own channel, seen from the front end's end of it.
#include <chrono>
#include <thread>
#include <vector>

#include <sys/socket.h>
#include <sys/stat.h>

#include <gtest/gtest.h>

#include "tests/support/channel_test.h"

namespace outrigger::testing {
namespace {

class ChannelMessages : public ChannelTest {};

constexpr Uuid kObject = {std::byte{1}, std::byte{2}, std::byte{3}};

[[nodiscard]] bool same_file(int left, int right) {
    struct stat a {};

    struct stat b {};

    return ::fstat(left, &a) == 0 && ::fstat(right, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

// --- CONFIG_CHANGE_MSG -------------------------------------------------------------------------

TEST_F(ChannelMessages, ConfigChangeIsAnEmptyMessageThatWantsAReply) {
    run_with_channel();
    device_.frontend()->config_changed();
    const auto message = expect_request(BackendRequest::kConfigChangeMsg);
    EXPECT_EQ(message.header.flags, wire::kVersion | wire::kFlagNeedReply);
    EXPECT_TRUE(message.payload.empty());
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    expect_echo();
}

TEST_F(ChannelMessages, WithoutReplyAckNoReplyIsWanted) {
    run_with_channel(
        {.protocol_features = kEverything.without(bit(ProtocolFeature::kReplyAck))
                                  .without(bit(ProtocolFeature::kInbandNotifications))});
    device_.frontend()->config_changed();
    EXPECT_EQ(expect_request(BackendRequest::kConfigChangeMsg).header.flags, wire::kVersion);
    // Done when sent, so the next one follows at once.
    settle();
    device_.frontend()->config_changed();
    EXPECT_EQ(expect_request(BackendRequest::kConfigChangeMsg).header.flags, wire::kVersion);
}

TEST_F(ChannelMessages, ConfigChangesBeforeTheReplyMakeOneMore) {
    run_with_channel();
    device_.frontend()->config_changed();
    const auto first = expect_request(BackendRequest::kConfigChangeMsg);
    for (int i = 0; i < 100; ++i) {
        device_.frontend()->config_changed();
    }
    settle();
    EXPECT_FALSE(channel().has_input());
    EXPECT_EQ(channel().reply(first, 0), Answer::kUnasked);
    const auto second = expect_request(BackendRequest::kConfigChangeMsg);
    EXPECT_EQ(channel().reply(second, 0), Answer::kUnasked);
    expect_echo();
    settle();
    EXPECT_FALSE(channel().has_input());
}

// "While all vrings are stopped, the device must not send any messages to the front-end."
TEST_F(ChannelMessages, ConfigChangeOfASuspendedDeviceIsSentWhenARingStarts) {
    run_with_channel();
    ASSERT_TRUE(queue().stop(frontend()));
    device_.frontend()->config_changed();
    settle();
    EXPECT_FALSE(channel().has_input());
    queue().reset();
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    (void)expect_request(BackendRequest::kConfigChangeMsg);
}

TEST_F(ChannelMessages, ConfigChangeBeforeTheChannelCameIsSentThen) {
    run({.protocol_features = kEverything});
    device_.frontend()->config_changed();
    settle();
    open_channel();
    (void)expect_request(BackendRequest::kConfigChangeMsg);
}

TEST_F(ChannelMessages, ConfigChangeIsNotSentWhereConfigWasNotNegotiated) {
    run_with_channel(everything_without(ProtocolFeature::kConfig));
    device_.frontend()->config_changed();
    auto done = add(kObject);
    // Requests keep their order: were the change sent, it would come first.
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectAdd), 0),
              Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
}

TEST_F(ChannelMessages, ASecondChannelTakesTheFirstOnesPlace) {
    run_with_channel();
    device_.frontend()->config_changed();
    (void)expect_request(BackendRequest::kConfigChangeMsg);
    auto lost = add(kObject);
    (void)expect_request(BackendRequest::kSharedObjectAdd);
    driver::ChannelEnd first = *std::exchange(channel_, std::nullopt);
    open_channel();
    EXPECT_TRUE(first.wait_closed());
    EXPECT_EQ(error_of(lost), FrontendError::kGone);
    // The change was not acknowledged, so it is told again.
    (void)expect_request(BackendRequest::kConfigChangeMsg);
    expect_echo();
}

// --- Shared objects ----------------------------------------------------------------------------

TEST_F(ChannelMessages, SharedObjectAddCarriesTheUuid) {
    run_with_channel();
    auto done = add(kObject);
    const auto message = expect_request(BackendRequest::kSharedObjectAdd);
    EXPECT_EQ(std::memcmp(payload_as<wire::SharedObject>(message).uuid, kObject.data(), 16), 0);
    EXPECT_TRUE(message.needs_reply());
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
}

TEST_F(ChannelMessages, SharedObjectRemoveThatIsRefusedSaysSo) {
    run_with_channel();
    auto done = remove(kObject);
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectRemove), 1),
              Answer::kUnasked);
    EXPECT_EQ(error_of(done), FrontendError::kRefused);
}

TEST_F(ChannelMessages, SharedObjectLookupBringsADescriptor) {
    run_with_channel();
    auto found = look_up(kObject);
    const auto file = some_file();
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectLookup), 0, file.get()),
              Answer::kUnasked);
    ASSERT_EQ(found.wait_for(kPatience), std::future_status::ready);
    const auto fd = found.get();
    ASSERT_TRUE(fd);
    EXPECT_TRUE(same_file(fd->get(), file.get()));
}

// The reply is the lookup's own: it comes also where REPLY_ACK was not negotiated.
TEST_F(ChannelMessages, SharedObjectLookupIsAnsweredWithoutReplyAck) {
    run_with_channel(
        {.protocol_features = kEverything.without(bit(ProtocolFeature::kReplyAck))
                                  .without(bit(ProtocolFeature::kInbandNotifications))});
    auto found = look_up(kObject);
    const auto message = expect_request(BackendRequest::kSharedObjectLookup);
    EXPECT_FALSE(message.needs_reply());
    EXPECT_EQ(channel().reply(message, 0, some_file().get()), Answer::kUnasked);
    EXPECT_EQ(error_of(found), kNoError);
}

TEST_F(ChannelMessages, SharedObjectLookupThatFailsOrBringsNothingIsRefused) {
    run_with_channel();
    auto failed = look_up(kObject);
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectLookup), 1),
              Answer::kUnasked);
    EXPECT_EQ(error_of(failed), FrontendError::kRefused);
    auto empty = look_up(kObject);
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectLookup), 0),
              Answer::kUnasked);
    EXPECT_EQ(error_of(empty), FrontendError::kRefused);
}

TEST_F(ChannelMessages, RepliesGoToTheRequestsInTheirOrder) {
    run_with_channel();
    std::vector<Done> asked;
    for (int i = 0; i < 10; ++i) {
        asked.push_back(add(kObject));
    }
    for (uint64_t i = 0; i < 10; ++i) {
        EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectAdd), i % 2),
                  Answer::kUnasked);
    }
    for (size_t i = 0; i < 10; ++i) {
        EXPECT_EQ(error_of(asked[i]).has_value(), i % 2 == 1) << i;
    }
}

// --- When nothing may be sent ------------------------------------------------------------------

TEST_F(ChannelMessages, WhatWasNotNegotiatedIsNotSent) {
    run_with_channel({.protocol_features = kEverything.without(bit(ProtocolFeature::kSharedObject))
                                               .without(bit(ProtocolFeature::kShmem))});
    EXPECT_EQ(error_of(add(kObject)), FrontendError::kNotNegotiated);
    EXPECT_EQ(error_of(look_up(kObject)), FrontendError::kNotNegotiated);
    EXPECT_EQ(error_of(unmap({.region = 0, .offset = 0, .bytes = kPage})),
              FrontendError::kNotNegotiated);
    EXPECT_FALSE(channel().has_input());
}

TEST_F(ChannelMessages, WithoutAChannelNothingCanBeAsked) {
    run({.protocol_features = kEverything});
    EXPECT_EQ(error_of(add(kObject)), FrontendError::kNotNegotiated);
}

TEST_F(ChannelMessages, ASuspendedDeviceAsksNothing) {
    negotiate({.protocol_features = kEverything});
    open_channel();
    EXPECT_EQ(error_of(add(kObject)), FrontendError::kSuspended);
    EXPECT_FALSE(channel().has_input());
}

TEST_F(ChannelMessages, RequestsThatNobodyAnswersAreBounded) {
    run_with_channel();
    std::vector<Done> asked;
    for (int i = 0; i < 300; ++i) {
        asked.push_back(add(kObject));
    }
    EXPECT_EQ(error_of(asked.back()), FrontendError::kTooMany);
    // Those before the bound are all answered once the front end begins to.
    int answered = 0;
    for (; answered < 255; ++answered) {
        EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectAdd), 0),
                  Answer::kUnasked);
    }
    EXPECT_EQ(error_of(asked[254]), kNoError);
    EXPECT_EQ(error_of(asked[255]), FrontendError::kTooMany);
    expect_echo();
}

// A socket that nobody reads holds no control thread: what does not fit is kept.
TEST_F(ChannelMessages, AChannelThatIsNotReadDelaysNothingElse) {
    run({.protocol_features = kEverything});
    auto opened = driver::ChannelEnd::open(frontend());
    ASSERT_TRUE(opened);
    channel_.emplace(*std::move(opened));
    channel_->set_time_limit(kPatience);
    const int bytes = 1;  // the smallest that the system allows
    ASSERT_EQ(::setsockopt(channel().socket(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes), 0);
    std::vector<Done> asked;
    for (int i = 0; i < 255; ++i) {
        asked.push_back(add(kObject));
    }
    expect_echo();
    for (int i = 0; i < 255; ++i) {
        EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectAdd), 0),
                  Answer::kUnasked);
    }
    EXPECT_EQ(error_of(asked.back()), kNoError);
}

// "While all vrings are stopped, the device must not send any messages to the front-end."
TEST_F(ChannelMessages, WhatAFullChannelDidNotTakeWaitsWhileTheDeviceIsSuspended) {
    run({.protocol_features = kEverything});
    constexpr int kSmallest = 1;
    auto opened = driver::ChannelEnd::open(frontend(), kSmallest);
    ASSERT_TRUE(opened);
    channel_.emplace(*std::move(opened));
    channel_->set_time_limit(kPatience);
    constexpr int kAsked = 100;
    std::vector<Done> asked;
    for (int i = 0; i < kAsked; ++i) {
        asked.push_back(add(kObject));
    }
    settle();
    ASSERT_TRUE(queue().stop(frontend()));
    int seen = 0;
    for (; channel().has_input(); ++seen) {
        (void)expect_request(BackendRequest::kSharedObjectAdd);
    }
    ASSERT_LT(seen, kAsked);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(channel().has_input());
    queue().reset();
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    for (; seen < kAsked; ++seen) {
        (void)expect_request(BackendRequest::kSharedObjectAdd);
    }
}

TEST_F(ChannelMessages, AChannelThatIsClosedEndsAloneAndItsRequestsKnow) {
    run_with_channel();
    auto lost = add(kObject);
    (void)expect_request(BackendRequest::kSharedObjectAdd);
    channel().close();
    EXPECT_EQ(error_of(lost), FrontendError::kGone);
    EXPECT_EQ(error_of(add(kObject)), FrontendError::kGone);
    expect_echo();
    EXPECT_EQ(counters().closed.total(), 0U);
    open_channel();
    auto done = add(kObject);
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectAdd), 0),
              Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
}

TEST_F(ChannelMessages, AfterTheSessionsEndNothingIsTaken) {
    run_with_channel();
    auto lost = add(kObject);
    (void)expect_request(BackendRequest::kSharedObjectAdd);
    const auto kept = device_.frontend();
    frontend().close();
    ASSERT_TRUE(host_->wait_closed());
    EXPECT_EQ(error_of(lost), FrontendError::kGone);
    EXPECT_EQ(device_.frontend(), nullptr);
    bool called = false;
    EXPECT_FALSE(kept->add_shared_object(kObject, [&](const auto&) { called = true; }));
    kept->config_changed();
    EXPECT_FALSE(called);
}

// --- Shared memory -----------------------------------------------------------------------------

TEST_F(ChannelMessages, ShmemMapCarriesTheMappingAndItsDescriptor) {
    run_with_channel();
    const auto file = some_file();
    auto done = map({.region = 0, .offset = 2 * kPage, .bytes = 3 * kPage},
                    {.fd = some_file(), .fd_offset = kPage, .writable = true});
    const auto message = expect_request(BackendRequest::kShmemMap);
    const auto mapping = payload_as<wire::ShmemMap>(message);
    EXPECT_EQ(mapping.shmid, 0U);
    EXPECT_EQ(mapping.fd_offset, kPage);
    EXPECT_EQ(mapping.shm_offset, 2 * kPage);
    EXPECT_EQ(mapping.length, 3 * kPage);
    EXPECT_EQ(mapping.flags, 1U);
    ASSERT_EQ(message.fds.size(), 1U);
    EXPECT_TRUE(same_file(message.fds[0].get(), file.get()));
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
}

TEST_F(ChannelMessages, ShmemMapForReadingSaysSo) {
    run_with_channel();
    auto done = map({.region = 2, .offset = 0, .bytes = kPage}, {.fd = some_file()});
    const auto message = expect_request(BackendRequest::kShmemMap);
    EXPECT_EQ(payload_as<wire::ShmemMap>(message).flags, 0U);
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
}

TEST_F(ChannelMessages, ShmemMapChecksItsValuesBeforeItSends) {
    run_with_channel();
    const auto error = [&](SharedMemoryRange range, uint64_t fd_offset = 0) {
        return error_of(map(range, {.fd = some_file(), .fd_offset = fd_offset}));
    };
    constexpr auto kValue = FrontendError::kValue;
    EXPECT_EQ(error({.region = 0, .offset = 0, .bytes = 0}), kValue);
    EXPECT_EQ(error({.region = 0, .offset = 0, .bytes = kPage - 1}), kValue);
    EXPECT_EQ(error({.region = 0, .offset = 1, .bytes = kPage}), kValue);
    EXPECT_EQ(error({.region = 0, .offset = 0, .bytes = kPage}, 1), kValue);
    EXPECT_EQ(error({.region = 0, .offset = 0, .bytes = kPage}, ~uint64_t{kPage - 1}), kValue);
    EXPECT_EQ(error({.region = 0, .offset = 0, .bytes = 17 * kPage}), kValue);
    EXPECT_EQ(error({.region = 0, .offset = 16 * kPage, .bytes = kPage}), kValue);
    EXPECT_EQ(error({.region = 0, .offset = kPage, .bytes = ~uint64_t{kPage - 1}}), kValue);
    EXPECT_EQ(error({.region = 1, .offset = 0, .bytes = kPage}), kValue);
    EXPECT_EQ(error({.region = 3, .offset = 0, .bytes = kPage}), kValue);
    EXPECT_EQ(error_of(map({.region = 0, .offset = 0, .bytes = kPage}, {})), kValue);
    EXPECT_FALSE(channel().has_input());
}

TEST_F(ChannelMessages, ShmemMapNeverOverlapsAndUnmapTakesWholeMappings) {
    run_with_channel();
    auto first = map({.region = 0, .offset = 4 * kPage, .bytes = 4 * kPage}, {.fd = some_file()});
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemMap), 0), Answer::kUnasked);
    EXPECT_EQ(error_of(first), kNoError);
    const auto map_error = [&](uint64_t page, uint64_t pages) {
        return error_of(map({.region = 0, .offset = page * kPage, .bytes = pages * kPage},
                            {.fd = some_file()}));
    };
    EXPECT_EQ(map_error(4, 4), FrontendError::kValue);
    EXPECT_EQ(map_error(3, 2), FrontendError::kValue);
    EXPECT_EQ(map_error(7, 2), FrontendError::kValue);
    EXPECT_EQ(map_error(0, 16), FrontendError::kValue);
    const auto unmap_error = [&](uint64_t page, uint64_t pages) {
        return error_of(unmap({.region = 0, .offset = page * kPage, .bytes = pages * kPage}));
    };
    EXPECT_EQ(unmap_error(4, 3), FrontendError::kValue);
    EXPECT_EQ(unmap_error(5, 3), FrontendError::kValue);
    EXPECT_EQ(unmap_error(4, 5), FrontendError::kValue);
    EXPECT_EQ(unmap_error(0, 1), FrontendError::kValue);

    auto whole = unmap({.region = 0, .offset = 4 * kPage, .bytes = 4 * kPage});
    const auto message = expect_request(BackendRequest::kShmemUnmap);
    EXPECT_EQ(payload_as<wire::ShmemMap>(message).shm_offset, 4 * kPage);
    EXPECT_TRUE(message.fds.empty());
    // On its way out it still takes its place, and cannot go twice.
    EXPECT_EQ(map_error(4, 1), FrontendError::kValue);
    EXPECT_EQ(unmap_error(4, 4), FrontendError::kValue);
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    EXPECT_EQ(error_of(whole), kNoError);
    auto again = map({.region = 0, .offset = 3 * kPage, .bytes = 2 * kPage}, {.fd = some_file()});
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemMap), 0), Answer::kUnasked);
    EXPECT_EQ(error_of(again), kNoError);
}

TEST_F(ChannelMessages, ShmemMapThatIsRefusedLeavesItsPlaceFree) {
    run_with_channel();
    const SharedMemoryRange range{.region = 2, .offset = 0, .bytes = kPage};
    auto refused = map(range, {.fd = some_file()});
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemMap), 1), Answer::kUnasked);
    EXPECT_EQ(error_of(refused), FrontendError::kRefused);
    EXPECT_EQ(error_of(unmap(range)), FrontendError::kValue);
    auto again = map(range, {.fd = some_file()});
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemMap), 0), Answer::kUnasked);
    EXPECT_EQ(error_of(again), kNoError);
}

TEST_F(ChannelMessages, ShmemUnmapThatIsRefusedLeavesTheMapping) {
    run_with_channel();
    const SharedMemoryRange range{.region = 2, .offset = 0, .bytes = kPage};
    auto mapped = map(range, {.fd = some_file()});
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemMap), 0), Answer::kUnasked);
    EXPECT_EQ(error_of(mapped), kNoError);
    auto refused = unmap(range);
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemUnmap), 1), Answer::kUnasked);
    EXPECT_EQ(error_of(refused), FrontendError::kRefused);
    EXPECT_EQ(error_of(map(range, {.fd = some_file()})), FrontendError::kValue);
}

TEST_F(ChannelMessages, WhatAnEarlierProcessHadMappedIsUnmappedWhenItIsAdopted) {
    run_with_channel();
    const SharedMemoryRange range{.region = 0, .offset = 4 * kPage, .bytes = 2 * kPage};
    EXPECT_EQ(error_of(unmap(range)), FrontendError::kValue);
    const auto frontend = device_.frontend();
    frontend->adopt_shared_memory(range);
    frontend->adopt_shared_memory({.region = 0, .offset = 5 * kPage, .bytes = kPage});
    frontend->adopt_shared_memory({.region = 0, .offset = 16 * kPage, .bytes = kPage});
    EXPECT_EQ(
        error_of(map({.region = 0, .offset = 5 * kPage, .bytes = kPage}, {.fd = some_file()})),
        FrontendError::kValue);
    EXPECT_EQ(error_of(unmap({.region = 0, .offset = 5 * kPage, .bytes = kPage})),
              FrontendError::kValue);
    auto done = unmap(range);
    const auto message = expect_request(BackendRequest::kShmemUnmap);
    EXPECT_EQ(payload_as<wire::ShmemMap>(message).shm_offset, 4 * kPage);
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
}

// The earlier process was killed before it had sent what it was about to ask for.
TEST_F(ChannelMessages, WhatWasAdoptedAndIsNotThereLeavesItsPlaceFree) {
    run_with_channel();
    const SharedMemoryRange range{.region = 0, .offset = 4 * kPage, .bytes = 2 * kPage};
    device_.frontend()->adopt_shared_memory(range);
    auto refused = unmap(range);
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemUnmap), 1), Answer::kUnasked);
    EXPECT_EQ(error_of(refused), FrontendError::kRefused);
    auto mapped = map(range, {.fd = some_file()});
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemMap), 0), Answer::kUnasked);
    EXPECT_EQ(error_of(mapped), kNoError);
}

// "Mappings are automatically unmapped by the front-end across device reset operation."
TEST_F(ChannelMessages, AResetUnmapsEverything) {
    run_with_channel();
    const SharedMemoryRange range{.region = 2, .offset = 0, .bytes = kPage};
    auto mapped = map(range, {.fd = some_file()});
    const auto message = expect_request(BackendRequest::kShmemMap);
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    // Its answer comes late, and means nothing any more.
    EXPECT_EQ(channel().reply(message, 1), Answer::kUnasked);
    EXPECT_EQ(error_of(mapped), FrontendError::kRefused);
    queue().reset();
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    EXPECT_EQ(error_of(unmap(range)), FrontendError::kValue);
    auto again = map(range, {.fd = some_file()});
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kShmemMap), 0), Answer::kUnasked);
    EXPECT_EQ(error_of(again), kNoError);
}

TEST_F(ChannelMessages, ShmemMapNeedsTheFeatureThatLetsDescriptorsTravel) {
    run_with_channel(everything_without(ProtocolFeature::kBackendSendFd));
    EXPECT_EQ(error_of(map({.region = 0, .offset = 0, .bytes = kPage}, {.fd = some_file()})),
              FrontendError::kNotNegotiated);
}

// --- Requests of the front end that belong to abilities ----------------------------------------

TEST_F(ChannelMessages, GetShmemConfigGivesCountAndSizes) {
    negotiate({.protocol_features = kEverything});
    const auto config = frontend().get_shmem_config();
    ASSERT_TRUE(config) << describe(config.error());
    EXPECT_EQ(config->region_count, 3U);
    EXPECT_EQ(config->sizes[0], 16 * kPage);
    EXPECT_EQ(config->sizes[1], 0U);
    EXPECT_EQ(config->sizes[2], kPage);
    EXPECT_EQ(config->sizes[3], 0U);
}

TEST_F(ChannelMessages, GetSharedObjectGivesADescriptorOrNone) {
    negotiate({.protocol_features = kEverything});
    const auto file = some_file();
    device_.share(kObject, file.get());
    wire::SharedObject object{};
    std::memcpy(object.uuid, kObject.data(), sizeof object.uuid);
    const auto found = frontend().get_shared_object(object);
    ASSERT_TRUE(found);
    EXPECT_TRUE(same_file(found->get(), file.get()));
    object.uuid[15] ^= 1;
    const auto none = frontend().get_shared_object(object);
    ASSERT_TRUE(none);
    EXPECT_FALSE(none->valid());
    EXPECT_EQ(counters().refused.value(Refusal::kSharedObject), 1U);
    expect_echo();
}

TEST_F(ChannelMessages, NetSetMtuReachesTheDevice) {
    negotiate({.protocol_features = kEverything});
    EXPECT_EQ(frontend().net_set_mtu(65535), Answer::kAccepted);
    EXPECT_EQ(device_.mtu(), 65535U);
    expect_refusal(Refusal::kMtu, [&] { return frontend().net_set_mtu(65536); });
    expect_refusal(Refusal::kMtu, [&] { return frontend().net_set_mtu(kImpossibleMtu); });
    EXPECT_EQ(device_.mtu(), 65535U);
}

TEST_F(ChannelMessages, SendRarpReachesTheDevice) {
    negotiate({.protocol_features = kEverything});
    constexpr std::array<uint8_t, 8> kPayload = {0x52, 0x54, 0, 1, 2, 3, 0, 0};
    uint64_t payload = 0;
    std::memcpy(&payload, kPayload.data(), sizeof payload);
    EXPECT_EQ(frontend().send_rarp(payload), Answer::kAccepted);
    EXPECT_EQ(device_.address(), 0x5254'0001'0203U);
    expect_refusal(Refusal::kAddress, [&] { return frontend().send_rarp(0); });
}

TEST_F(ChannelMessages, SetBackendReqFdTakesConnectedUnixStreamsOnly) {
    negotiate({.protocol_features = kEverything});
    const auto refused = [&](const UniqueFd& fd) {
        expect_refusal(Refusal::kChannelFd,
                       [&] { return frontend().set_backend_req_fd(fd.get()); });
    };
    refused(some_file());
    refused(UniqueFd(::socket(AF_UNIX, SOCK_STREAM, 0)));
    refused(UniqueFd(::socket(AF_INET, SOCK_STREAM, 0)));
    std::array<int, 2> datagrams{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams.data()), 0);
    refused(UniqueFd(datagrams[0]));
    ::close(datagrams[1]);
    open_channel();
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
