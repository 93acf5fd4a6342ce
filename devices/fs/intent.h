// SPDX-License-Identifier: Apache-2.0
/// What is noted of a request before it is carried out (DescriptorChain::note_intent()): when its
/// process is killed, the next one gets it again, and this tells it what has happened.
#pragma once

#include <cstdint>

namespace outrigger::fs {

/// Plain bytes. Which of the facts mean something depends on the operation.
struct Intent {
    /// Of the request, for as long as the guest is there: what tables say of who looked a file up
    /// and who opened one.
    uint64_t request = 0;
    uint32_t has_facts = 0;  ///< 0: the request was begun, and nothing else is said
    /// Nodes of a BATCH_FORGET. Of what makes a name, 1: nothing had it.
    uint32_t count = 0;
    uint64_t device = 0;  ///< of a file, with its number and when it was made
    uint64_t number = 0;
    int64_t seconds = 0;
    uint64_t nanoseconds = 0;
    uint64_t size = 0;  ///< of the file

    [[nodiscard]] bool is_of_same_file(const Intent& other) const {
        return device == other.device && number == other.number && seconds == other.seconds &&
               nanoseconds == other.nanoseconds;
    }
};

}  // namespace outrigger::fs
