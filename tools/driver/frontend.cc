// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/frontend.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/socket.h>

namespace outrigger::driver {
namespace {

using wire::FrontendRequest;

constexpr uint32_t number(FrontendRequest request) {
    return static_cast<uint32_t>(request);
}

template <class T>
std::span<const std::byte> bytes_of(const T& object) {
    return std::as_bytes(std::span(&object, 1));
}

template <class T>
Result<T, Answer> object_in(const wire::Message& message) {
    T object;
    if (message.payload.size() != sizeof object) {
        return failure(Answer::kMalformed);
    }
    std::memcpy(&object, message.payload.data(), sizeof object);
    return object;
}

void append(std::vector<std::byte>& payload, std::span<const std::byte> bytes) {
    payload.insert(payload.end(), bytes.begin(), bytes.end());
}

std::span<const int> optional_fd(const int& fd) {
    return {&fd, fd >= 0 ? size_t{1} : size_t{0}};
}

}  // namespace

std::string_view describe(Answer answer) {
    switch (answer) {
        case Answer::kAccepted:
            return "accepted";
        case Answer::kRefused:
            return "refused";
        case Answer::kUnasked:
            return "sent without asking for an answer";
        case Answer::kTimeout:
            return "no answer in time";
        case Answer::kClosed:
            return "connection closed";
        case Answer::kMalformed:
            return "malformed answer";
    }
    return "";
}

Frontend::Frontend(UniqueFd socket)
    : socket_(std::move(socket)), stream_(socket_.get(), wire::MessageStream::Expect::kReplies) {}

Result<Frontend> Frontend::connect(const std::string& path, Deadline deadline) {
    return Frontend(OUTRIGGER_TRY(connect_until(path, deadline)));
}

Result<std::pair<Frontend, UniqueFd>> create_connected_pair() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) {
        return failure(error_from_errno("cannot create a socket pair"));
    }
    UniqueFd ours(ends[0]);
    UniqueFd theirs(ends[1]);
    if (::fcntl(ours.get(), F_SETFD, FD_CLOEXEC) != 0 ||
        ::fcntl(theirs.get(), F_SETFD, FD_CLOEXEC) != 0) {
        return failure(error_from_errno("cannot prepare a socket pair"));
    }
    return std::pair(Frontend(std::move(ours)), std::move(theirs));
}

// --- Any message -----------------------------------------------------------------------------

bool Frontend::asks_ack() const {
    switch (ack_policy_) {
        case AckPolicy::kWhenNegotiated:
            return protocol_features_.has(bit(wire::ProtocolFeature::kReplyAck));
        case AckPolicy::kAlways:
            return true;
        case AckPolicy::kNever:
            return false;
    }
    return false;
}

Answer Frontend::send_bytes(std::span<const std::byte> bytes, std::span<const int> fds) {
    bool whole = true;
    if (cut_ != nullptr) {
        const uint64_t room = cut_->bytes_max - cut_->bytes_sent;
        if (room == 0) {
            return Answer::kClosed;
        }
        whole = bytes.size() <= room;
        cut_->message_bytes.push_back(bytes.size());
        bytes = bytes.first(std::min<uint64_t>(bytes.size(), room));
        cut_->bytes_sent += bytes.size();
    }
    switch (send_until(socket_.get(), bytes, fds, after(time_limit_))) {
        case SendStatus::kSent:
            return whole ? Answer::kUnasked : Answer::kClosed;
        case SendStatus::kTimeout:
            return Answer::kTimeout;
        case SendStatus::kClosed:
            return Answer::kClosed;
    }
    return Answer::kClosed;
}

Answer Frontend::send(const wire::Header& header,
                      std::span<const std::byte> payload,
                      std::span<const int> fds) {
    std::vector<std::byte> bytes;
    bytes.reserve(sizeof header + payload.size());
    append(bytes, bytes_of(header));
    append(bytes, payload);
    return send_bytes(bytes, fds);
}

Frontend::Reply<wire::Message> Frontend::receive() {
    if (cut_ != nullptr && cut_->reached() && !cut_->read_last_reply) {
        return failure(Answer::kClosed);
    }
    const Deadline deadline = after(time_limit_);
    wire::Message message;
    while (true) {
        switch (stream_.try_receive(message)) {
            case wire::StreamStatus::kMessage:
                return message;
            case wire::StreamStatus::kIncomplete:
                if (!wait_readable(socket_.get(), deadline)) {
                    return failure(Answer::kTimeout);
                }
                break;
            case wire::StreamStatus::kEnded:
                return failure(Answer::kClosed);
            case wire::StreamStatus::kEndedMidMessage:
            case wire::StreamStatus::kBadVersion:
            case wire::StreamStatus::kUnexpectedReply:
            case wire::StreamStatus::kTooLarge:
            case wire::StreamStatus::kTooManyFds:
            case wire::StreamStatus::kFdsInsideMessage:
                return failure(Answer::kMalformed);
        }
    }
}

