// SPDX-License-Identifier: Apache-2.0
/// Nineteen ways in which back ends of this kind have lost data, or let guests do what they must
/// not. Each has tests here that fail in a back end which falls into it; a style test holds the
/// list and the tests together.
///
///  1  A flush has no data buffer, and is answered without a sync; a failed sync is forgotten.
///  2  Without a write-back cache, writes are answered before they are stable.
///  3  A transfer that the kernel cut short counts as done.
///  4  Requests reach beyond the end, where a file grows.
///  5  Direct I/O has an alignment, not always 512; changing part of a block loses a neighbour.
///  6  Sectors are 512 bytes, whatever the block size.
///  7  A discard takes flags, more than its range, or the end of the file with it.
///  8  What was zeroed does not read as zeroes, or holds up everybody else.
///  9  Header, data and status do not come in one buffer each.
/// 10  A chain loops, or its head comes twice; everybody else suffers.
/// 11  A chain that cannot be understood is answered with nothing, or never.
/// 12  The used length is not what was written.
/// 13  A read-only disk changes, or refuses to flush.
/// 14  More buffers or bytes than one system call takes.
/// 15  The host says "again", and the guest gets an error; a full disk says nothing.
/// 16  A completion is visible before what it stands for.
/// 17  Kicks are lost where the index wraps.
/// 18  Statuses are mixed up.
/// 19  Guest memory is given up while requests still use it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include "tests/integration/blk_test.h"
#include "tests/support/faulty_image.h"

namespace outrigger::testing {

using driver::Segment;

class BlkTraps : public BlkTest {
  protected:
    void TearDown() override {
        // Before the host that their requests ask.
        frontend_.reset();
        host_.reset();
        device_.reset();
    }

    [[nodiscard]] std::unique_ptr<Image> make_image(std::unique_ptr<ImageFile> file) override {
        file_ = file.get();
        if (discard_alignment_bytes_) {
            file->properties.discard_alignment_bytes = *discard_alignment_bytes_;
        }
        return std::make_unique<FaultyImage>(std::move(file), fault_);
    }

    int write(uint64_t sector, std::span<const std::byte> bytes, size_t queue_index = 0) {
        return status_of_request({header(VIRTIO_BLK_T_OUT, sector), readable(bytes), writable(1)},
                                 queue_index);
    }

    int write(uint64_t sector, size_t size, int value, size_t queue_index = 0) {
        return write(
            sector, std::vector<std::byte>(size, static_cast<std::byte>(value)), queue_index);
    }

    /// A read's status, and what it put where.
    int read(uint64_t sector, uint32_t size, std::vector<std::byte>& bytes) {
        const Segment target = writable(size);
        const int status =
            status_of_request({header(VIRTIO_BLK_T_IN, sector), target, writable(1)});
        bytes = bytes_of(target);
        return status;
    }

    int flush() { return status_of_request({header(VIRTIO_BLK_T_FLUSH, 0), writable(1)}); }

    /// Makes a request available without waiting for its answer; the segment of its status.
    Segment begin(std::vector<Segment> segments, size_t queue_index = 0) {
        segments.push_back(writable(1));
        EXPECT_TRUE(queue(queue_index).try_add(segments, 0));
        queue(queue_index).publish_and_kick();
        return segments.back();
    }

    /// Waits for so many answers.
    [[nodiscard]] bool wait_answers(size_t count, size_t queue_index = 0) {
        for (size_t done = 0; done < count;) {
            if (queue(queue_index).poll_used()) {
                ++done;
            } else if (queue(queue_index).wait_used(driver::after(kPatience)) !=
                       driver::WaitResult::kUsed) {
                return false;
            }
        }
        return true;
    }

    [[nodiscard]] int status_in(const Segment& segment) const {
        return std::to_integer<int>(bytes_of(segment).back());
    }

    static std::vector<std::byte> bytes(size_t size, int value) {
        return std::vector<std::byte>(size, static_cast<std::byte>(value));
    }

    FaultyHost fault_;
    const ImageFile* file_ = nullptr;                  ///< the device's
    std::optional<uint32_t> discard_alignment_bytes_;  ///< in place of the host's, before run()
};

}  // namespace outrigger::testing
