// SPDX-License-Identifier: Apache-2.0
// A guest that nobody of ours wrote: libblkio's virtio-blk-vhost-user driver. Fills a disk through
// all queues, many requests at a time, zeroes and discards some of it, reads everything back with
// other requests than it was written with, and leaves what the disk must hold in a file.
//   client SOCKET FILE QUEUES eventfd|spin SEED
#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <blkio.h>
#include <signal.h>
#include <time.h>

namespace {

constexpr uint64_t kSlotBytes = 65536;
constexpr size_t kSlotsPerQueue = 32;

[[noreturn]] [[gnu::format(printf, 1, 2)]] void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::fputs("client: ", stderr);
    std::vfprintf(stderr, format, arguments);
    std::fputc('\n', stderr);
    va_end(arguments);
    std::exit(1);
}

void check(int result, const char* what) {
    if (result != 0) {
        fail("%s: %s: %s", what, std::strerror(-result), blkio_get_error_msg());
    }
}

enum class Kind : uint8_t { kRead, kWrite, kWriteVector, kZero, kZeroKeep, kDiscard, kFlush };

struct Piece {
    Kind kind = Kind::kRead;
    uint64_t offset = 0;
    uint64_t length = 0;
};

class Disk final {
  public:
    Disk(const char* socket, int queue_count, bool spin) : spin_(spin) {
        check(blkio_create("virtio-blk-vhost-user", &blkio_), "create");
        check(blkio_set_str(blkio_, "path", socket), "path");
        check(blkio_connect(blkio_), "connect");
        check(blkio_get_uint64(blkio_, "capacity", &capacity_), "capacity");
        int alignment = 0;
        check(blkio_get_int(blkio_, "request-alignment", &alignment), "request-alignment");
        block_ = static_cast<uint64_t>(alignment);
        check(blkio_set_int(blkio_, "num-queues", spin ? 0 : queue_count), "num-queues");
        check(blkio_set_int(blkio_, "num-poll-queues", spin ? queue_count : 0), "num-poll-queues");
        check(blkio_start(blkio_), "start");
        const size_t slots = kSlotsPerQueue * static_cast<size_t>(queue_count);
        check(blkio_alloc_mem_region(blkio_, &memory_, slots * kSlotBytes), "memory");
        check(blkio_map_mem_region(blkio_, &memory_), "map");
        for (int i = 0; i < queue_count; ++i) {
            queues_.push_back(spin ? blkio_get_poll_queue(blkio_, i) : blkio_get_queue(blkio_, i));
        }
        content_.resize(capacity_);
        under_way_.resize(slots);
    }

    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;

    ~Disk() {
        blkio_unmap_mem_region(blkio_, &memory_);
        blkio_free_mem_region(blkio_, &memory_);
        blkio_destroy(&blkio_);
    }

    /// Does all of it, as deep as the queues are, and waits. No two pieces may overlap.
    void run(std::span<const Piece> pieces) {
        std::vector<std::vector<Piece>> shares(queues_.size());
        for (size_t i = 0; i < pieces.size(); ++i) {
            shares[i % shares.size()].push_back(pieces[i]);
        }
        std::vector<size_t> next(queues_.size());
        std::vector<std::vector<size_t>> free(queues_.size());
        for (size_t slot = 0; slot < under_way_.size(); ++slot) {
            free[slot / kSlotsPerQueue].push_back(slot);
        }
        // All queues have requests out before the first is waited for.
        for (size_t done = 0; done < pieces.size();) {
            for (size_t q = 0; q < queues_.size(); ++q) {
                while (next[q] < shares[q].size() && !free[q].empty()) {
                    submit(q, free[q].back(), shares[q][next[q]++]);
                    free[q].pop_back();
                }
                blkioq_do_io(queues_[q], nullptr, 0, 0, nullptr);
            }
            for (size_t q = 0; q < queues_.size(); ++q) {
                if (free[q].size() < kSlotsPerQueue) {
                    done += collect(q, free[q]);
                }
            }
        }
    }

    [[nodiscard]] uint64_t capacity() const { return capacity_; }

    [[nodiscard]] uint64_t block() const { return block_; }

    [[nodiscard]] std::vector<unsigned char>& content() { return content_; }

  private:
    [[nodiscard]] unsigned char* buffer(size_t slot) const {
        return static_cast<unsigned char*>(memory_.addr) + slot * kSlotBytes;
    }

    void submit(size_t q, size_t slot, const Piece& piece) {
        under_way_[slot] = piece;
        unsigned char* const data = buffer(slot);
        void* const token = &under_way_[slot];
        blkioq* const queue = queues_[q];
        switch (piece.kind) {
            case Kind::kRead:
                std::memset(data, 0xdb, piece.length);
                blkioq_read(queue, piece.offset, data, piece.length, token, 0);
                return;
            case Kind::kWrite:
                std::memcpy(data, content_.data() + piece.offset, piece.length);
                blkioq_write(queue, piece.offset, data, piece.length, token, 0);
                return;
            case Kind::kWriteVector: {
                // Three parts, of which the middle one is short and begins anywhere.
                std::memcpy(data, content_.data() + piece.offset, piece.length);
                std::array<iovec, 3>& parts = vectors_[slot];
                parts = {{{data, piece.length / 2 - 7},
                          {data + piece.length / 2 - 7, 13},
                          {data + piece.length / 2 + 6, piece.length - piece.length / 2 - 6}}};
                blkioq_writev(queue, piece.offset, parts.data(), 3, token, 0);
                return;
            }
            case Kind::kZero:
            case Kind::kZeroKeep:
                blkioq_write_zeroes(queue,
                                    piece.offset,
                                    piece.length,
                                    token,
                                    piece.kind == Kind::kZeroKeep ? BLKIO_REQ_NO_UNMAP : 0);
                return;
            case Kind::kDiscard:
                blkioq_discard(queue, piece.offset, piece.length, token, 0);
                return;
            case Kind::kFlush:
                blkioq_flush(queue, token, 0);
                return;
        }
    }

