// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/layer_journal.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

constexpr size_t kCopies = 2;

}  // namespace

int LayerJournal::format(LayerStore& store, LayerHeader header) {
    const auto geometry = layer_geometry(header.disk_bytes, header.cluster_bytes);
    OUTRIGGER_ASSERT(geometry.has_value());
    for (size_t copy = 0; copy < kCopies; ++copy) {
        for (uint64_t page = 0; page < geometry->page_count; ++page) {
            const LayerBlock block =
                encode_page({.sequence = 1, .layer_id = header.layer_id, .index = page});
            const int os_error = store.write(geometry->page_offset(page, copy), block);
            if (os_error != 0) {
                return os_error;
            }
        }
    }
    header.in_use = false;
    for (size_t copy = 0; copy < kCopies; ++copy) {
        header.generation = copy + 1;
        const int os_error = store.write(LayerGeometry::header_offset(copy), encode_header(header));
        if (os_error != 0) {
            return os_error;
        }
    }
    return store.sync();
}

Result<std::unique_ptr<LayerJournal>> LayerJournal::open(LayerStore& store, std::string_view name) {
    auto journal = std::unique_ptr<LayerJournal>(new LayerJournal(store));
    std::string what;
    const int os_error = journal->read_headers(name, what);
    if (!what.empty()) {
        return failure(os_error == 0 ? Error{.message = std::move(what)}
                                     : error_from_code(what, os_error));
    }
    return journal;
}

int LayerJournal::read_headers(std::string_view name, std::string& error) {
    std::optional<LayerFault> fault;
    bool found = false;
    for (size_t copy = 0; copy < kCopies; ++copy) {
        LayerBlock block;
        const uint64_t offset = LayerGeometry::header_offset(copy);
        if (store_.size_bytes() < offset + block.size()) {
            error = fmt::format("{} is too short for an overlay layer", name);
            return 0;
        }
        if (const int os_error = store_.read(offset, block); os_error != 0) {
            error = fmt::format("cannot read the header of overlay layer {}", name);
            return os_error;
        }
        const auto header = decode_header(block);
        if (!header) {
            ++findings_.copies_damaged;
            // A wrong checksum says more than a block of zeroes.
            fault = fault && *fault != LayerFault::kMagic ? *fault : header.error();
        } else if (!found || header->generation > header_.generation) {
            header_ = *header;
            newer_header_ = copy;
            found = true;
        }
    }
    if (!found) {
        error = fmt::format("{} is not a usable overlay layer: {}",
                            name,
                            describe(fault.value_or(LayerFault::kMagic)));
        return 0;
    }
    // decode_header() has checked the sizes.
    geometry_ = layer_geometry(header_.disk_bytes, header_.cluster_bytes).value();
    // Before anything is allocated by what the header says.
    if (store_.size_bytes() < geometry_.file_bytes) {
        error = fmt::format("overlay layer {} was cut off: it has {} bytes, and had {}",
                            name,
                            store_.size_bytes(),
                            geometry_.file_bytes);
    }
    return 0;
}

std::span<uint64_t, kWordsPerPage> LayerJournal::words_of(uint64_t page) {
    return std::span<uint64_t, kWordsPerPage>(words_.data() + page * kWordsPerPage, kWordsPerPage);
}

// --- Reading -------------------------------------------------------------------------------------

int LayerJournal::load(ClusterMap& map) {
    pages_.assign(geometry_.page_count, {});
    words_.assign(geometry_.page_count * kWordsPerPage, 0);
    for (uint64_t page = 0; page < geometry_.page_count; ++page) {
        if (const int os_error = load_page(page, map); os_error != 0) {
            return os_error;
        }
    }
    return 0;
}

int LayerJournal::load_page(uint64_t page, ClusterMap& map) {
    PageState& state = pages_[page];
    std::array<uint64_t, kCopies> sequences{};
    size_t whole = 0;
    for (size_t copy = 0; copy < kCopies; ++copy) {
        LayerBlock block;
        const int os_error = store_.read(geometry_.page_offset(page, copy), block);
        if (os_error != 0) {
            return os_error;
        }
        const auto found = decode_page(block);
        if (!found || found->layer_id != header_.layer_id || found->index != page) {
            continue;
        }
        ++whole;
        sequences[copy] = found->sequence;
        if (whole == 1 || found->sequence > state.sequence) {
            state.sequence = found->sequence;
            state.newer = static_cast<uint8_t>(copy);
            std::ranges::copy(found->words, words_of(page).begin());
        }
    }
    if (whole == 0) {
        ++findings_.pages_lost;
        return 0;
    }
    findings_.copies_damaged += kCopies - whole;
    state.copies_differ = whole < kCopies || sequences[0] != sequences[1];
    for (size_t i = 0; i < kWordsPerPage; ++i) {
        const uint64_t word = page * kWordsPerPage + i;
        const uint64_t valid = geometry_.valid_bits(word);
        uint64_t& bits = words_[word];
        findings_.bits_beyond_end += static_cast<uint64_t>(std::popcount(bits & ~valid));
        bits &= valid;
        map.load_word(word, bits);
    }
    return 0;
}

