// SPDX-License-Identifier: Apache-2.0
#include "tests/states/net_samples.h"

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/state/device_state.h"

#include "devices/net/net_state.h"

namespace outrigger::testing {
namespace {

constexpr uint32_t kNet = 1;
constexpr unsigned kMac = 5;
constexpr unsigned kControlQueue = 17;
constexpr unsigned kVersion1 = 32;

}  // namespace

/// A guest at a switch that filters by stations and VLANs.
std::map<std::string, std::string> sample_net_states() {
    net::NetState state{.shown = {.mtu = 1500, .queue_pairs = 2},
                        .port = {.stations = {0x5254'0000'0001, 0x5254'0000'0002}}};
    net::write_station(0x5254'0000'0001, state.shown.mac, 0);
    state.settings.apply(net::SetReceiveMode{.mode = net::ReceiveMode::kPromiscuous, .on = false});
    state.settings.apply(net::SetStations{.unicast = {{0x5254'0000'0002}},
                                          .multicast = {{0x3333'0000'0001, 0x0100'5e00'0001}}});
    state.settings.apply(net::ChangeVlan{.vlan = 100, .wanted = true});
    state.settings.apply(net::SetQueuePairs{.pairs = 2});
    return {{"v1/net.state",
             encode_state({.device_id = kNet,
                           .features = FeatureSet::of({kMac, kControlQueue, kVersion1}),
                           .queues = {{.index = 0, .size = 256, .next_available = 7},
                                      {.index = 1, .size = 256, .next_available = 9},
                                      {.index = 4, .size = 64, .next_available = 5}},
                           .sections = net::write_net_state(state)})
                 .value()}};
}

}  // namespace outrigger::testing
