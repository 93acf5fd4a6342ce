// SPDX-License-Identifier: Apache-2.0
/// A back end of a few lines that does everything right but what its script says. It serves no
/// rings: it keeps what it was told, for the test to look at.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/wire/fd_passing.h"
#include "vhost-user-backend/wire/message_codec.h"
#include "vhost-user-backend/wire/request_table.h"

#include "tests/support/wait.h"
#include "vmm-lite/frontend/backend_source.h"

namespace outrigger::testing {

/// What it does in the place of a reply, or of the acknowledgement.
enum class Misdeed : uint8_t {
    kNone,
    kSilence,
    kHangUp,
    kHalfAndSilence,
    kHalfAndHangUp,
    kShort,
    kLong,
    kHuge,
    kOtherRequest,
    kNoReplyFlag,
    kOtherVersion,
    kDescriptor,
    kManyDescriptors,
    kTwice,
    kRefusal,
};

struct Script {
    FeatureSet features = FeatureSet::of({28, 29, 30, 32, 34, 9, wire::kLogAllBit});
    FeatureSet protocol_features =
        FeatureSet::of({wire::bit(wire::ProtocolFeature::kMq),
                        wire::bit(wire::ProtocolFeature::kReplyAck),
                        wire::bit(wire::ProtocolFeature::kBackendReq),
                        wire::bit(wire::ProtocolFeature::kConfig),
                        wire::bit(wire::ProtocolFeature::kInflightShmfd),
                        wire::bit(wire::ProtocolFeature::kResetDevice),
                        wire::bit(wire::ProtocolFeature::kConfigureMemSlots),
                        wire::bit(wire::ProtocolFeature::kStatus)});
    std::optional<wire::FrontendRequest> at{};
    Misdeed misdeed = Misdeed::kNone;
    uint64_t queue_num = 2;
    uint64_t memory_slots = 8;
    uint32_t vring_base = 0;
    std::vector<uint64_t> shared_memory{};
    /// Changes what GET_INFLIGHT_FD answers.
    std::function<void(wire::Inflight&, UniqueFd&)> inflight{};
    /// Changes the payload of GET_CONFIG's reply.
    std::function<void(std::vector<std::byte>&)> config{};
};

class ScriptedBackend final {
  public:
    struct Told {
        wire::FrontendRequest request{};
        std::vector<std::byte> payload{};

        template <class T>
        [[nodiscard]] T as() const {
            T object{};
            std::memcpy(&object, payload.data(), std::min(payload.size(), sizeof object));
            return object;
        }
    };

    ScriptedBackend(UniqueFd socket, Script script)
        : script_(std::move(script)),
          socket_(std::move(socket)),
          stop_(Notifier::create().value()),
          thread_([this] { run(); }) {}

    ScriptedBackend(const ScriptedBackend&) = delete;
    ScriptedBackend& operator=(const ScriptedBackend&) = delete;

    ~ScriptedBackend() {
        stop_.signal();
        thread_.join();
    }

    /// All requests of that number so far.
    [[nodiscard]] std::vector<Told> told(wire::FrontendRequest request) {
        const std::lock_guard lock(mutex_);
        std::vector<Told> found;
        for (const Told& told : told_) {
            if (told.request == request) {
                found.push_back(told);
            }
        }
        return found;
    }

    /// In the order in which they came.
    [[nodiscard]] std::vector<wire::FrontendRequest> order() {
        const std::lock_guard lock(mutex_);
        std::vector<wire::FrontendRequest> numbers;
        for (const Told& told : told_) {
            numbers.push_back(told.request);
        }
        return numbers;
    }

    /// The channel for its own requests: blocking. Waits for it.
    [[nodiscard]] int requests_fd() {
        EXPECT_TRUE(eventually([this] { return requests_fd_ >= 0; }));
        return requests_fd_;
    }

    /// Sends a request of its own; the front end's verdict, or nothing when it does not answer.
    std::optional<uint64_t> ask(uint32_t number,
                                std::span<const std::byte> payload,
                                std::span<const int> fds) {
        const int channel = requests_fd();
        const wire::Header header{.request = number,
                                  .flags = wire::kVersion | wire::kFlagNeedReply,
                                  .size = static_cast<uint32_t>(payload.size())};
        if (!wire::send_all(channel, std::as_bytes(std::span(&header, 1)), payload, fds, 5000)) {
            return std::nullopt;
        }
        wire::MessageStream stream(channel, wire::MessageStream::Expect::kReplies);
        wire::Message reply;
        pollfd readable{.fd = channel, .events = POLLIN, .revents = 0};
        if (::poll(&readable, 1, 5000) != 1 ||
            stream.try_receive(reply) != wire::StreamStatus::kMessage ||
            reply.payload.size() != sizeof(uint64_t)) {
            return std::nullopt;
        }
        uint64_t verdict = 0;
        std::memcpy(&verdict, reply.payload.data(), sizeof verdict);
        return verdict;
    }