// --- Writing -------------------------------------------------------------------------------------

int LayerJournal::commit(ClusterMap& map) {
    if (sync_failed_) {
        return EIO;
    }
    dirty_.clear();
    map.take_dirty_pages(dirty_);
    // The bits are read before the data is synced: what becomes present meanwhile is not in them.
    for (const uint64_t page : dirty_) {
        std::ranges::generate(words_of(page), [&, word = page * kWordsPerPage]() mutable {
            return map.present_word(word++);
        });
    }
    int os_error = 0;
    if (!dirty_.empty() && !header_.in_use) {
        // The sync below covers it: no bit is written before the layer says that it is in use.
        LayerHeader used = header_;
        used.in_use = true;
        os_error = write_header(used);
    }
    if (os_error == 0) {
        os_error = store_.sync();
        sync_failed_ = os_error != 0;
    }
    if (os_error == 0 && !dirty_.empty()) {
        os_error = write_dirty_pages();
    }
    if (os_error != 0) {
        std::ranges::for_each(dirty_, [&](uint64_t page) { map.put_back_dirty_page(page); });
        return os_error;
    }
    for (const uint64_t page : dirty_) {
        uint64_t word = page * kWordsPerPage;
        for (const uint64_t bits : words_of(page)) {
            map.set_stable_word(word++, bits);
        }
    }
    return 0;
}

/// Over the older copies: the newer ones stay whole whatever happens.
int LayerJournal::write_dirty_pages() {
    for (const uint64_t page : dirty_) {
        const PageState& state = pages_[page];
        const int os_error = write_page(page, 1 - state.newer, state.sequence + 1, words_of(page));
        if (os_error != 0) {
            return os_error;
        }
    }
    if (const int os_error = store_.sync(); os_error != 0) {
        sync_failed_ = true;
        return os_error;
    }
    for (const uint64_t page : dirty_) {
        PageState& state = pages_[page];
        state.newer = static_cast<uint8_t>(1 - state.newer);
        ++state.sequence;
        state.copies_differ = true;
    }
    return 0;
}

int LayerJournal::write_page(uint64_t page,
                             size_t copy,
                             uint64_t sequence,
                             std::span<const uint64_t, kWordsPerPage> words) {
    LayerPage content{.sequence = sequence, .layer_id = header_.layer_id, .index = page};
    std::ranges::copy(words, content.words.begin());
    return store_.write(geometry_.page_offset(page, copy), encode_page(content));
}

int LayerJournal::write_header(const LayerHeader& header) {
    LayerHeader next = header;
    next.generation = header_.generation + 1;
    const size_t older = 1 - newer_header_;
    const int os_error = store_.write(LayerGeometry::header_offset(older), encode_header(next));
    if (os_error == 0) {
        header_ = std::move(next);
        newer_header_ = older;
    }
    return os_error;
}

int LayerJournal::update_header(const LayerHeader& header) {
    if (sync_failed_) {
        return EIO;
    }
    // Both: the older copy must not bring back the former state when the newer one is damaged.
    int os_error = 0;
    for (size_t copy = 0; copy < kCopies && os_error == 0; ++copy) {
        os_error = write_header(header);
        if (os_error == 0) {
            os_error = store_.sync();
            sync_failed_ = os_error != 0;
        }
    }
    return os_error;
}

int LayerJournal::make_copies_alike() {
    for (uint64_t page = 0; page < pages_.size(); ++page) {
        PageState& state = pages_[page];
        if (!state.copies_differ || state.sequence == 0) {
            continue;
        }
        const int os_error = write_page(page, 1 - state.newer, state.sequence, words_of(page));
        if (os_error != 0) {
            return os_error;
        }
        state.copies_differ = false;
    }
    const int os_error = store_.sync();
    sync_failed_ = os_error != 0;
    return os_error;
}

int LayerJournal::close(ClusterMap& map) {
    int os_error = commit(map);
    if (os_error == 0 && header_.in_use) {
        os_error = make_copies_alike();
        if (os_error == 0) {
            LayerHeader closed = header_;
            closed.in_use = false;
            os_error = update_header(closed);
        }
    }
    return os_error;
}

int LayerJournal::clear() {
    const std::array<uint64_t, kWordsPerPage> none{};
    // First over the older copies, then over the others: one is whole at any time.
    for (size_t round = 0; round < kCopies; ++round) {
        for (uint64_t page = 0; page < pages_.size(); ++page) {
            PageState& state = pages_[page];
            state.newer = static_cast<uint8_t>(1 - state.newer);
            ++state.sequence;
            const int os_error = write_page(page, state.newer, state.sequence, none);
            if (os_error != 0) {
                return os_error;
            }
        }
        if (const int os_error = store_.sync(); os_error != 0) {
            sync_failed_ = true;
            return os_error;
        }
    }
    std::ranges::fill(words_, 0);
    return 0;
}

}  // namespace outrigger::blk
