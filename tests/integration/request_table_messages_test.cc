// SPDX-License-Identifier: Apache-2.0
// Every row of the request table that needs something, or is not served: what a front end gets that
// sends it all the same. What is served is in the served_*_messages_test.cc files beside this one.
#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <linux/virtio_config.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/wire/request_table.h"

#include "tests/support/channel_test.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

/// What the specification leaves a back end to say when it does not do what it is asked for.
enum class Refused : uint8_t {
    kAck,     ///< non-zero, when NEED_REPLY asks for it
    kStatus,  ///< the reply is a u64 that says so: always
    kNoFd,    ///< likewise; bit 8 says that there is no descriptor
    kEmpty,   ///< a payload of size zero
    kSame,    ///< the same payload without a descriptor
    kCloses,  ///< the reply has no form for it
};

struct Row {
    uint32_t number;
    std::string_view name;
    Refused refused;
    size_t payload_bytes;
    size_t fds;
};

// Written from the specification, not from the table.
constexpr std::array kRows = {
    Row{6, "SET_LOG_BASE", Refused::kAck, 16, 1},
    Row{17, "GET_QUEUE_NUM", Refused::kCloses, 0, 0},
    Row{18, "SET_VRING_ENABLE", Refused::kAck, 8, 0},
    Row{19, "SEND_RARP", Refused::kAck, 8, 0},
    Row{20, "NET_SET_MTU", Refused::kAck, 8, 0},
    Row{21, "SET_BACKEND_REQ_FD", Refused::kAck, 0, 1},
    Row{22, "IOTLB_MSG", Refused::kStatus, 32, 0},
    Row{23, "SET_VRING_ENDIAN", Refused::kAck, 8, 0},
    Row{24, "GET_CONFIG", Refused::kEmpty, 12, 0},
    Row{25, "SET_CONFIG", Refused::kAck, 12, 0},
    Row{26, "CREATE_CRYPTO_SESSION", Refused::kCloses, 1024, 0},
    Row{27, "CLOSE_CRYPTO_SESSION", Refused::kAck, 8, 0},
    Row{28, "POSTCOPY_ADVISE", Refused::kCloses, 0, 0},
    Row{29, "POSTCOPY_LISTEN", Refused::kAck, 0, 0},
    Row{30, "POSTCOPY_END", Refused::kStatus, 0, 0},
    Row{31, "GET_INFLIGHT_FD", Refused::kCloses, 24, 0},
    Row{32, "SET_INFLIGHT_FD", Refused::kAck, 24, 1},
    Row{33, "GPU_SET_SOCKET", Refused::kAck, 0, 1},
    Row{34, "RESET_DEVICE", Refused::kAck, 0, 0},
    Row{35, "VRING_KICK", Refused::kAck, 8, 0},
    Row{36, "GET_MAX_MEM_SLOTS", Refused::kCloses, 0, 0},
    Row{37, "ADD_MEM_REG", Refused::kAck, 40, 1},
    Row{38, "REM_MEM_REG", Refused::kAck, 40, 0},
    Row{39, "SET_STATUS", Refused::kAck, 8, 0},
    Row{40, "GET_STATUS", Refused::kCloses, 0, 0},
    Row{41, "GET_SHARED_OBJECT", Refused::kSame, 16, 0},
    Row{42, "SET_DEVICE_STATE_FD", Refused::kNoFd, 8, 1},
    Row{43, "CHECK_DEVICE_STATE", Refused::kStatus, 0, 0},
    Row{44, "GET_SHMEM_CONFIG", Refused::kCloses, 0, 0},
    Row{45, "GET_VRING_BASE_SKIP_DRAIN", Refused::kCloses, 8, 0},
};

bool is_served(uint32_t request) {
    return wire::find_frontend_request(request)->served == wire::Served::kYes;
}

TEST(RequestTableMessages, EveryRowThatCanBeRefusedIsTried) {
    std::set<std::string_view> tried;
    for (const Row& row : kRows) {
        tried.insert(row.name);
        EXPECT_EQ(wire::find_frontend_request(row.number)->name, row.name);
    }
    for (const auto& request : wire::frontend_requests()) {
        const bool always = (request.gate.kind == wire::Gate::Kind::kAlways ||
                             request.gate.kind == wire::Gate::Kind::kProtocolNegotiation) &&
                            request.served == wire::Served::kYes;
        EXPECT_EQ(tried.contains(request.name), !always) << request.name;
    }
}

