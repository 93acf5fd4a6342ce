// SPDX-License-Identifier: Apache-2.0
/// Header and bitmap of an overlay's layer, written by anybody: opened, loaded, changed, committed,
/// and opened again, while writes fail, end in their middle, and bytes change.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

#include "devices/blk/overlay/layer_journal.h"
#include "tests/fuzz/overlay_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

using namespace outrigger::blk;

/// The metadata of a small layer. Its data is said to be there, and must not be touched.
class FuzzStore final : public LayerStore {
  public:
    FuzzStore(uint64_t size_bytes, uint64_t metadata_bytes)
        : bytes_(metadata_bytes), size_bytes_(size_bytes) {}

    [[nodiscard]] uint64_t size_bytes() const override { return size_bytes_; }

    [[nodiscard]] int read(uint64_t offset, std::span<std::byte> out) override {
        OUTRIGGER_ASSERT(range_fits<uint64_t>(offset, out.size(), size_bytes_));
        std::ranges::fill(out, std::byte{0});
        if (offset < bytes_.size()) {
            const size_t count = std::min(out.size(), bytes_.size() - offset);
            std::memcpy(out.data(), bytes_.data() + offset, count);
        }
        return 0;
    }

    [[nodiscard]] int write(uint64_t offset, std::span<const std::byte> in) override {
        OUTRIGGER_ASSERT(range_fits<uint64_t>(offset, in.size(), metadata_end_));
        const size_t count = std::min<size_t>(in.size(), cut_.value_or(in.size()));
        if (offset < bytes_.size()) {
            std::memcpy(
                bytes_.data() + offset, in.data(), std::min<size_t>(count, bytes_.size() - offset));
        }
        return std::exchange(cut_, std::nullopt) ? ENOSPC : 0;
    }

    [[nodiscard]] int sync() override { return std::exchange(sync_error_, 0); }

    /// The next write ends behind so many bytes, and fails.
    void cut_next_write(size_t bytes) { cut_ = bytes; }

    void fail_next_sync() { sync_error_ = EIO; }

    void heal() {
        cut_.reset();
        sync_error_ = 0;
    }

    void set_size(uint64_t size_bytes) { size_bytes_ = size_bytes; }

    void set_metadata_end(uint64_t end) { metadata_end_ = end; }

    /// Nothing when the block lies behind what is kept.
    [[nodiscard]] std::span<std::byte> block(uint64_t offset) {
        return range_fits<uint64_t>(offset, kLayerBlockBytes, bytes_.size())
                   ? std::span(bytes_).subspan(offset, kLayerBlockBytes)
                   : std::span<std::byte>();
    }

  private:
    std::vector<std::byte> bytes_;
    uint64_t size_bytes_;
    uint64_t metadata_end_ = 0;
    std::optional<size_t> cut_;
    int sync_error_ = 0;
};

class LayerRun final {
  public:
    explicit LayerRun(ScriptReader& script) : script_(script) {
        const uint32_t cluster_bytes = kClusterBytesMin << script.pick(3);
        const uint64_t clusters = script.u16() % 33000 + 1;  // of two pages at most
        const auto geometry = layer_geometry(clusters * cluster_bytes, cluster_bytes);
        OUTRIGGER_ASSERT(geometry.has_value());
        formatted_ = *geometry;
        store_.emplace(formatted_.file_bytes, formatted_.page_offset(0, 2));
        store_->set_metadata_end(formatted_.data_offset);
        const int os_error = LayerJournal::format(*store_,
                                                  {.layer_id = 3,
                                                   .cluster_bytes = cluster_bytes,
                                                   .disk_bytes = clusters * cluster_bytes,
                                                   .base = {.kind = "raw", .path = "base"}});
        OUTRIGGER_ASSERT(os_error == 0);
        reopen();
    }

    void step() {
        switch (next_op<OverlayOp>(script_)) {
            case OverlayOp::kPresent:
                make_present();
                break;
            case OverlayOp::kCommit:
                commit();
                break;
            case OverlayOp::kClose:
                close();
                break;
            case OverlayOp::kReopen:
                reopen();
                break;
            case OverlayOp::kPokeHeader:
                poke(LayerGeometry::header_offset(script_.pick(2)), 12, 16);
                break;
            case OverlayOp::kPokePage:
                poke_page();
                break;
            case OverlayOp::kCutWrite:
                store_->cut_next_write(script_.u16());
                break;
            case OverlayOp::kFailSync:
                store_->fail_next_sync();
                break;
            case OverlayOp::kResize:
                store_->set_size(script_.u32());
                damaged_ = true;
                break;
            case OverlayOp::kUpdateHeader:
                update_header();
                break;
            case OverlayOp::kClear:
                clear();
                break;
            case OverlayOp::kCount:
                break;
        }
    }

