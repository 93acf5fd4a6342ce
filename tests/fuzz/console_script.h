// SPDX-License-Identifier: Apache-2.0
/// The operations of a script for a console: its driver, the host's side of its ports, operators,
/// and who kills it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger::fuzz {

enum class ConsoleOp : uint8_t {
    kMessage,    ///< the driver says any bytes
    kEvent,      ///< ... or an event of a port that may be there
    kTake,       ///< it has a buffer for a message
    kHostOpen,   ///< somebody came, or the last one went
    kSize,       ///< a terminal has another size
    kPlug,       ///< an operator adds a port, or takes it away
    kNegotiate,  ///< with MULTIPORT or without
    kReset,
    kMove,        ///< its state goes to another process
    kKill,        ///< the next process goes on with its memory
    kOutput,      ///< the guest writes
    kInput,       ///< the host writes
    kReadInput,   ///< the guest reads
    kReadOutput,  ///< a viewer reads
    kHold,        ///< whoever the guest waits for has had something
    kDamage,      ///< the memory that the next process finds is changed; then it is killed
    kState,       ///< a state that anybody wrote
    kOptions,     ///< a --port that anybody wrote
    kCount,
};

inline constexpr size_t kConsolePorts = 3;

}  // namespace outrigger::fuzz
