// SPDX-License-Identifier: Apache-2.0
#include "devices/net/address_rewriter.h"

#include <cstring>
#include <string>
#include <utility>

#include <arpa/inet.h>

#include <gtest/gtest.h>

#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

using testing::FrameOptions;
using testing::make_frame;
using testing::read_frame;

constexpr uint16_t kGuestPort = 4321;

class AddressRewriterTest : public ::testing::TestWithParam<std::pair<bool, bool>> {
  protected:
    [[nodiscard]] bool is_ip6() const { return GetParam().first; }

    [[nodiscard]] std::string shown() const { return bytes_of(is_ip6() ? "fd00::3" : "10.0.2.3"); }

    [[nodiscard]] std::string real() const {
        return bytes_of(is_ip6() ? "2001:db8::7" : "192.0.2.7");
    }

    [[nodiscard]] std::string guest() const {
        return bytes_of(is_ip6() ? "fd00::15" : "10.0.2.15");
    }

    [[nodiscard]] std::string bytes_of(const char* text) const {
        std::string bytes(is_ip6() ? 16 : 4, '\0');
        EXPECT_EQ(::inet_pton(is_ip6() ? AF_INET6 : AF_INET, text, bytes.data()), 1);
        return bytes;
    }

    [[nodiscard]] Endpoint endpoint(const std::string& bytes, uint16_t port) const {
        Endpoint made{.is_ip6 = is_ip6(), .port = port};
        std::memcpy(is_ip6() ? static_cast<void*>(&made.address6) : &made.address4,
                    bytes.data(),
                    bytes.size());
        return made;
    }

    [[nodiscard]] FrameOptions options() const {
        return {.ip6 = is_ip6(), .udp = GetParam().second};
    }

    [[nodiscard]] std::string to_server(const std::string& address, uint16_t port) const {
        FrameOptions made = options();
        made.source = guest();
        made.destination = address;
        made.source_port = kGuestPort;
        made.destination_port = port;
        return make_frame("question", made);
    }

    [[nodiscard]] std::string from_server(const std::string& address, uint16_t port) const {
        FrameOptions made = options();
        made.source = address;
        made.destination = guest();
        made.source_port = port;
        made.destination_port = kGuestPort;
        return make_frame("answer", made);
    }

    std::string rewritten(std::string frame) {
        rewriter_.rewrite_from_guest(std::as_writable_bytes(std::span(frame)));
        return frame;
    }

    std::string answered(std::string frame) {
        rewriter_.rewrite_to_guest(std::as_writable_bytes(std::span(frame)));
        return frame;
    }

    AddressRewriter rewriter_{endpoint(shown(), 53), endpoint(real(), 5353)};
};

TEST_P(AddressRewriterTest, QuestionsGoToTheRealServerAndAnswersComeFromTheOther) {
    const auto question = read_frame(rewritten(to_server(shown(), 53)));
    ASSERT_TRUE(question);
    EXPECT_EQ(question->destination, real());
    EXPECT_EQ(question->destination_port, 5353);
    EXPECT_EQ(question->source, guest());
    EXPECT_EQ(question->payload, "question");
    const auto answer = read_frame(answered(from_server(real(), 5353)));
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->source, shown());
    EXPECT_EQ(answer->source_port, 53);
    EXPECT_EQ(answer->destination, guest());
    EXPECT_EQ(answer->payload, "answer");
}

TEST_P(AddressRewriterTest, OtherPacketsStayAsTheyAre) {
    for (const std::string& frame :
         {to_server(shown(), 54), to_server(real(), 53), std::string("x")}) {
        EXPECT_EQ(rewritten(frame), frame);
    }
    // Nobody has asked yet.
    EXPECT_EQ(answered(from_server(real(), 5353)), from_server(real(), 5353));
    (void)rewritten(to_server(shown(), 53));
    EXPECT_EQ(answered(from_server(real(), 5354)), from_server(real(), 5354));
    EXPECT_EQ(answered(from_server(shown(), 5353)), from_server(shown(), 5353));
}

TEST_P(AddressRewriterTest, GuestMayTalkToTheRealServerItself) {
    (void)rewritten(to_server(shown(), 53));
    EXPECT_EQ(rewritten(to_server(real(), 5353)), to_server(real(), 5353));
    EXPECT_EQ(answered(from_server(real(), 5353)), from_server(real(), 5353));
}

TEST_P(AddressRewriterTest, PaddingStaysOutOfTheChecksum) {
    const std::string padding(20, '\x55');
    std::string frame = rewritten(to_server(shown(), 53) + padding);
    ASSERT_TRUE(frame.ends_with(padding));
    frame.resize(frame.size() - padding.size());
    const auto question = read_frame(frame);
    ASSERT_TRUE(question);
    EXPECT_EQ(question->destination, real());
}

TEST_P(AddressRewriterTest, PacketsThatAreCutShortDoNoHarm) {
    const std::string whole = to_server(shown(), 53);
    for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
        (void)rewritten(whole.substr(0, bytes));
        (void)answered(from_server(real(), 5353).substr(0, bytes));
    }
}

INSTANTIATE_TEST_SUITE_P(Families,
                         AddressRewriterTest,
                         ::testing::Values(std::pair{false, false},
                                           std::pair{false, true},
                                           std::pair{true, false},
                                           std::pair{true, true}),
                         [](const auto& row) {
                             return std::string(row.param.second ? "Udp" : "Tcp") +
                                    (row.param.first ? "6" : "4");
                         });

}  // namespace
}  // namespace outrigger::net