  private:
    void make_present() {
        const uint64_t number = script_.u16();
        if (journal_ == nullptr) {
            return;
        }
        const uint64_t cluster = number % map_->cluster_count();
        const ClusterRun run = ClusterMap::within_word(
            {.first = cluster,
             .count = std::min(script_.pick(64) + 1, map_->cluster_count() - cluster)});
        OUTRIGGER_ASSERT(map_->try_claim(run));
        map_->release(run, true);
        const uint64_t word = run.first / kClustersPerWord;
        present_[word] = map_->present_word(word);
    }

    void commit() {
        if (journal_ == nullptr || journal_->commit(*map_) != 0) {
            return;
        }
        stable_ = present_;
    }

    void close() {
        if (journal_ != nullptr && journal_->close(*map_) == 0) {
            stable_ = present_;
        }
    }

    void update_header() {
        if (journal_ != nullptr) {
            LayerHeader header = journal_->header();
            header.committing = script_.pick(2) == 1;
            (void)journal_->update_header(header);
        }
    }

    void clear() {
        if (journal_ != nullptr) {
            // Whatever it leaves is right, but for bits that nobody set.
            std::ranges::fill(stable_, 0);
            (void)journal_->clear();
            reopen();
        }
    }

    /// What was committed is there, and nothing that was never present.
    void reopen() {
        journal_ = nullptr;
        store_->heal();
        auto journal = LayerJournal::open(*store_, "layer");
        OUTRIGGER_ASSERT(journal || damaged_);
        if (!journal) {
            OUTRIGGER_ASSERT(!journal.error().message.empty());
            return;
        }
        const LayerGeometry& geometry = (*journal)->geometry();
        OUTRIGGER_ASSERT(geometry.file_bytes <= store_->size_bytes());
        map_ = std::make_unique<ClusterMap>(geometry, geometry.cluster_count);
        OUTRIGGER_ASSERT((*journal)->load(*map_) == 0);
        OUTRIGGER_ASSERT(map_->present_count() <= geometry.cluster_count);
        const LayerFindings& findings = (*journal)->findings();
        if (!damaged_) {
            OUTRIGGER_ASSERT(findings.pages_lost == 0 && findings.bits_beyond_end == 0);
            check_bits();
        } else if (findings.pages_lost > 0) {
            return;  // it is not served
        }
        journal_ = *std::move(journal);
        store_->set_metadata_end(geometry.data_offset);
        take_over_bits();
    }

    void check_bits() {
        for (size_t word = 0; word < present_.size(); ++word) {
            const uint64_t bits = map_->present_word(word);
            OUTRIGGER_ASSERT((bits & ~present_[word]) == 0);
            OUTRIGGER_ASSERT((stable_[word] & ~bits) == 0);
        }
    }

    void take_over_bits() {
        const LayerGeometry& geometry = journal_->geometry();
        present_.assign(geometry.page_count * kWordsPerPage, 0);
        for (size_t word = 0; word < present_.size(); ++word) {
            present_[word] = map_->present_word(word);
            OUTRIGGER_ASSERT((present_[word] & ~geometry.valid_bits(word)) == 0);
        }
        stable_ = present_;
    }

    void poke_page() {
        const uint64_t page = script_.u8() % formatted_.page_count;
        poke(formatted_.page_offset(page, script_.pick(2)), 8, 12);
    }

    /// Changes four bytes of a block; and its checksum, so that what is behind it is reached.
    void poke(uint64_t offset, size_t checksum_at, size_t checked_from) {
        const bool fix = script_.pick(4) != 0;
        const size_t at = script_.u16() % (kLayerBlockBytes - 3);
        const uint32_t value = script_.u32();
        const auto block = store_->block(offset);
        if (block.empty()) {
            return;
        }
        damaged_ = true;
        std::memcpy(block.data() + at, &value, sizeof value);
        if (fix) {
            const uint32_t checksum = crc32c(block.subspan(checked_from));
            std::memcpy(block.data() + checksum_at, &checksum, sizeof checksum);
        }
    }

    ScriptReader& script_;
    LayerGeometry formatted_;
    std::optional<FuzzStore> store_;
    std::unique_ptr<LayerJournal> journal_;
    std::unique_ptr<ClusterMap> map_;
    // Words of the bitmap.
    std::vector<uint64_t> present_;  // in this life
    std::vector<uint64_t> stable_;   // committed, or loaded
    bool damaged_ = false;
};

}  // namespace
}  // namespace outrigger::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    outrigger::set_log_level(outrigger::LogLevel::kOff);
    outrigger::fuzz::ScriptReader script({data, size});
    outrigger::fuzz::LayerRun run(script);
    constexpr int kStepsMax = 200;
    for (int i = 0; i < kStepsMax && !script.at_end(); ++i) {
        run.step();
    }
    return 0;
}
