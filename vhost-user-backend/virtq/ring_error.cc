// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/ring_error.h"

namespace outrigger {

std::string_view describe(RingError error) {
    switch (error) {
        case RingError::kAvailableIndexJump:
            return "the driver made more chains available than the ring holds";
        case RingError::kHeadOutOfRange:
            return "a head lies outside the descriptor table";
        case RingError::kHeadInFlight:
            return "a head or buffer id was made available again before it was used";
        case RingError::kNextOutOfRange:
            return "a descriptor's next field lies outside its table";
        case RingError::kChainTooLong:
            return "a chain loops or has too many descriptors or pieces";
        case RingError::kIndirectNotNegotiated:
            return "an indirect descriptor without VIRTIO_F_INDIRECT_DESC";
        case RingError::kIndirectNested:
            return "an indirect descriptor inside an indirect table";
        case RingError::kIndirectWithNext:
            return "a descriptor has both INDIRECT and NEXT set";
        case RingError::kIndirectLength:
            return "an indirect table is empty or no multiple of 16 bytes long";
        case RingError::kIndirectTooLong:
            return "an indirect table has too many entries";
        case RingError::kIndirectUnmapped:
            return "an indirect table does not lie in one region of guest memory";
        case RingError::kReadableAfterWritable:
            return "a device-readable buffer follows a device-writable one";
        case RingError::kBufferUnmapped:
            return "a buffer lies outside guest memory";
        case RingError::kBufferWraps:
            return "a buffer's address and length add up beyond 2^64";
        case RingError::kChainBytesTooMany:
            return "a chain holds 4 GiB or more in one direction";
        case RingError::kDevice:
            return "the device cannot answer a request";
        case RingError::kKickBroken:
            return "the kick descriptor cannot be read";
        case RingError::kMemoryLost:
            return "guest memory is gone: its file was truncated, or the host has no pages for it";
        case RingError::kRingUnmapped:
            return "the IOMMU gives no usable memory for the ring itself";
        case RingError::kDirtyLog:
            return "the front end's dirty log is too small for a page that was written, or gone";
        case RingError::kInflightLog:
            return "the in-flight buffer does not hold a log of this ring";
    }
    return "unknown ring error";
}

}  // namespace outrigger