    size_t collect(size_t q, std::vector<size_t>& free) {
        std::array<blkio_completion, kSlotsPerQueue> completions{};
        timespec patience{.tv_sec = 60, .tv_nsec = 0};
        // Poll queues have no timeout and no sleep.
        const int count = blkioq_do_io(queues_[q],
                                       completions.data(),
                                       spin_ ? 0 : 1,
                                       static_cast<int>(completions.size()),
                                       spin_ ? nullptr : &patience);
        if (count < 0) {
            fail("waiting: %s", std::strerror(-count));
        }
        for (int i = 0; i < count; ++i) {
            const blkio_completion& completion = completions[static_cast<size_t>(i)];
            const auto* const piece = static_cast<const Piece*>(completion.user_data);
            const auto slot = static_cast<size_t>(piece - under_way_.data());
            if (completion.ret != 0) {
                fail("request %d at %llu: %s",
                     static_cast<int>(piece->kind),
                     static_cast<unsigned long long>(piece->offset),
                     std::strerror(-completion.ret));
            }
            if (piece->kind == Kind::kRead &&
                std::memcmp(buffer(slot), content_.data() + piece->offset, piece->length) != 0) {
                fail("what was read at %llu is not what was written",
                     static_cast<unsigned long long>(piece->offset));
            }
            free.push_back(slot);
        }
        return static_cast<size_t>(count);
    }

    blkio* blkio_ = nullptr;
    const bool spin_;
    uint64_t capacity_ = 0;
    uint64_t block_ = 0;
    blkio_mem_region memory_{};
    std::vector<blkioq*> queues_;
    std::vector<unsigned char> content_;  ///< what the disk must hold
    std::vector<Piece> under_way_;        // by slot
    std::array<std::array<iovec, 3>, 16 * kSlotsPerQueue> vectors_{};
};

/// The disk in pieces of whole blocks, at most `length_max` long, in any order.
std::vector<Piece> cut_up(const Disk& disk,
                          Kind kind,
                          uint64_t length_max,
                          std::mt19937_64& random) {
    std::vector<Piece> pieces;
    const uint64_t blocks_max = length_max / disk.block();
    for (uint64_t offset = 0; offset < disk.capacity();) {
        const uint64_t length =
            std::min((1 + random() % blocks_max) * disk.block(), disk.capacity() - offset);
        pieces.push_back({.kind = kind, .offset = offset, .length = length});
        offset += length;
    }
    std::ranges::shuffle(pieces, random);
    return pieces;
}

void fill(Disk& disk, std::mt19937_64& random) {
    std::vector<unsigned char>& content = disk.content();
    for (uint64_t i = 0; i + 8 <= content.size(); i += 8) {
        const uint64_t value = random();
        std::memcpy(content.data() + i, &value, sizeof value);
    }
    std::vector<Piece> pieces = cut_up(disk, Kind::kWrite, kSlotBytes, random);
    for (Piece& piece : pieces) {
        piece.kind = random() % 3 == 0 ? Kind::kWriteVector : Kind::kWrite;
    }
    disk.run(pieces);
}

/// A tenth of the disk becomes zeroes, a tenth is discarded and written again.
void change(Disk& disk, std::mt19937_64& random) {
    std::vector<Piece> pieces = cut_up(disk, Kind::kZero, 4 * kSlotBytes, random);
    const auto tenth = static_cast<std::ptrdiff_t>(pieces.size() / 10);
    std::vector<Piece> zeroes(pieces.begin(), pieces.begin() + tenth);
    for (Piece& piece : zeroes) {
        piece.kind = random() % 2 == 0 ? Kind::kZero : Kind::kZeroKeep;
        std::memset(disk.content().data() + piece.offset, 0, piece.length);
    }
    disk.run(zeroes);
    std::vector<Piece> writes;
    std::vector<Piece> discards(pieces.begin() + tenth, pieces.begin() + 2 * tenth);
    for (Piece& piece : discards) {
        piece.kind = Kind::kDiscard;
        for (uint64_t at = 0; at < piece.length; at += kSlotBytes) {
            writes.push_back({.kind = Kind::kWrite,
                              .offset = piece.offset + at,
                              .length = std::min(kSlotBytes, piece.length - at)});
        }
    }
    disk.run(discards);
    disk.run(writes);
}

void save(const std::vector<unsigned char>& content, const char* path) {
    std::FILE* const file = std::fopen(path, "wb");
    if (file == nullptr || std::fwrite(content.data(), 1, content.size(), file) != content.size() ||
        std::fclose(file) != 0) {
        fail("cannot write %s", path);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 6) {
        fail("usage: client SOCKET FILE QUEUES eventfd|spin SEED");
    }
    const int queue_count = std::clamp(std::atoi(argv[3]), 1, 16);
    std::mt19937_64 random(std::strtoull(argv[5], nullptr, 10));
    Disk disk(argv[1], queue_count, std::string_view(argv[4]) == "spin");
    const std::array flush{Piece{.kind = Kind::kFlush}};
    fill(disk, random);
    disk.run(flush);
    disk.run(cut_up(disk, Kind::kRead, kSlotBytes, random));
    change(disk, random);
    disk.run(flush);
    disk.run(cut_up(disk, Kind::kRead, kSlotBytes / 4, random));
    save(disk.content(), argv[2]);
    std::printf("%llu bytes in blocks of %llu\n",
                static_cast<unsigned long long>(disk.capacity()),
                static_cast<unsigned long long>(disk.block()));
    return 0;
}