Answer Frontend::receive_ack(uint32_t request) {
    const auto message = receive();
    if (!message) {
        return message.error();
    }
    const auto value = object_in<uint64_t>(*message);
    if (message->header.request != request || !message->fds.empty() || !value) {
        return Answer::kMalformed;
    }
    last_ack_ = *value;
    return last_ack_ == 0 ? Answer::kAccepted : Answer::kRefused;
}

Answer Frontend::call(uint32_t request,
                      std::span<const std::byte> payload,
                      std::span<const int> fds) {
    const bool ask = asks_ack();
    const Answer sent = send({.request = request,
                              .flags = wire::kVersion | (ask ? wire::kFlagNeedReply : 0),
                              .size = static_cast<uint32_t>(payload.size())},
                             payload,
                             fds);
    return ask && sent == Answer::kUnasked ? receive_ack(request) : sent;
}

Frontend::Reply<wire::Message> Frontend::query(uint32_t request,
                                               std::span<const std::byte> payload,
                                               std::span<const int> fds) {
    const Answer sent = send({.request = request,
                              .flags = wire::kVersion,
                              .size = static_cast<uint32_t>(payload.size())},
                             payload,
                             fds);
    if (sent != Answer::kUnasked) {
        return failure(sent);
    }
    auto message = receive();
    if (message && message->header.request != request) {
        return failure(Answer::kMalformed);
    }
    return message;
}

bool Frontend::has_input() const {
    return wait_readable(socket_.get(), Deadline::min());
}

bool Frontend::wait_closed() {
    const Deadline deadline = after(time_limit_);
    std::array<std::byte, 512> dropped;
    while (wait_readable(socket_.get(), deadline)) {
        const ssize_t count = ::recv(socket_.get(), dropped.data(), dropped.size(), MSG_DONTWAIT);
        if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) {
            return true;
        }
        if (Clock::now() >= deadline) {
            return false;
        }
    }
    return false;
}

void Frontend::finish_sending() {
    ::shutdown(socket_.get(), SHUT_WR);
}

// --- Messages --------------------------------------------------------------------------------

Frontend::Reply<uint64_t> Frontend::query_u64(FrontendRequest request) {
    const auto message = query(number(request));
    if (!message) {
        return failure(message.error());
    }
    return object_in<uint64_t>(*message);
}

Frontend::Reply<FeatureSet> Frontend::get_features() {
    return FeatureSet(OUTRIGGER_TRY(query_u64(FrontendRequest::kGetFeatures)));
}

Answer Frontend::set_features(FeatureSet features) {
    return call(number(FrontendRequest::kSetFeatures), bytes_of(features.bits()));
}

Frontend::Reply<FeatureSet> Frontend::get_protocol_features() {
    return FeatureSet(OUTRIGGER_TRY(query_u64(FrontendRequest::kGetProtocolFeatures)));
}

Answer Frontend::set_protocol_features(FeatureSet features) {
    const Answer answer =
        call(number(FrontendRequest::kSetProtocolFeatures), bytes_of(features.bits()));
    if (went_well(answer)) {
        protocol_features_ = features;
    }
    return answer;
}

Answer Frontend::set_owner() {
    return call(number(FrontendRequest::kSetOwner));
}

Answer Frontend::reset_owner() {
    return call(number(FrontendRequest::kResetOwner));
}

Frontend::Reply<uint64_t> Frontend::get_queue_num() {
    return query_u64(FrontendRequest::kGetQueueNum);
}

Answer Frontend::set_mem_table(const GuestMemory& memory) {
    std::vector<wire::MemoryRegion> regions;
    std::vector<int> fds;
    for (const RegionId id : memory.regions()) {
        regions.push_back(memory.description(id));
        fds.push_back(memory.fd(id));
    }
    return set_mem_table(regions, fds);
}

Answer Frontend::set_mem_table(std::span<const wire::MemoryRegion> regions,
                               std::span<const int> fds) {
    std::vector<std::byte> payload;
    const wire::MemoryTableHeader header{.region_count = static_cast<uint32_t>(regions.size()),
                                         .padding = 0};
    append(payload, bytes_of(header));
    append(payload, std::as_bytes(regions));
    return call(number(FrontendRequest::kSetMemTable), payload, fds);
}

