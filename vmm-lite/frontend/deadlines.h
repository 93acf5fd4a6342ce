// SPDX-License-Identifier: Apache-2.0
/// How long a back end may take. A back end that takes longer counts as lost: nothing of the
/// machine ever waits for one without a limit.
#pragma once

#include <chrono>

namespace outrigger::vmm {

struct Deadlines {
    /// From a message sent to its reply, or to room for it in the socket.
    std::chrono::milliseconds message{5000};
    /// For GET_VRING_BASE: the back end finishes what it has taken first.
    std::chrono::milliseconds drain{30000};
    /// For a socket to be there and the negotiation to be over, when the machine starts.
    std::chrono::milliseconds start{10000};
    /// For the state of a device to pass through its pipe.
    std::chrono::milliseconds state{30000};
};

/// What is done about a back end that has gone: it is looked for again, each time after a longer
/// pause.
struct ReconnectPolicy {
    std::chrono::milliseconds first_pause{10};
    std::chrono::milliseconds longest_pause{1000};
    /// The device is given up when it was away so long, all times since it was stable together.
    std::chrono::milliseconds patience{60000};
    /// After so long without a loss, what was before is forgiven.
    std::chrono::milliseconds stable{5000};
};

}  // namespace outrigger::vmm
