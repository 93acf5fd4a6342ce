// SPDX-License-Identifier: Apache-2.0
/// The terminal of a guest with --serial=stdio: keys go to the guest as they are typed, and the
/// terminal is as before on every way out of this program, crashes included.
#pragma once

namespace outrigger::vmm {

class RawTerminal final {
  public:
    /// Nothing happens when standard input is no terminal.
    RawTerminal();
    ~RawTerminal();
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
};

}  // namespace outrigger::vmm