Frontend::Reply<uint64_t> Frontend::get_max_mem_slots() {
    return query_u64(FrontendRequest::kGetMaxMemSlots);
}

Answer Frontend::add_mem_reg(const GuestMemory& memory, RegionId region) {
    return add_mem_reg(memory.description(region), memory.fd(region));
}

Answer Frontend::add_mem_reg(const wire::MemoryRegion& region, int fd) {
    const wire::SingleMemoryRegion payload{.padding = 0, .region = region};
    return call(number(FrontendRequest::kAddMemReg), bytes_of(payload), optional_fd(fd));
}

Answer Frontend::rem_mem_reg(const GuestMemory& memory, RegionId region) {
    return rem_mem_reg(memory.description(region));
}

Answer Frontend::rem_mem_reg(const wire::MemoryRegion& region, int fd) {
    const wire::SingleMemoryRegion payload{.padding = 0, .region = region};
    return call(number(FrontendRequest::kRemMemReg), bytes_of(payload), optional_fd(fd));
}

Answer Frontend::set_vring_num(uint32_t index, uint32_t size) {
    return call(number(FrontendRequest::kSetVringNum),
                bytes_of(wire::VringState{.index = index, .num = size}));
}

Answer Frontend::set_vring_base(uint32_t index, uint32_t base) {
    return call(number(FrontendRequest::kSetVringBase),
                bytes_of(wire::VringState{.index = index, .num = base}));
}

Answer Frontend::set_vring_addr(const wire::VringAddress& address) {
    return call(number(FrontendRequest::kSetVringAddr), bytes_of(address));
}

Answer Frontend::call_vring_fd(FrontendRequest request, uint32_t index, int fd) {
    const uint64_t payload = index | (fd >= 0 ? 0 : wire::kVringFdNone);
    return call(number(request), bytes_of(payload), optional_fd(fd));
}

Answer Frontend::set_vring_kick(uint32_t index, int fd) {
    return call_vring_fd(FrontendRequest::kSetVringKick, index, fd);
}

Answer Frontend::set_vring_call(uint32_t index, int fd) {
    return call_vring_fd(FrontendRequest::kSetVringCall, index, fd);
}

Answer Frontend::set_vring_err(uint32_t index, int fd) {
    return call_vring_fd(FrontendRequest::kSetVringErr, index, fd);
}

Answer Frontend::set_vring_enable(uint32_t index, uint32_t enable) {
    return call(number(FrontendRequest::kSetVringEnable),
                bytes_of(wire::VringState{.index = index, .num = enable}));
}

Frontend::Reply<uint32_t> Frontend::get_vring_base(uint32_t index) {
    const auto message = query(number(FrontendRequest::kGetVringBase),
                               bytes_of(wire::VringState{.index = index, .num = 0}));
    if (!message) {
        return failure(message.error());
    }
    const auto state = OUTRIGGER_TRY(object_in<wire::VringState>(*message));
    if (state.index != index) {
        return failure(Answer::kMalformed);
    }
    return state.num;
}

Answer Frontend::vring_kick(uint32_t index) {
    return call(number(FrontendRequest::kVringKick),
                bytes_of(wire::VringState{.index = index, .num = 0}));
}

Frontend::Reply<std::vector<std::byte>> Frontend::get_config(uint32_t offset,
                                                             uint32_t size,
                                                             uint32_t flags) {
    std::vector<std::byte> payload;
    append(payload, bytes_of(wire::ConfigHeader{.offset = offset, .size = size, .flags = flags}));
    payload.resize(payload.size() + size);
    auto message = query(number(FrontendRequest::kGetConfig), payload);
    if (!message) {
        return failure(message.error());
    }
    std::vector<std::byte>& reply = message->payload;
    if (reply.empty()) {
        return reply;
    }
    wire::ConfigHeader header{};
    if (reply.size() < sizeof header) {
        return failure(Answer::kMalformed);
    }
    std::memcpy(&header, reply.data(), sizeof header);
    reply.erase(reply.begin(), reply.begin() + sizeof header);
    const bool echoes = header.offset == offset && header.size == reply.size();
    if (!echoes || (!reply.empty() && reply.size() != size)) {
        return failure(Answer::kMalformed);
    }
    return std::move(reply);
}

Answer Frontend::set_config(uint32_t offset, std::span<const std::byte> bytes, uint32_t flags) {
    std::vector<std::byte> payload;
    append(payload,
           bytes_of(wire::ConfigHeader{
               .offset = offset, .size = static_cast<uint32_t>(bytes.size()), .flags = flags}));
    append(payload, bytes);
    return call(number(FrontendRequest::kSetConfig), payload);
}

