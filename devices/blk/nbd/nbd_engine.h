// SPDX-License-Identifier: Apache-2.0
/// One queue's way to an NBD server: its calls become commands of a connection that has a thread of
/// its own, and their data goes through buffers, so that libnbd never has guest memory in hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vhost-user-backend/io/hand_over.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/io_engine.h"
#include "devices/blk/nbd/nbd_connection.h"
#include "devices/blk/nbd/nbd_ledger.h"

namespace outrigger::blk {

/// A connection and the thread that it lives on. Any thread.
class NbdPeer final {
  public:
    /// Starts a thread. `target` and `ledger` are borrowed; `handle` is connected, or null. The
    /// peer lives as long as the ledger is used.
    [[nodiscard]] static Result<std::unique_ptr<NbdPeer>> start(const NbdTarget& target,
                                                                const NbdExport& known,
                                                                NbdLedger& ledger,
                                                                std::chrono::milliseconds timeout,
                                                                NbdHandle handle);

    NbdPeer(const NbdPeer&) = delete;
    NbdPeer& operator=(const NbdPeer&) = delete;
    /// Nothing may be under way. Waits for the thread, which blocks on nothing.
    ~NbdPeer();

    void submit(NbdCommand& command);

    [[nodiscard]] const NbdLedger::Account& account() const { return account_; }

  private:
    NbdPeer(std::unique_ptr<Worker> worker, NbdLedger& ledger)
        : account_(ledger, this), worker_(std::move(worker)) {}

    NbdLedger::Account account_;
    std::unique_ptr<Worker> worker_;
    std::unique_ptr<NbdConnection> connection_;  // of worker_'s thread
};

/// Buffers of one size, made when first needed and kept. Thread-bound: queue worker.
class NbdBuffers final {
  public:
    NbdBuffers(size_t bytes, size_t count_max) : bytes_(bytes), count_max_(count_max) {}

    /// Null when all are taken or the host has no memory.
    [[nodiscard]] std::byte* take();

    void give_back(std::byte* buffer) { free_.push_back(buffer); }

    [[nodiscard]] size_t bytes() const { return bytes_; }

    [[nodiscard]] bool all_are_here() const { return free_.size() == owned_.size(); }

  private:
    const size_t bytes_;
    const size_t count_max_;
    std::vector<std::unique_ptr<std::byte[]>> owned_;
    std::vector<std::byte*> free_;
};

/// Thread-bound: queue worker.
class NbdEngine final : public IoEngine {
  public:
    /// What a call transfers at most, as with preadv(), whose count must fit, too; whole blocks.
    static constexpr uint64_t kCallBytesMax = 0x7fff'0000;
    /// What a command transfers at most; longer calls take several, one after the other.
    static constexpr size_t kLargeBytes = size_t{256} << 10;
    static constexpr size_t kSmallBytes = size_t{16} << 10;
    static constexpr size_t kLargeCount = 32;
    static constexpr size_t kSmallCount = 256;
    /// A stable write whose flush came over another connection than it is made again so often.
    static constexpr uint32_t kRewritesMax = 8;

    /// All are borrowed and outlive the engine.
    NbdEngine(NbdPeer& peer,
              const NbdExport& known,
              NbdLedger& ledger,
              Worker& worker,
              uint32_t calls_max);
    ~NbdEngine() override;

    void submit(IoOperation& operation) override;

  private:
    class Call;

    [[nodiscard]] bool try_start(IoOperation& operation);
    void begin_data(Call& call);
    void begin_sync(Call& call);
    void next_piece(Call& call);
    /// The call's last command has ended. False: another one follows.
    [[nodiscard]] bool is_over(Call& call);
    [[nodiscard]] bool data_is_over(Call& call);
    [[nodiscard]] bool sync_is_over(Call& call);
    void send(Call& call, NbdCommandKind kind);
    void fail_later(Call& call, int os_error);
    void take_up(Call& call);
    void end(Call& call);
    [[nodiscard]] NbdBuffers& buffers_for(uint64_t bytes);

    NbdPeer& peer_;
    const NbdExport& known_;
    NbdLedger& ledger_;
    Worker& worker_;
    std::unique_ptr<Call[]> calls_;
    std::vector<Call*> free_;  // capacity for all
    NbdBuffers small_{kSmallBytes, kSmallCount};
    NbdBuffers large_{kLargeBytes, kLargeCount};
    IoOperationList waiting_;  // for a buffer
    HandOver<Call> finished_;  // by the peers' threads
};

}  // namespace outrigger::blk
