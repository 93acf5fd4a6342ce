// SPDX-License-Identifier: Apache-2.0
/// An open file that every io_uring of this process holds, whoever else does, from its making until
/// the last of its operations has ended. The kernel tears a ring down behind the end of its
/// process, and what was handed to a disk is still written then: whoever sees the file's last
/// holder go knows that nothing is.
#pragma once

namespace outrigger {

/// Of rings that are made from now on; -1: none. Borrowed, for as long as rings are made. Any
/// thread, before the first one.
void set_uring_witness(int fd);

[[nodiscard]] int uring_witness();

}  // namespace outrigger
