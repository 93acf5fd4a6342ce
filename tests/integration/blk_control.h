// SPDX-License-Identifier: Apache-2.0
/// The fixture of tests that change a running disk: outrigger-blk as a process, an operator at its
/// control socket, and guests.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"
#include "tools/driver/channel_end.h"
#include "tools/outriggerctl/ctl_client.h"

namespace outrigger::testing {

namespace v1 = control::v1;

/// A guest with one queue, and a request in each slot.
class ControlGuest final {
  public:
    static constexpr uint32_t kDataBytes = 65536;
    static constexpr uint32_t kSlots = 32;
    static constexpr int kUnanswered = 0xff;

    explicit ControlGuest(driver::Frontend connected, FeatureSet more_protocol_features = {})
        : frontend_(std::move(connected)) {
        data_region_ = memory_
                           .add_region({.guest_address = GuestAddr{0x4000'0000},
                                        .size = kSlots * uint64_t{kDataBytes}})
                           .value();
        options_.protocol_features =
            driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kBackendReq)) |
            more_protocol_features;
        auto up = driver::bring_up(frontend_, memory_, options_);
        EXPECT_TRUE(up.has_value()) << up.error().step;
        running_ = *std::move(up);
        for (uint32_t i = 0; i < kSlots; ++i) {
            slots_.push_back({.header = memory_.allocate(16, 16).value(),
                              .data = memory_.allocate(kDataBytes, 4096, data_region_).value(),
                              .status = memory_.allocate(1, 1).value()});
        }
        auto channel = driver::ChannelEnd::open(frontend_);
        EXPECT_TRUE(channel.has_value());
        channel_.emplace(*std::move(channel));
        channel_->set_time_limit(kPatience);
    }

    /// Makes a request available in that slot: of `bytes` at `offset`, filled with `fill`.
    void submit(
        uint32_t slot, uint32_t type, uint64_t offset, uint32_t bytes = 4096, int fill = 0x5a) {
        const Slot& buffers = slots_.at(slot);
        std::array<std::byte, 16> header{};
        const uint64_t sector = offset / 512;
        std::memcpy(header.data(), &type, sizeof type);
        std::memcpy(header.data() + 8, &sector, sizeof sector);
        memory_.write(buffers.header, header);
        const auto unset = static_cast<std::byte>(kUnanswered);
        memory_.write(buffers.status, std::span(&unset, 1));
        std::vector<driver::Segment> segments{{buffers.header, 16, false}};
        if (type == VIRTIO_BLK_T_OUT) {
            memory_.write(buffers.data,
                          std::vector<std::byte>(bytes, static_cast<std::byte>(fill)));
        }
        if (type != VIRTIO_BLK_T_FLUSH) {
            segments.push_back({buffers.data, bytes, type == VIRTIO_BLK_T_IN});
        }
        segments.push_back({buffers.status, 1, true});
        EXPECT_TRUE(queue().try_add(segments, slot));
        (void)queue().publish_and_kick();
    }

    /// Starts the queue again, where the driver thinks that it stands.
    [[nodiscard]] bool start_queue() {
        return queue().start(frontend_, memory_) == driver::Answer::kAccepted &&
               frontend_.set_vring_enable(0, true) == driver::Answer::kAccepted;
    }

    /// Another back end, which is told of the memory and nothing else.
    [[nodiscard]] bool go_over_to(driver::Frontend connected) {
        frontend_ = std::move(connected);
        const auto agreement = driver::negotiate(frontend_, options_);
        return agreement && driver::share_memory(frontend_, memory_, *agreement);
    }

    /// The slot of the next answer; nullopt when none comes.
    std::optional<uint32_t> wait_answer(std::chrono::milliseconds patience = kPatience) {
        if (queue().wait_used(driver::after(patience)) != driver::WaitResult::kUsed) {
            return std::nullopt;
        }
        const auto used = queue().poll_used();
        return used ? std::optional(static_cast<uint32_t>(used->token)) : std::nullopt;
    }

    [[nodiscard]] int status(uint32_t slot) const {
        std::byte status{};
        memory_.read(slots_.at(slot).status, std::span(&status, 1));
        return std::to_integer<int>(status);
    }

    /// One request from start to end: its status, -1 when it does not end.
    int request(uint32_t type, uint64_t offset, uint32_t bytes = 4096, int fill = 0x5a) {
        submit(0, type, offset, bytes, fill);
        return wait_answer() == std::optional<uint32_t>(0) ? status(0) : -1;
    }

    /// The first byte that a read brings; -1 when it fails.
    int read_byte(uint64_t offset) {
        if (request(VIRTIO_BLK_T_IN, offset) != VIRTIO_BLK_S_OK) {
            return -1;
        }
        std::byte byte{};
        memory_.read(slots_[0].data, std::span(&byte, 1));
        return std::to_integer<int>(byte);
    }

    /// Fields of the configuration space.
    [[nodiscard]] uint64_t capacity_bytes() {
        const auto bytes = frontend_.get_config(0, 8).value();
        uint64_t sectors = 0;
        std::memcpy(&sectors, bytes.data(), sizeof sectors);
        return sectors * 512;
    }

