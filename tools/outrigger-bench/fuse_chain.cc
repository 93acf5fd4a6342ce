// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/fuse_chain.h"

#include <unistd.h>

namespace outrigger::bench {

Result<FuseChain> FuseChain::create(driver::GuestMemory& memory, uint32_t data_bytes) {
    FuseChain chain;
    chain.user_ = ::geteuid();
    chain.group_ = ::getegid();
    chain.in_address_ = OUTRIGGER_TRY(memory.allocate(kArgumentBytes, kLineBytes));
    chain.out_address_ = OUTRIGGER_TRY(memory.allocate(kArgumentBytes, kLineBytes));
    chain.in_ = memory.data(chain.in_address_, kArgumentBytes);
    chain.out_ = memory.data(chain.out_address_, kArgumentBytes);
    if (data_bytes > 0) {
        chain.data_address_ = OUTRIGGER_TRY(memory.allocate(data_bytes, kPageBytes));
        chain.data_ = memory.data(chain.data_address_, data_bytes);
        std::memset(chain.data_, 'o', data_bytes);
    }
    return chain;
}

void FuseChain::put(driver::Segment segment) {
    OUTRIGGER_ASSERT(count_ < segments_.size());
    segments_[count_] = segment;
    ++count_;
}

void FuseChain::begin(uint32_t opcode, uint64_t node) {
    count_ = answers_ = 0;
    in_used_ = out_used_ = expected_data_ = 0;
    opcode_ = opcode;
    node_ = node;
    length_ = sizeof(fuse_in_header);
    put({.address = in_address_, .length = sizeof(fuse_in_header)});
}

void FuseChain::add_bytes(std::span<const std::byte> bytes, uint32_t zeroes) {
    const auto length = static_cast<uint32_t>(bytes.size()) + zeroes;
    const uint64_t offset = kLineBytes + in_used_;
    OUTRIGGER_ASSERT(offset + length <= kArgumentBytes);
    std::memcpy(in_ + offset, bytes.data(), bytes.size());
    std::memset(in_ + offset + bytes.size(), 0, zeroes);
    put({.address = driver::offset_by(in_address_, offset), .length = length});
    in_used_ += (length + 7) & ~7U;
    length_ += length;
}

void FuseChain::add_data(uint32_t length) {
    put({.address = data_address_, .length = length});
    length_ += length;
}

void FuseChain::expect_bytes(uint32_t length) {
    answer_offsets_[answers_] = out_used_;
    ++answers_;
    out_used_ += length;
}

void FuseChain::expect_data(uint32_t length) {
    expected_data_ = length;
}

std::span<const driver::Segment> FuseChain::finish(bool answered) {
    ++unique_;
    const fuse_in_header header{.len = length_,
                                .opcode = opcode_,
                                .unique = 2 * unique_,
                                .nodeid = node_,
                                .uid = user_,
                                .gid = group_,
                                .pid = 1,
                                .total_extlen = 0,
                                .padding = 0};
    std::memcpy(in_, &header, sizeof header);
    if (!answered) {
        return std::span(segments_).first(count_);
    }
    // What a back end does not write must not look like the last answer.
    std::memset(out_, 0xff, sizeof(fuse_out_header));
    put({.address = out_address_, .length = sizeof(fuse_out_header), .device_writable = true});
    for (size_t i = 0; i < answers_; ++i) {
        const uint32_t end = i + 1 < answers_ ? answer_offsets_[i + 1] : out_used_;
        put({.address = driver::offset_by(out_address_, kLineBytes + answer_offsets_[i]),
             .length = end - answer_offsets_[i],
             .device_writable = true});
    }
    if (expected_data_ > 0) {
        put({.address = data_address_, .length = expected_data_, .device_writable = true});
    }
    return std::span(segments_).first(count_);
}

int FuseChain::error(uint32_t length) const {
    fuse_out_header header;
    std::memcpy(&header, out_, sizeof header);
    if (length < sizeof header || header.len != length || header.unique != 2 * unique_ ||
        header.error > 0) {
        return -1;
    }
    // Nothing but data may be shorter than there is room for.
    const uint64_t least = sizeof header + (header.error == 0 ? out_used_ : 0);
    const uint64_t most = header.error == 0 ? least + expected_data_ : least;
    return length >= least && length <= most ? -header.error : -1;
}

}  // namespace outrigger::bench
