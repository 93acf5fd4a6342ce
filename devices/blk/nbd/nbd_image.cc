// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_image.h"

#include <algorithm>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/base/log.h"

#include "devices/blk/file_queue.h"

namespace outrigger::blk {
namespace {

constexpr uint32_t kBlockBytesMin = 512;
/// A guest's page cache works in 4 KiB; Linux guests refuse larger blocks.
constexpr uint32_t kPhysicalBlockBytesMax = 4096;

Result<ImageProperties> properties_of(const NbdExport& known, const NbdImageOptions& options) {
    const uint32_t least = std::max(known.block_bytes_min, kBlockBytesMin);
    const uint32_t block = options.block_bytes.value_or(least);
    if (block < least) {
        return failure(Error{.message = fmt::format("{} needs --blk-size={} or more: its server "
                                                    "takes nothing smaller",
                                                    options.uri,
                                                    least)});
    }
    if (known.size_bytes % block != 0) {
        return failure(Error{.message = fmt::format("the size of {}, {} bytes, is not a multiple "
                                                    "of the block size {}",
                                                    options.uri,
                                                    known.size_bytes,
                                                    block)});
    }
    if (known.read_only && !options.read_only) {
        return failure(Error{.message = fmt::format("{} is exported for reading only: use "
                                                    "--read-only",
                                                    options.uri)});
    }
    ImageProperties properties;
    properties.size_bytes = known.size_bytes;
    properties.block_bytes = block;
    properties.physical_block_bytes =
        std::max(block, std::min(known.block_bytes_preferred, kPhysicalBlockBytesMax));
    properties.minimum_io_bytes =
        std::max(known.block_bytes_preferred, properties.physical_block_bytes);
    properties.read_only = options.read_only;
    if (!options.read_only) {
        properties.can_discard = known.can_trim || known.can_zero;
        properties.can_unmap_zeroes = known.can_zero;
        properties.discard_alignment_bytes = block;
    }
    return properties;
}

struct Connected {
    NbdTarget target;
    NbdHandle handle;
};

Result<Connected> connect(const NbdUri& uri, std::chrono::milliseconds timeout) {
    Connected connected{.target = OUTRIGGER_TRY(resolve_nbd_target(uri)), .handle = nullptr};
    connected.handle = OUTRIGGER_TRY(connect_to_nbd(connected.target, timeout));
    return connected;
}

/// For ever: a signal ends the process meanwhile.
Connected wait_for_server(const NbdUri& uri, std::chrono::milliseconds timeout) {
    auto pause = kNbdPauseMin;
    while (true) {
        std::this_thread::sleep_for(pause);
        if (auto connected = connect(uri, timeout)) {
            log(LogLevel::kInfo, "blk: {} is back", uri.text);
            return *std::move(connected);
        }
        pause = std::min(pause * 2, kNbdPauseMax);
    }
}

}  // namespace

/// A file queue over the engine, and the peer that both need.
class NbdImage::Queue final : public ImageQueue {
  public:
    Queue(NbdImage& image, std::shared_ptr<NbdPeer> peer, Worker& worker, uint32_t requests_max)
        : image_(image),
          peer_(std::move(peer)),
          queue_(image.file_,
                 nullptr,
                 std::make_unique<NbdEngine>(
                     *peer_, image.known_, image.ledger_, worker, requests_max),
                 worker.loop(),
                 requests_max) {}

    ~Queue() override { image_.give_back_peer(std::move(peer_)); }

    void submit(ImageRequest& request) override { queue_.submit(request); }

  private:
    NbdImage& image_;
    std::shared_ptr<NbdPeer> peer_;
    FileQueue queue_;
};

Result<std::unique_ptr<NbdImage>> NbdImage::open(const NbdImageOptions& options) {
    const NbdUri uri = OUTRIGGER_TRY(parse_nbd_uri(options.uri));
    auto connected = connect(uri, options.timeout);
    const bool was_away = !connected && options.waits_for_server;
    if (was_away) {
        log(LogLevel::kWarning,
            "blk: {}: waiting for it, because guests have the disk",
            connected.error().message);
        connected = wait_for_server(uri, options.timeout);
    }
    auto [target, handle] = OUTRIGGER_TRY(std::move(connected));
    const auto known = examine_nbd_export(handle.get());
    if (!known) {
        return failure(Error{
            .message = fmt::format("cannot serve {}: {}", options.uri, known.error().message)});
    }
    auto image = std::unique_ptr<NbdImage>(new NbdImage(std::move(target), *known, options));
    image->file_.properties = OUTRIGGER_TRY(properties_of(*known, options));
    image->file_.discards_by_device = known->can_trim;
    image->file_.no_punch_hole = !known->can_zero;
    image->file_.no_zero_range = !known->can_zero;
    image->file_.no_device_discard = !known->can_trim;
    image->first_handle_ = std::move(handle);
    if (was_away && !options.read_only) {
        image->ledger_.note_earlier_loss();
        if (image->ledger_.may_lack_writes()) {
            log(LogLevel::kError,
                "blk: {} may have lost what it had answered to the process before, and not "
                "flushed: every flush fails until the daemon is started anew (--nbd-unflushed)",
                options.uri);
        }
    }
    if (!known->can_flush && !known->read_only) {
        log(LogLevel::kWarning,
            "blk: the server of {} cannot flush: what the guest flushed is as safe as what it "
            "wrote",
            options.uri);
    }
    return image;
}

Result<std::shared_ptr<NbdPeer>> NbdImage::take_peer() {
    const std::lock_guard lock(mutex_);
    if (!peers_.empty()) {
        std::shared_ptr<NbdPeer> peer = peers_.back();
        if (known_.can_multi_conn) {
            peers_.pop_back();
        }
        return peer;
    }
    std::shared_ptr<NbdPeer> peer =
        OUTRIGGER_TRY(NbdPeer::start(target_, known_, ledger_, timeout_, std::move(first_handle_)));
    if (!known_.can_multi_conn) {
        peers_.push_back(peer);
    }
    return peer;
}

void NbdImage::give_back_peer(std::shared_ptr<NbdPeer> peer) {
    const std::lock_guard lock(mutex_);
    if (known_.can_multi_conn) {
        peers_.push_back(std::move(peer));
    }
}

Result<std::unique_ptr<ImageQueue>> NbdImage::open_queue(Worker& worker, uint32_t requests_max) {
    return std::make_unique<Queue>(*this, OUTRIGGER_TRY(take_peer()), worker, requests_max);
}

}  // namespace outrigger::blk