Answer Frontend::set_status(uint64_t status) {
    return call(number(FrontendRequest::kSetStatus), bytes_of(status));
}

Frontend::Reply<uint64_t> Frontend::get_status() {
    return query_u64(FrontendRequest::kGetStatus);
}

Answer Frontend::reset_device() {
    return call(number(FrontendRequest::kResetDevice));
}

Frontend::Reply<uint64_t> Frontend::iotlb(const wire::Iotlb& message) {
    const auto reply = query(number(FrontendRequest::kIotlbMsg), bytes_of(message));
    if (!reply) {
        return failure(reply.error());
    }
    return object_in<uint64_t>(*reply);
}

Answer Frontend::send_rarp(uint64_t mac) {
    return call(number(FrontendRequest::kSendRarp), bytes_of(mac));
}

Answer Frontend::net_set_mtu(uint64_t mtu) {
    return call(number(FrontendRequest::kNetSetMtu), bytes_of(mtu));
}

Answer Frontend::set_backend_req_fd(int fd) {
    return call(number(FrontendRequest::kSetBackendReqFd), {}, optional_fd(fd));
}

Frontend::Reply<UniqueFd> Frontend::get_shared_object(const wire::SharedObject& object) {
    auto message = query(number(FrontendRequest::kGetSharedObject), bytes_of(object));
    if (!message) {
        return failure(message.error());
    }
    if (message->fds.size() > 1) {
        return failure(Answer::kMalformed);
    }
    return message->fds.empty() ? UniqueFd() : std::move(message->fds.front());
}

Frontend::Reply<wire::ShmemConfig> Frontend::get_shmem_config() {
    const auto message = query(number(FrontendRequest::kGetShmemConfig));
    if (!message) {
        return failure(message.error());
    }
    return object_in<wire::ShmemConfig>(*message);
}

Answer Frontend::set_log_base(const wire::Log& log, int fd) {
    const uint32_t request = number(FrontendRequest::kSetLogBase);
    if (!protocol_features_.has(bit(wire::ProtocolFeature::kLogShmfd))) {
        return call(request, bytes_of(log), optional_fd(fd));
    }
    const auto message = query(request, bytes_of(log), optional_fd(fd));
    return message ? Answer::kAccepted : message.error();
}

Answer Frontend::set_log_fd(int fd) {
    return call(number(FrontendRequest::kSetLogFd), {}, optional_fd(fd));
}

Frontend::Reply<InflightRegion> Frontend::get_inflight_fd(uint16_t queue_count,
                                                          uint16_t queue_size) {
    const wire::Inflight wish{.mmap_size = 0,
                              .mmap_offset = 0,
                              .queue_count = queue_count,
                              .queue_size = queue_size,
                              .padding = 0};
    auto message = query(number(FrontendRequest::kGetInflightFd), bytes_of(wish));
    if (!message) {
        return failure(message.error());
    }
    InflightRegion region;
    region.description = OUTRIGGER_TRY(object_in<wire::Inflight>(*message));
    if (message->fds.size() > 1) {
        return failure(Answer::kMalformed);
    }
    if (!message->fds.empty()) {
        region.fd = std::move(message->fds.front());
    }
    return region;
}

Answer Frontend::set_inflight_fd(const wire::Inflight& description, int fd) {
    return call(number(FrontendRequest::kSetInflightFd), bytes_of(description), optional_fd(fd));
}

Frontend::Reply<DeviceStateChannel> Frontend::set_device_state_fd(
    const wire::DeviceStateTransfer& transfer, int fd) {
    auto message =
        query(number(FrontendRequest::kSetDeviceStateFd), bytes_of(transfer), optional_fd(fd));
    if (!message) {
        return failure(message.error());
    }
    const uint64_t value = OUTRIGGER_TRY(object_in<uint64_t>(*message));
    const size_t fds_said = (value & wire::kVringFdNone) != 0 ? 0 : 1;
    if (message->fds.size() != fds_said) {
        return failure(Answer::kMalformed);
    }
    DeviceStateChannel channel{.error = value & 0xff, .fd = {}};
    if (fds_said == 1) {
        channel.fd = std::move(message->fds.front());
    }
    return channel;
}

Frontend::Reply<uint64_t> Frontend::check_device_state() {
    return query_u64(FrontendRequest::kCheckDeviceState);
}

}  // namespace outrigger::driver