    [[nodiscard]] int writeback() {
        return std::to_integer<int>(frontend_.get_config(32, 1).value().at(0));
    }

    [[nodiscard]] bool has(unsigned feature) const {
        return running_.agreement.features.has(feature);
    }

    /// Takes one CONFIG_CHANGE_MSG; false when none comes.
    [[nodiscard]] bool take_config_change() {
        const auto message = channel_->receive();
        return message &&
               message->header.request ==
                   static_cast<uint32_t>(wire::BackendRequest::kConfigChangeMsg) &&
               channel_->reply(*message, 0) == driver::Answer::kUnasked;
    }

    [[nodiscard]] FeatureSet features() const { return running_.agreement.features; }

    [[nodiscard]] GuestAddr status_address(uint32_t slot) const { return slots_.at(slot).status; }

    [[nodiscard]] driver::Frontend& frontend() { return frontend_; }

    [[nodiscard]] driver::DriverQueue& queue() { return running_.queues[0]; }

    [[nodiscard]] driver::GuestMemory& memory() { return memory_; }

    [[nodiscard]] driver::RegionId data_region() const { return data_region_; }

  private:
    struct Slot {
        GuestAddr header;
        GuestAddr data;
        GuestAddr status;
    };

    driver::Frontend frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(4 << 20).value();
    driver::RegionId data_region_{};
    driver::BringUpOptions options_;
    driver::RunningDevice running_;
    std::optional<driver::ChannelEnd> channel_;
    std::vector<Slot> slots_;
};

/// What the daemon is given beside its sockets.
class BlkControlTest : public ::testing::Test {
  protected:
    static constexpr uint64_t kDiskBytes = uint64_t{64} << 20;
    static constexpr uint64_t kLimit = uint64_t{8} << 20;

    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "blk-control-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    void TearDown() override {
        if (daemon_ != nullptr) {
            // Whatever was done to it, it has survived and ends well.
            daemon_->send_signal(SIGTERM);
            EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
        }
        std::filesystem::remove_all(folder_);
    }

    void start(const std::vector<std::string>& more = {}) {
        std::vector<std::string> arguments{"--control-socket=" + control_path(), "--sandbox=log"};
        if (std::ranges::none_of(more, [](const auto& each) { return each == "--device"; })) {
            arguments.push_back("--socket-path=" + socket_path());
            arguments.push_back("--blk-file=" + backing_.path());
        }
        arguments.insert(arguments.end(), more.begin(), more.end());
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = arguments});
        ASSERT_TRUE(daemon_->wait_complained("control: listening")) << daemon_->complained();
    }

    [[nodiscard]] ControlGuest connect() { return connect_to(socket_path()); }

    [[nodiscard]] driver::Frontend connect_frontend() const {
        return driver::Frontend::connect(socket_path(), driver::after(kPatience)).value();
    }

    [[nodiscard]] static ControlGuest connect_to(const std::string& path) {
        return ControlGuest(driver::Frontend::connect(path, driver::after(kPatience)).value());
    }

    [[nodiscard]] UniqueFd operator_socket() const {
        return ctl::connect_to(control_path(), kPatience).value();
    }

    /// One command on a connection of its own.
    [[nodiscard]] v1::Reply ask(const v1::Request& request, int fd = -1) const {
        const UniqueFd socket = operator_socket();
        auto reply = ctl::ask(socket.get(), request, fd, kPatience);
        EXPECT_TRUE(reply.has_value()) << reply.error().message;
        return reply.value_or(v1::Reply());
    }

    [[nodiscard]] v1::Reply ask(const std::function<void(v1::Request&)>& fill, int fd = -1) const {
        v1::Request request;
        fill(request);
        return ask(request, fd);
    }

    [[nodiscard]] v1::BlockDevice block(const std::string& device = "") const {
        const v1::Reply reply = ask([&](v1::Request& request) {
            request.set_device(device);
            request.mutable_describe();
        });
        EXPECT_EQ(reply.program().devices_size(), 1);
        return reply.program().devices_size() == 1 ? reply.program().devices(0).block()
                                                   : v1::BlockDevice();
    }

    void resume() const {
        EXPECT_TRUE(ask([](v1::Request& request) { request.mutable_resume(); }).has_done());
    }

    /// From here on the host fails writes behind kLimit with EFBIG.
    void let_writes_fail() const { set_file_limit(kLimit); }

    void heal() const { set_file_limit(RLIM_INFINITY); }

    [[nodiscard]] std::string socket_path() const { return (folder_ / "blk.sock").string(); }

    [[nodiscard]] std::string control_path() const { return (folder_ / "ctl.sock").string(); }

    void set_file_limit(rlim_t bytes) const {
        const rlimit limit{.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
        ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
    }

    TemporaryImage backing_{kDiskBytes};
    std::string program_;
    std::filesystem::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
};

}  // namespace outrigger::testing
