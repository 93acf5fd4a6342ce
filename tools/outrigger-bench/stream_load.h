// SPDX-License-Identifier: Apache-2.0
/// Keeps streams of bytes between a guest and the host busy, from both of their ends: what one end
/// writes, a block at a time, the other one reads. A block that has arrived is a request that is
/// complete.
///
/// Everything is on one thread, which is the processor of the driver, so that what the host's
/// programs cost is not the back end's.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <sys/epoll.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/byte_pattern.h"
#include "tools/outrigger-bench/load.h"
#include "tools/outrigger-bench/stream_driver.h"

namespace outrigger::bench {

class StreamLoad final : public Load, private StreamSink {
  public:
    /// `socket`: the connection, whose end ends the run (borrowed); -1: there is none.
    [[nodiscard]] static Result<std::unique_ptr<StreamLoad>> create(
        const BenchPlan& plan, std::unique_ptr<StreamDriver> guest, int socket);

    Result<void> run(Phase phase, driver::Deadline end) override;

    LoadCounts take_counts() override;

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

    [[nodiscard]] uint64_t compared() const override { return compared_; }

    Result<void> close() override { return {}; }

  private:
    /// Of a driver.
    static constexpr size_t kQueuesMax = 2;

    /// Bytes so far, of one stream.
    struct Stream {
        UniqueFd host;
        uint64_t to_host_sent = 0;
        uint64_t to_host_received = 0;
        uint64_t to_guest_sent = 0;
        uint64_t to_guest_received = 0;
        size_t head_received = 0;  ///< at the host, of what stands in front of a block
        size_t head_sent = 0;
        uint32_t block_left = 0;   ///< of the block that the guest is sending
        driver::Deadline asked{};  ///< of a round trip: when it began
    };

    StreamLoad(const BenchPlan& plan, std::unique_ptr<StreamDriver> guest, int socket);

    void on_received(uint32_t stream, std::span<const std::byte> bytes) override;
    void on_returned(uint32_t bytes, driver::Deadline sent) override;

    [[nodiscard]] bool turn();
    [[nodiscard]] bool send_from_guest();
    [[nodiscard]] bool send_from_guest(uint32_t number);
    [[nodiscard]] bool serve_host();
    [[nodiscard]] bool read_at_host(uint32_t number);
    [[nodiscard]] size_t take_at_host(uint32_t number, std::span<const std::byte> bytes);
    [[nodiscard]] size_t take_head(uint32_t number, std::span<const std::byte> bytes);
    [[nodiscard]] bool write_at_host(uint32_t number);
    [[nodiscard]] bool may_begin(const Stream& stream) const;
    [[nodiscard]] uint64_t host_may_write(const Stream& stream) const;
    void check_viewers();
    void compare(uint32_t pattern, uint64_t position, std::span<const std::byte> bytes);
    void complete(uint64_t before, uint64_t after);
    void lose(std::string words);
    [[nodiscard]] bool is_due() const;
    [[nodiscard]] bool host_has_work() const;
    [[nodiscard]] bool all_arrived() const;
    [[nodiscard]] Result<void> idle();
    [[nodiscard]] Result<void> look_around();
    void sleep();

    const BenchPlan plan_;
    const std::unique_ptr<StreamDriver> guest_;
    const int socket_;
    UniqueFd epoll_;
    std::vector<Stream> streams_;
    BytePattern pattern_;
    std::vector<std::byte> host_buffer_;
    std::array<epoll_event, 64> events_{};

    uint32_t next_ = 0;      // the stream whose turn it is
    uint64_t sent_ = 0;      // bytes on their way, of all streams, since the beginning
    uint64_t received_ = 0;  // of those, bytes that have arrived
    uint32_t trips_ = 0;     // round trips that have not ended
    bool open_ = false;      // new blocks are sent
    driver::Deadline now_;
    driver::Deadline begin_;  // of the round
    driver::Deadline end_;
    uint64_t begin_sent_ = 0;  // sent_ at that time
    driver::Deadline last_progress_;
    LoadCounts counts_;
    uint64_t compared_ = 0;
    std::string complaint_;
};

}  // namespace outrigger::bench
