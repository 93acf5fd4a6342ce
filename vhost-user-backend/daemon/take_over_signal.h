// SPDX-License-Identifier: Apache-2.0
/// What a program that wants to take over and a keeper say to each other: SIGUSR2, with a value.
#pragma once

namespace outrigger {

/// To the keeper: go on with the binary of the process that sent this ("ORtk").
inline constexpr int kTakeOverValue = 0x4f52'746b;

/// Its answer to that process.
inline constexpr int kTakenOver = 1;
inline constexpr int kNotTakenOver = 2;

}  // namespace outrigger