    /// What SET_VRING_ERR brought last.
    [[nodiscard]] UniqueFd take_error_fd() {
        const std::lock_guard lock(mutex_);
        return std::move(error_);
    }

    /// What SET_VRING_CALL brought last, of any ring.
    [[nodiscard]] UniqueFd take_call_fd() {
        const std::lock_guard lock(mutex_);
        return std::move(call_);
    }

    /// From now on nothing is answered until go_on().
    void hold() { held_ = true; }

    void go_on() { held_ = false; }

    /// Hangs up, as a process that dies.
    void die() {
        dead_ = true;
        stop_.signal();
    }

  private:
    void run() {
        wire::MessageStream stream(socket_.get(), wire::MessageStream::Expect::kRequests);
        while (true) {
            std::array<pollfd, 2> ready{{{.fd = socket_.get(), .events = POLLIN, .revents = 0},
                                         {.fd = stop_.read_fd(), .events = POLLIN, .revents = 0}}};
            if (::poll(ready.data(), ready.size(), 1) == 0 || held_) {
                if (ready[1].revents != 0) {
                    break;
                }
                continue;
            }
            if (ready[1].revents != 0) {
                break;
            }
            wire::Message message;
            const wire::StreamStatus status = stream.try_receive(message);
            if (status == wire::StreamStatus::kIncomplete) {
                continue;
            }
            if (status != wire::StreamStatus::kMessage || !serve(message)) {
                break;
            }
        }
        if (dead_ || hung_up_) {
            requests_.reset();
        }
        socket_.reset();
    }

    bool serve(wire::Message& message) {
        const auto request = wire::FrontendRequest{message.header.request};
        {
            const std::lock_guard lock(mutex_);
            told_.push_back({.request = request, .payload = message.payload});
        }
        UniqueFd fd;
        auto payload = reply_to(request, message, fd);
        const bool due = script_.at == request && script_.misdeed != Misdeed::kNone;
        if (!payload && message.needs_reply()) {
            payload = std::vector<std::byte>(sizeof(uint64_t));
        }
        if (due) {
            return misbehave(request, payload.value_or(std::vector<std::byte>(8)));
        }
        return !payload || send(message.header.request, kReply, *payload, fd.get());
    }

    /// Nothing for a request without a reply of its own.
    std::optional<std::vector<std::byte>> reply_to(wire::FrontendRequest request,
                                                   wire::Message& message,
                                                   UniqueFd& fd) {
        using enum wire::FrontendRequest;
        switch (request) {
            case kGetFeatures:
                return bytes_of(script_.features.bits());
            case kGetProtocolFeatures:
                return bytes_of(script_.protocol_features.bits());
            case kGetQueueNum:
                return bytes_of(script_.queue_num);
            case kGetMaxMemSlots:
                return bytes_of(script_.memory_slots);
            case kSetStatus:
                std::memcpy(&status_, message.payload.data(), sizeof status_);
                return std::nullopt;
            case kGetStatus:
                return bytes_of(status_);
            case kGetConfig: {
                std::vector<std::byte> config = message.payload;
                if (script_.config) {
                    script_.config(config);
                }
                return config;
            }
            case kGetVringBase: {
                wire::VringState state{};
                std::memcpy(&state, message.payload.data(), sizeof state);
                state.num = script_.vring_base;
                return bytes_of(state);
            }
            case kGetInflightFd: {
                wire::Inflight inflight{};
                std::memcpy(&inflight, message.payload.data(), sizeof inflight);
                inflight.mmap_size = 65536;
                fd = create_shared_memory("scripted", 65536).value();
                if (script_.inflight) {
                    script_.inflight(inflight, fd);
                }
                return bytes_of(inflight);
            }
            case kGetShmemConfig: {
                wire::ShmemConfig config{};
                config.region_count = static_cast<uint32_t>(script_.shared_memory.size());
                std::ranges::copy(script_.shared_memory, config.sizes);
                return bytes_of(config);
            }
            case kSetBackendReqFd:
                requests_ = std::move(message.fds.at(0));
                requests_fd_ = requests_.get();
                return std::nullopt;
            case kSetVringErr: {
                const std::lock_guard lock(mutex_);
                error_ = std::move(message.fds.at(0));
                return std::nullopt;
            }
            case kSetVringCall: {
                const std::lock_guard lock(mutex_);
                call_ = std::move(message.fds.at(0));
                return std::nullopt;
            }
            default:
                return std::nullopt;
        }
    }

    template <class T>
    static std::vector<std::byte> bytes_of(const T& object) {
        const auto bytes = std::as_bytes(std::span(&object, 1));
        return {bytes.begin(), bytes.end()};
    }

    static constexpr uint32_t kReply = wire::kVersion | wire::kFlagReply;

