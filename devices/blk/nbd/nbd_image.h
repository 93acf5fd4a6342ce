// SPDX-License-Identifier: Apache-2.0
/// The image kind for exports of NBD servers, by libnbd.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "devices/blk/image.h"
#include "devices/blk/image_file.h"
#include "devices/blk/nbd/nbd_engine.h"

namespace outrigger::blk {

struct NbdImageOptions {
    std::string uri;
    bool read_only = false;
    /// What a request has, from its submission on, over all reconnections.
    std::chrono::milliseconds timeout{30'000};
    /// Block size to offer; the least that the server takes when not given. A power of two.
    std::optional<uint32_t> block_bytes{};
    /// A server that comes back has all that it answered before, flushed or not.
    bool server_keeps = false;
    /// Guests have the disk: a server that is not there is waited for, like one that was lost.
    bool waits_for_server = false;
};

class NbdImage final : public Image {
  public:
    /// Connects, blocking, and examines the export. Every error is one line.
    [[nodiscard]] static Result<std::unique_ptr<NbdImage>> open(const NbdImageOptions& options);

    [[nodiscard]] const ImageProperties& properties() const override { return file_.properties; }

    [[nodiscard]] SyncMark* sync_mark() override { return &file_.sync_failed; }

    /// A queue has a connection of its own where the server allows several; otherwise all share the
    /// one.
    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override;

  private:
    class Queue;

    NbdImage(NbdTarget target, const NbdExport& known, const NbdImageOptions& options)
        : target_(std::move(target)),
          known_(known),
          timeout_(options.timeout),
          ledger_(options.server_keeps, file_.sync_failed) {}

    [[nodiscard]] Result<std::shared_ptr<NbdPeer>> take_peer();
    void give_back_peer(std::shared_ptr<NbdPeer> peer);

    const NbdTarget target_;
    const NbdExport known_;
    const std::chrono::milliseconds timeout_;
    ImageFile file_;  // the disk, for FileQueue; without a descriptor
    NbdLedger ledger_;
    std::mutex mutex_;
    NbdHandle first_handle_;  // guarded by mutex_; of open(), for the first peer
    /// Guarded by mutex_. Peers of queues that were closed, which keep their connections: some
    /// servers end with their last client. Or the one that all queues share.
    std::vector<std::shared_ptr<NbdPeer>> peers_;
};

}  // namespace outrigger::blk
