// SPDX-License-Identifier: Apache-2.0
#include "devices/net/address_rewriter.h"

#include <algorithm>
#include <cstring>

#include "devices/net/frame.h"
#include "devices/net/offload.h"
#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

/// Where the source's or the destination's address and port are.
struct Fields {
    size_t address_at = 0;
    size_t port_at = 0;
};

Fields fields_of(const PacketLayout& layout, size_t address_bytes, bool destination) {
    const size_t first = layout.network_start + (layout.network == NetworkKind::kIp4 ? 12 : 8);
    return {.address_at = first + (destination ? address_bytes : 0),
            .port_at = layout.transport_start + (destination ? 2U : 0U)};
}

size_t bit_of(uint16_t port, const PacketLayout& layout) {
    return port + (layout.protocol == kTcpProtocol ? size_t{65536} : 0);
}

}  // namespace

AddressRewriter::Place AddressRewriter::place_of(const Endpoint& endpoint) {
    Place place{.port = endpoint.port};
    if (endpoint.is_ip6) {
        std::memcpy(place.address.data(), &endpoint.address6, sizeof endpoint.address6);
    } else {
        std::memcpy(place.address.data(), &endpoint.address4, sizeof endpoint.address4);
    }
    return place;
}

AddressRewriter::AddressRewriter(const Endpoint& shown, const Endpoint& real)
    : address_bytes_(shown.is_ip6 ? sizeof(in6_addr) : sizeof(in_addr)),
      shown_(place_of(shown)),
      real_(place_of(real)) {}

void AddressRewriter::rewrite_from_guest(std::span<std::byte> frame) {
    const auto layout = find_layout(frame.first(std::min(frame.size(), kHeadersBytesMax)));
    if (!layout || (layout->network == NetworkKind::kIp6) != (address_bytes_ == sizeof(in6_addr))) {
        return;
    }
    const Fields to = fields_of(*layout, address_bytes_, true);
    const auto is_to = [&](const Place& place) {
        return read_be16(frame, to.port_at) == place.port &&
               std::ranges::equal(frame.subspan(to.address_at, address_bytes_),
                                  std::span(place.address).first(address_bytes_));
    };
    const size_t bit = bit_of(read_be16(frame, layout->transport_start), *layout);
    if (is_to(real_)) {
        ports_->reset(bit);
    } else if (is_to(shown_)) {
        std::ranges::copy(std::span(real_.address).first(address_bytes_),
                          frame.subspan(to.address_at).begin());
        write_be16(frame, to.port_at, real_.port);
        if (write_checksums(frame, *layout)) {
            ports_->set(bit);
        }
    }
}

void AddressRewriter::rewrite_to_guest(std::span<std::byte> frame) const {
    const auto layout = find_layout(frame.first(std::min(frame.size(), kHeadersBytesMax)));
    if (!layout || (layout->network == NetworkKind::kIp6) != (address_bytes_ == sizeof(in6_addr))) {
        return;
    }
    const Fields from = fields_of(*layout, address_bytes_, false);
    const size_t bit = bit_of(read_be16(frame, layout->transport_start + 2), *layout);
    if (read_be16(frame, from.port_at) != real_.port || !ports_->test(bit) ||
        !std::ranges::equal(frame.subspan(from.address_at, address_bytes_),
                            std::span(real_.address).first(address_bytes_))) {
        return;
    }
    std::ranges::copy(std::span(shown_.address).first(address_bytes_),
                      frame.subspan(from.address_at).begin());
    write_be16(frame, from.port_at, shown_.port);
    (void)write_checksums(frame, *layout);
}

}  // namespace outrigger::net