    bool send(uint32_t number,
              uint32_t flags,
              std::span<const std::byte> payload,
              int fd,
              size_t fd_count = 1) {
        const wire::Header header{
            .request = number, .flags = flags, .size = static_cast<uint32_t>(payload.size())};
        const std::vector<int> fds(fd >= 0 ? fd_count : 0, fd);
        return wire::send_all(
                   socket_.get(), std::as_bytes(std::span(&header, 1)), payload, fds, 1000)
            .has_value();
    }

    bool send_half(uint32_t number, std::span<const std::byte> payload) {
        const wire::Header header{
            .request = number, .flags = kReply, .size = static_cast<uint32_t>(payload.size())};
        return wire::send_all(socket_.get(),
                              std::as_bytes(std::span(&header, 1)),
                              payload.first(payload.size() / 2),
                              {},
                              1000)
            .has_value();
    }

    /// False: it hangs up.
    bool misbehave(wire::FrontendRequest request, std::vector<std::byte> payload) {
        const uint32_t number = std::to_underlying(request);
        const UniqueFd something = create_shared_memory("surprise", 4096).value();
        switch (script_.misdeed) {
            case Misdeed::kNone:
            case Misdeed::kSilence:
                held_ = true;
                return true;
            case Misdeed::kHangUp:
                hung_up_ = true;
                return false;
            case Misdeed::kHalfAndSilence:
                held_ = true;
                return send_half(number, payload);
            case Misdeed::kHalfAndHangUp:
                hung_up_ = true;
                (void)send_half(number, payload);
                return false;
            case Misdeed::kShort:
                payload.pop_back();
                return send(number, kReply, payload, -1);
            case Misdeed::kLong:
                payload.resize(payload.size() + 4000 - payload.size() % 4000);
                return send(number, kReply, payload, -1);
            case Misdeed::kHuge: {
                const wire::Header header{.request = number, .flags = kReply, .size = 0xffff'fff0};
                return wire::send_all(
                           socket_.get(), std::as_bytes(std::span(&header, 1)), payload, {}, 1000)
                    .has_value();
            }
            case Misdeed::kOtherRequest:
                return send(number == 3 ? 4 : 3, kReply, payload, -1);
            case Misdeed::kNoReplyFlag:
                return send(number, wire::kVersion, payload, -1);
            case Misdeed::kOtherVersion:
                return send(number, wire::kFlagReply | 2, payload, -1);
            case Misdeed::kDescriptor:
                return send(number, kReply, payload, something.get(), 2);
            case Misdeed::kManyDescriptors:
                return send(number, kReply, payload, something.get(), wire::kMessageFdsMax);
            case Misdeed::kTwice:
                return send(number, kReply, payload, -1) && send(number, kReply, payload, -1);
            case Misdeed::kRefusal:
                return send(number, kReply, bytes_of(uint64_t{1}), -1);
        }
        return false;
    }

    const Script script_;
    UniqueFd socket_;
    UniqueFd requests_;
    std::atomic<int> requests_fd_ = -1;
    uint64_t status_ = 0;
    std::atomic<bool> held_ = false;
    std::atomic<bool> dead_ = false;
    bool hung_up_ = false;
    Notifier stop_;
    std::mutex mutex_;
    std::vector<Told> told_;
    UniqueFd error_;
    UniqueFd call_;
    std::thread thread_;
};

/// Those that were connected to, by the machine's thread; the test looks at them from its own. None
/// moves or goes before clear().
class ScriptedBackends final {
  public:
    size_t size() const {
        const std::lock_guard lock(mutex_);
        return all_.size();
    }

    ScriptedBackend& at(size_t index) const {
        const std::lock_guard lock(mutex_);
        return *all_.at(index);
    }

    void begin(UniqueFd socket, const Script& script) {
        auto backend = std::make_unique<ScriptedBackend>(std::move(socket), script);
        const std::lock_guard lock(mutex_);
        all_.push_back(std::move(backend));
    }

    /// When no machine connects any more.
    void clear() {
        const std::lock_guard lock(mutex_);
        all_.clear();
    }

  private:
    mutable std::mutex mutex_;
    std::vector<std::unique_ptr<ScriptedBackend>> all_;
};

/// One scripted back end after the other; then none.
class ScriptedSource final : public vmm::BackendSource {
  public:
    /// `backends` (borrowed) has those that were connected to.
    ScriptedSource(std::vector<Script> scripts, ScriptedBackends& backends)
        : scripts_(std::move(scripts)), backends_(backends) {}

    Result<UniqueFd> open() override {
        const size_t next = backends_.size();
        if (next >= scripts_.size()) {
            return failure(Error{.message = "there is no back end any more"});
        }
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
            return failure(error_from_errno("socketpair"));
        }
        UniqueFd ours(ends[0]);
        backends_.begin(UniqueFd(ends[1]), scripts_[next]);
        return ours;
    }

    bool can_reopen() const override { return backends_.size() < scripts_.size(); }

    std::string obituary() const override { return {}; }

    std::string describe() const override { return "script"; }

  private:
    const std::vector<Script> scripts_;
    ScriptedBackends& backends_;
};

}  // namespace outrigger::testing
