// SPDX-License-Identifier: Apache-2.0
/// Header and bitmap of a layer on stable storage: what is read at start, and how bits get there,
/// in an order that survives kill -9 and power cuts. docs/overlay-format.md has the argument.
///
/// Not thread-safe: the thread that commits has it alone, or there are no other threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/overlay/cluster_map.h"
#include "devices/blk/overlay/layer_format.h"
#include "devices/blk/overlay/layer_store.h"

namespace outrigger::blk {

/// What a look at all metadata found. Copies are of headers and pages.
struct LayerFindings {
    uint64_t copies_damaged = 0;  ///< whose other copy is whole
    uint64_t pages_lost = 0;      ///< of which no copy is whole: the layer cannot be used
    uint64_t bits_beyond_end = 0;
};

class LayerJournal final {
  public:
    /// Fills an empty store with a new layer: all is absent. `header.generation` and `in_use` are
    /// set here.
    [[nodiscard]] static int format(LayerStore& store, LayerHeader header);

    /// Reads the header; errors name `name`, the layer's file. `store` outlives the journal.
    [[nodiscard]] static Result<std::unique_ptr<LayerJournal>> open(LayerStore& store,
                                                                    std::string_view name);

    [[nodiscard]] const LayerHeader& header() const { return header_; }

    [[nodiscard]] const LayerGeometry& geometry() const { return geometry_; }

    [[nodiscard]] const LayerFindings& findings() const { return findings_; }

    /// Reads the bitmap into `map`, which is empty and not shared yet. Pages that are lost stay
    /// absent; findings() counts them, and then the layer must not be served. 0 or an errno value.
    [[nodiscard]] int load(ClusterMap& map);

    /// Puts the data that was written before, and the bits of all clusters that were present
    /// before, on stable storage. 0 or an errno value: then all is as before, and the next commit
    /// tries again; but when it was a sync that failed, every later one fails, too.
    [[nodiscard]] int commit(ClusterMap& map);

    /// A last commit; the layer is no longer in use. Nobody writes data meanwhile.
    [[nodiscard]] int close(ClusterMap& map);

    /// Replaces the changeable fields of the header: state and base. 0 or an errno value.
    [[nodiscard]] int update_header(const LayerHeader& header);

    /// Makes all clusters absent, on stable storage. What is torn on the way is a mix of old and
    /// new pages. The layer's maps are no longer right then. 0 or an errno value.
    [[nodiscard]] int clear();

  private:
    /// What is known of a page's two copies.
    struct PageState {
        uint64_t sequence = 0;  ///< of the newer copy
        uint8_t newer = 0;      ///< which one that is
        bool copies_differ = false;
    };

    explicit LayerJournal(LayerStore& store) : store_(store) {}

    [[nodiscard]] int read_headers(std::string_view name, std::string& error);
    [[nodiscard]] int write_header(const LayerHeader& header);
    [[nodiscard]] int load_page(uint64_t page, ClusterMap& map);
    [[nodiscard]] int write_page(uint64_t page,
                                 size_t copy,
                                 uint64_t sequence,
                                 std::span<const uint64_t, kWordsPerPage> words);
    [[nodiscard]] int write_dirty_pages();
    [[nodiscard]] int make_copies_alike();
    [[nodiscard]] std::span<uint64_t, kWordsPerPage> words_of(uint64_t page);

    LayerStore& store_;
    LayerHeader header_;
    LayerGeometry geometry_;
    LayerFindings findings_;
    size_t newer_header_ = 0;
    bool sync_failed_ = false;
    std::vector<PageState> pages_;
    std::vector<uint64_t> words_;  // what the newer copies hold, or will after this commit
    std::vector<uint64_t> dirty_;  // pages of this commit; kept for its capacity
};

}  // namespace outrigger::blk
