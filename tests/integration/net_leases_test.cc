// SPDX-License-Identifier: Apache-2.0
// The addresses that the user network has given follow the guest.
#include <string>
#include <vector>

#include "devices/net/net_state.h"
#include "devices/net/user_port.h"
#include "tests/integration/net_traps.h"

namespace outrigger::net {
namespace {

const std::string kFirst("\x52\x54\0\0\0\x01", 6);
const std::string kSecond("\x52\x54\0\0\0\x02", 6);

class NetLeasesTest : public ::testing::Test {
  protected:
    ~NetLeasesTest() override { end(); }

    void begin(const std::vector<StateSection>& state = {}) {
        end();
        UserOptions options;
        options.ip4 = parse_ip4_network("10.0.2.0/24");
        device_ = std::make_unique<NetDevice>(NetOptions{}, UserPort::create(options).value());
        if (!state.empty()) {
            ASSERT_TRUE(device_->load_state(state));
        }
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
        guest_ = std::make_unique<NetGuest>(host_->connect(), NetGuestOptions{});
        ASSERT_TRUE(guest_->is_up());
    }

    void end() {
        guest_.reset();
        host_.reset();
        device_.reset();
    }

    [[nodiscard]] std::vector<StateSection> save() {
        for (const uint32_t ring : {0U, 1U}) {
            EXPECT_TRUE(guest_->frontend().get_vring_base(ring));
        }
        return device_->save_state().value();
    }

    /// The last number of the address that a station is offered; 0: none. RFC 2131.
    int address_of(const std::string& mac) {
        std::string body = std::string("\x01\x01\x06\0\x12\x34\x56\x78", 8) + std::string(20, '\0');
        body += mac + std::string(10 + 64 + 128, '\0');
        body += std::string("\x63\x82\x53\x63\x35\x01\x01\xff", 8);
        FrameOptions options{.udp = true, .source_port = 68, .destination_port = 67};
        options.source = std::string(4, '\0');
        options.destination = std::string(4, '\xff');
        options.to_mac = std::string(6, '\xff');
        std::string frame = make_frame(body, options);
        frame.replace(6, 6, mac);
        EXPECT_TRUE(guest_->send(frame));
        const auto answer = guest_->receive();
        const auto offer = answer ? read_frame(answer->bytes) : std::nullopt;
        return offer && offer->source_port == 67 && offer->payload.size() > 20
                   ? static_cast<uint8_t>(offer->payload[19])
                   : 0;
    }

    std::unique_ptr<NetDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::unique_ptr<NetGuest> guest_;
};

TEST_F(NetLeasesTest, AddressesFollowTheGuest) {
    begin();
    EXPECT_EQ(address_of(kFirst), 15);
    const auto state = save();
    begin(state);
    // Another station does not get the address that was given elsewhere.
    EXPECT_EQ(address_of(kSecond), 16);
    EXPECT_EQ(address_of(kFirst), 15);
}

TEST_F(NetLeasesTest, LeasesThatMakeNoSenseAreLeftOut) {
    begin();
    EXPECT_EQ(address_of(kFirst), 15);
    const auto state = save();
    const auto leases = read_net_state(state).value().port.leases;
    ASSERT_GT(leases.size(), 5U);
    for (const size_t damage : {0U, 1U, 2U, 3U}) {
        auto wrong = leases;
        switch (damage) {
            case 0:  // a socket
                wrong[4] = std::byte{1};
                break;
            case 1:  // another version
                wrong[0] ^= std::byte{1};
                break;
            case 2:  // only a version
                wrong.resize(4);
                break;
            default:  // more than there can be
                wrong.resize(5000);
                break;
        }
        NetState changed = read_net_state(state).value();
        changed.port.leases = wrong;
        begin(write_net_state(changed));
        EXPECT_EQ(address_of(kSecond), 15) << damage;
    }
}

}  // namespace
}  // namespace outrigger::net
