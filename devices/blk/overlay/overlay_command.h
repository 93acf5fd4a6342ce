// SPDX-License-Identifier: Apache-2.0
/// What can be done with a layer that no daemon has open: outrigger-blk overlay COMMAND LAYER.
#pragma once

#include <span>
#include <string>

#include "vhost-user-backend/base/result.h"

namespace outrigger::blk {

struct LayerCommand {
    std::string layer{};
    std::string base{};        ///< of commit; empty: the one that the layer names
    bool accept_base = false;  ///< of commit: also one that is not as it was
    bool lock = true;
};

/// Each returns what is to be printed.

/// What the layer is and how full. Writes nothing.
[[nodiscard]] Result<std::string> describe_layer(const LayerCommand& command);

/// Is the layer whole? Writes nothing. An error names what is damaged.
[[nodiscard]] Result<std::string> check_layer(const LayerCommand& command);

/// Writes what the layer holds to its base, and empties it. May be interrupted at any moment: run
/// it again, and it goes on.
[[nodiscard]] Result<std::string> commit_layer(const LayerCommand& command);

/// Empties the layer: the disk is its base again.
[[nodiscard]] Result<std::string> discard_layer(const LayerCommand& command);

/// `arguments` are those behind "overlay". Returns the exit status: 0; 1 when something failed or
/// is damaged; 2 for a wrong command line.
[[nodiscard]] int run_overlay_command(std::span<char* const> arguments);

}  // namespace outrigger::blk