TEST(RequestTableMessages, EveryRequestOfTheBackEndThatIsServedIsTested) {
    // In served_channel_messages_test.cc, in_band_test.cc and iommu_test.cc.
    const std::set<std::string_view> sent = {"IOTLB_MSG",
                                             "CONFIG_CHANGE_MSG",
                                             "VRING_CALL",
                                             "VRING_ERR",
                                             "SHARED_OBJECT_ADD",
                                             "SHARED_OBJECT_REMOVE",
                                             "SHARED_OBJECT_LOOKUP",
                                             "SHMEM_MAP",
                                             "SHMEM_UNMAP"};
    std::set<std::string_view> served;
    for (const auto& request : wire::backend_requests()) {
        if (request.served == wire::Served::kYes) {
            served.insert(request.name);
        }
    }
    EXPECT_EQ(served, sent);
}

class RefusedMessages : public ChannelTest,
                        public ::testing::WithParamInterface<std::tuple<Row, bool, bool>> {
  protected:
    /// Sends the message, well-formed, with or without NEED_REPLY.
    void send(const Row& row, bool need_reply) {
        payload_.resize(row.payload_bytes);
        const std::vector<int> fds(row.fds, memory_.fd(memory_.regions()[0]));
        ASSERT_EQ(
            frontend().send({.request = row.number,
                             .flags = wire::kVersion | (need_reply ? wire::kFlagNeedReply : 0),
                             .size = static_cast<uint32_t>(row.payload_bytes)},
                            payload_,
                            fds),
            Answer::kUnasked);
    }

    void expect_u64(const Row& row, uint64_t value) {
        const auto reply = frontend().receive();
        ASSERT_TRUE(reply) << describe(reply.error());
        EXPECT_EQ(reply->header.request, row.number);
        EXPECT_TRUE(reply->fds.empty());
        EXPECT_EQ(payload_as<uint64_t>(*reply), value);
    }

    void expect_payload(const Row& row, const std::vector<std::byte>& payload) {
        const auto reply = frontend().receive();
        ASSERT_TRUE(reply) << describe(reply.error());
        EXPECT_EQ(reply->header.request, row.number);
        EXPECT_TRUE(reply->fds.empty());
        EXPECT_EQ(reply->payload, payload);
    }

    std::vector<std::byte> payload_;
};

std::vector<std::tuple<Row, bool, bool>> refused_cases() {
    std::vector<std::tuple<Row, bool, bool>> cases;
    for (const Row& row : kRows) {
        for (const bool need_reply : {false, true}) {
            cases.emplace_back(row, need_reply, false);
            if (!is_served(row.number)) {
                cases.emplace_back(row, need_reply, true);
            }
        }
    }
    return cases;
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Row, bool, bool>>& refused) {
    const auto& [row, need_reply, negotiated] = refused.param;
    return std::string(row.name) + (negotiated ? "_Negotiated" : "_NotNegotiated") +
           (need_reply ? "_NeedReply" : "");
}

INSTANTIATE_TEST_SUITE_P(Rows, RefusedMessages, ::testing::ValuesIn(refused_cases()), case_name);

TEST_P(RefusedMessages, AreAnsweredAsTheirReplyAllowsAndLeaveNothing) {
    const auto& [row, need_reply, negotiated] = GetParam();
    if (negotiated) {
        negotiate({.protocol_features = kEverything});
    } else {
        const auto reply_ack = FeatureSet::of({bit(ProtocolFeature::kReplyAck)});
        ASSERT_EQ(frontend().set_protocol_features(reply_ack), Answer::kUnasked);
        // Before any features are known it is taken from whoever set those of the protocol, as QEMU
        // does.
        if (row.name == "SET_VRING_ENABLE") {
            ASSERT_EQ(frontend().set_features(FeatureSet::of({VIRTIO_F_VERSION_1})),
                      Answer::kAccepted);
        }
    }
    ASSERT_TRUE(frontend().get_features());
    const ProcessCounts before = ProcessCounts::now();
    send(row, need_reply);
    switch (row.refused) {
        case Refused::kAck:
            if (need_reply) {
                expect_u64(row, 1);
            }
            break;
        case Refused::kStatus:
            expect_u64(row, 1);
            break;
        case Refused::kNoFd:
            expect_u64(row, 0x101);
            break;
        case Refused::kEmpty:
            expect_payload(row, {});
            break;
        case Refused::kSame:
            expect_payload(row, payload_);
            break;
        case Refused::kCloses:
            expect_close_and_next_session(CloseReason::kRefused);
            return;
    }
    // One answer at most, no descriptor is left, and the connection lives.
    EXPECT_TRUE(frontend().get_features());
    EXPECT_FALSE(frontend().has_input());
    EXPECT_EQ(counters().refused.total(), 1U);
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }));
    EXPECT_EQ(counters().closed.total(), 0U);
}

// What is not offered cannot be negotiated, so the back end never sends what belongs to it.
TEST_F(ChannelTest, HostNotifiersAreNotOffered) {
    const auto protocol = frontend().get_protocol_features().value();
    EXPECT_FALSE(protocol.has(bit(ProtocolFeature::kHostNotifier)));
}

}  // namespace
}  // namespace outrigger::testing
