// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/reply_writer.h"

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/prefetch.h"

namespace outrigger::fs {
namespace {

/// Of most answers all there is, and of the others the front.
constexpr size_t kPrefetchedBytesMax = 3 * kCacheLineBytes;

}  // namespace

bool ReplyWriter::begin(DescriptorChain& chain, uint64_t unique) {
    unique_ = unique;
    payload_bytes_ = 0;
    taken_bytes_ = 0;
    header_pieces_ = 0;
    next_ = 0;
    payload_.clear();
    const uint64_t writable = chain.writable_bytes();
    if (writable < sizeof(fuse_out_header)) {
        return false;
    }
    room_ = writable - sizeof(fuse_out_header);
    size_t missing = sizeof(fuse_out_header);
    ChainWriter writer = chain.take_writer();
    for (iovec piece : writer.take_iovecs()) {
        if (missing > 0) {
            const size_t taken = std::min(missing, piece.iov_len);
            header_[header_pieces_++] = {.iov_base = piece.iov_base, .iov_len = taken};
            missing -= taken;
            piece.iov_base = static_cast<std::byte*>(piece.iov_base) + taken;
            piece.iov_len -= taken;
            if (piece.iov_len == 0) {
                continue;
            }
        }
        payload_.push_back(piece);
    }
    prefetch();
    return true;
}

/// The lines are on their way while the request is carried out.
void ReplyWriter::prefetch() const {
    prefetch_to_write(header_.front().iov_base);
    if (payload_.empty()) {
        return;
    }
    const iovec& front = payload_.front();
    const size_t bytes = std::min(front.iov_len, kPrefetchedBytesMax);
    for (size_t at = 0; at < bytes; at += kCacheLineBytes) {
        prefetch_to_write(static_cast<const std::byte*>(front.iov_base) + at);
    }
}

bool ReplyWriter::append(std::span<const std::byte> bytes) {
    if (bytes.size() > room_) {
        return false;
    }
    while (!bytes.empty()) {
        const iovec& piece = payload_[next_];
        const size_t count = std::min(bytes.size(), piece.iov_len);
        std::memcpy(piece.iov_base, bytes.data(), count);
        take_from_front(count);
        bytes = bytes.subspan(count);
    }
    return true;
}

std::span<iovec> ReplyWriter::iovecs(uint64_t bytes) {
    OUTRIGGER_ASSERT(bytes <= room_);
    size_t end = next_;
    while (bytes > 0) {
        iovec& piece = payload_[end++];
        if (piece.iov_len > bytes) {
            piece.iov_len = bytes;
        }
        bytes -= piece.iov_len;
    }
    return std::span(payload_).subspan(next_, end - next_);
}

uint32_t ReplyWriter::finish_with_error(int error) {
    write_header(-error, sizeof(fuse_out_header));
    return sizeof(fuse_out_header);
}

uint32_t ReplyWriter::finish() {
    // Chains hold less than 4 GiB.
    const auto length = static_cast<uint32_t>(sizeof(fuse_out_header) + payload_bytes_);
    write_header(0, length);
    return length;
}

void ReplyWriter::write_header(int32_t error, uint32_t length) {
    const fuse_out_header header{.len = length, .error = error, .unique = unique_};
    if (header_pieces_ == 1) [[likely]] {
        std::memcpy(header_.front().iov_base, &header, sizeof header);
        return;
    }
    auto rest = std::as_bytes(std::span(&header, 1));
    for (const iovec& piece : std::span(header_).first(header_pieces_)) {
        std::memcpy(piece.iov_base, rest.data(), piece.iov_len);
        rest = rest.subspan(piece.iov_len);
    }
}

}  // namespace outrigger::fs
