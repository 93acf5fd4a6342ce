// SPDX-License-Identifier: Apache-2.0
/// What every fuzz target is for its runners, libFuzzer and the replay program.
#pragma once

#include <cstddef>
#include <cstdint>

/// Runs one script. Aborts when a promise of the code under test is broken; returns 0.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
